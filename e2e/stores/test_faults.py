"""The binary with a store that fails and one that is away: no row is lost, and none is doubled."""

import contextlib

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Server, put, running, wait_until
from kinds import settings
from proxy import FAULTS
from table import DATABASE, batch, everything, in_files

# Every one of these is tried again.
TROUBLE = "|".join(
    ["object store", "S3 error", "can't store", "can't flush", "job of upkeep failed"]
    + ["can't compact table", "can't end expired files", "can't check table"]
)


def test_a_store_that_fails_in_every_way_costs_no_row(tmp_path, store, proxy):
    """Throttling, 5xx, time-outs, and connections that end in the middle of a body."""
    config = settings(store, tmp_path, f"http://127.0.0.1:{proxy.port}")
    # Queries of few files, and more kinds of requests.
    config["upkeep"] |= {"compaction_min_files": 3, "gc_grace": "1s"}
    server = Server(tmp_path / "server", config)
    server.expect_log(TROUBLE)
    with running(server), server.client() as client:
        proxy.fail(seed=1, share=0.3)
        sent = 0

        def every_fault_happened():
            nonlocal sent
            put(client, DATABASE, "t", [batch(sent)])
            sent += 500
            # A query may need a file that can't be read now; a wrong answer it may not give.
            with contextlib.suppress(flight.FlightUnavailableError):
                assert everything(client) == list(range(sent))
            return all(proxy.done[fault] >= 3 for fault in FAULTS)

        wait_until(every_fault_happened, f"every fault happened: {proxy.done}", seconds=120)
        proxy.heal()
        assert everything(client) == list(range(sent))
        wait_until(lambda: in_files(client) == sent, "all rows are in files", seconds=60)
        server.kill()
        server.start()
        with server.client() as again:
            assert everything(again) == list(range(sent))


SMALL_LOG = {"wal_bytes": "1MiB"}
SMALL_MEMORY = {"buffer_bytes": "1MiB", "wal_bytes": "8MiB"}


# Connections end or nothing comes, whatever is spoken on them: not each over each kind.
@pytest.mark.parametrize(
    ("kind", "outage", "limits", "log_mebibytes"),
    [
        ("s3", "reset", SMALL_LOG, 1),
        ("gcs", "reset", SMALL_LOG, 1),
        ("s3", "reset", SMALL_MEMORY, 8),
        ("gcs", "stalled", SMALL_MEMORY, 8),
    ],
    ids=["disk-s3", "disk-gcs", "more than memory", "hangs"],
)
def test_an_outage_is_ridden_out_and_writes_are_refused_before_room_ends(
    tmp_path, store, proxy, outage, limits, log_mebibytes
):
    """Issue section 5: the log grows to its budget, then writes are refused, then all goes on."""
    config = settings(store, tmp_path, f"http://127.0.0.1:{proxy.port}")
    config["server"] = {"max_message_bytes": "1MiB"}
    config["ingest"] |= {"flush_bytes": "256KiB", **limits}
    server = Server(tmp_path / "server", config)
    server.expect_log(f"{TROUBLE}|refusing writes")
    with running(server), server.client() as client:
        put(client, DATABASE, "t", [batch(0)])
        wait_until(lambda: in_files(client) == 500, "the first rows are in a file")
        proxy.outage = outage
        sent = 500
        with pytest.raises(pa.ArrowException) as refused:
            while sent < 1_000_000:
                put(client, DATABASE, "t", [batch(sent)])
                sent += 500
        assert "DISK_FULL" in str(refused.value)
        assert sent > 500, "nothing was taken while the store was away"
        used = server.metric("wal_size_bytes")
        assert (log_mebibytes - 1) << 20 <= used < (log_mebibytes + 1) << 20
        # What was written before is in the bucket, so that the answer has to say what is missing.
        with pytest.raises(flight.FlightUnavailableError, match="STORE_UNAVAILABLE"):
            everything(client)
        proxy.heal()

        def accepted():
            with contextlib.suppress(pa.ArrowException):
                return put(client, DATABASE, "t", [batch(sent)])

        wait_until(accepted, "writes are accepted again", seconds=60)
        assert everything(client) == list(range(sent + 500))
        wait_until(lambda: in_files(client) == sent + 500, "all rows are in files", seconds=60)
