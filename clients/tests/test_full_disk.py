"""A full volume: refused before an acknowledgement, nothing lost, taken again with room."""

import contextlib
import os
import subprocess

import numpy
import pyarrow as pa
import pytest
from harness import Trailers, put, retry_delay, running, select, wait_until

VOLUME_BYTES = 48 << 20
ROWS = 512
ROW_BYTES = 1024
# Lines of a server that has no room.
ANNOUNCED = "no space|room|refusing writes|flush failed|can't flush|full|retrying to drain|truncate"

# Root without what else this needs fails: nobody would notice that it was left out.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a volume of its own needs root")


@contextlib.contextmanager
def small_volume(server):
    """Gives the server a small volume for its data, in a mount namespace that ends with the test.

    Yields the data directory as this process sees it.
    """
    server.data.mkdir()
    script = 'mount -t tmpfs -o "size=$0" none "$1" && echo mounted && exec sleep 600'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    keeper = subprocess.Popen([*words, str(VOLUME_BYTES), server.data], stdout=subprocess.PIPE)
    try:
        assert keeper.stdout.readline() == b"mounted\n"
        server.prefix = ["nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt"]
        root = f"/proc/{keeper.pid}/root"
        yield server.folder.__class__(root + str(server.data.absolute()))
    finally:
        keeper.kill()
        keeper.wait()


def batch(number):
    """Rows that can't be compressed, half a MiB."""
    values = numpy.random.default_rng(number)
    ids = numpy.arange(number * ROWS, (number + 1) * ROWS)
    noise = [values.bytes(ROW_BYTES) for _ in ids]
    return pa.record_batch({"id": ids, "noise": pa.array(noise, pa.binary())})


def ids(client):
    return select(client, "d", "SELECT id FROM t ORDER BY id").column("id").to_pylist()


def write(client, number):
    """Whether a batch was acknowledged; a refusal must be one for want of room."""
    try:
        put(client, "d", "t", [batch(number)])
    except pa.ArrowException as error:  # what pyarrow makes of RESOURCE_EXHAUSTED
        text = str(error)
        assert "no space left for the write-ahead log" in text or "ingest.wal_bytes" in text, text
        return False
    return True


def test_a_log_past_its_budget_refuses_and_recovers_by_flushing(new_server):
    server = new_server({"ingest": {"wal_bytes": "4MiB", "flush_interval": "1h"}})
    server.expect_log(ANNOUNCED)
    trailers = Trailers()
    with small_volume(server), running(server), server.client(middleware=[trailers]) as client:
        refusals = 0
        for number in range(24):
            while not write(client, number):
                refusals += 1
                assert trailers.last["x-fc-code"] == "DISK_FULL"
                assert retry_delay(trailers) == 1
                assert server.metric("wal_size_bytes") <= 5 << 20
                wait_until(
                    lambda: server.metric("wal_size_bytes") < 1 << 20, "a flush made room", 20
                )
        assert refusals > 0
        assert server.metric("wal_limit_bytes") == 4 << 20
        assert ids(client) == list(range(24 * ROWS))


def test_a_full_volume_loses_no_acknowledged_row_through_kill_9_and_works_again(new_server):
    server = new_server({"ingest": {"flush_interval": "1h", "wal_bytes": "40MiB"}})
    server.expect_log(ANNOUNCED)
    with small_volume(server) as data:
        with running(server), server.client() as client:
            put(client, "d", "t", [batch(0)])
            # Somebody else takes the volume: a flush of what fits the log does not fit beside it.
            free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
            (data / "ballast").write_bytes(bytes(free - (12 << 20)))
            acknowledged = 1
            while write(client, acknowledged):
                acknowledged += 1
                assert acknowledged < 30, "the volume never got full"
            assert acknowledged > 4
            assert not write(client, acknowledged), "there is still no room"
            assert server.admin("/live")[0] == 200
            server.kill()
        with running(server), server.client() as client:
            assert ids(client) == list(range(acknowledged * ROWS))
            (data / "ballast").unlink()
            wait_until(lambda: write(client, acknowledged), "writes are taken again", 40, 0.5)
            assert ids(client) == list(range((acknowledged + 1) * ROWS))


def test_an_outage_of_the_store_is_ridden_out_for_as_long_as_the_log_has_room(new_server):
    small = {"buffer_bytes": "8MiB", "flush_bytes": "2MiB", "flush_interval": "1s"}
    settings = {"ingest": {**small, "wal_bytes": "40MiB"}, "server": {"max_message_bytes": "2MiB"}}
    server = new_server(settings)
    server.expect_log(ANNOUNCED)
    trailers = Trailers()
    with running(server), server.client(middleware=[trailers]) as client:
        assert write(client, 0)
        wait_until(
            lambda: server.metric("ingest_buffer_rows") == 0, "the first row is in a file", 20
        )
        [store] = server.data.glob("objects")
        away = store.with_name("away")
        store.rename(away)
        store.touch()
        number = 1
        while write(client, number):
            number += 1
        assert trailers.last["x-fc-code"] == "DISK_FULL"
        # Far more than the buffer: what a batch takes is half a MiB.
        assert number > 60
        wait_until(
            lambda: server.metric("ingest_spilled_bytes") > 20 << 20,
            "the figures are looked up",
            20,
        )
        assert server.metric("ingest_buffer_bytes") <= 8 << 20
        store.unlink()
        away.rename(store)
        assert ids(client) == list(range(number * ROWS))
        wait_until(lambda: server.metric("ingest_buffer_rows") == 0, "all rows are in files", 60)
        wait_until(lambda: server.metric("ingest_spilled_bytes") == 0, "no row is spilled", 20)
        assert write(client, number)
        assert ids(client) == list(range((number + 1) * ROWS))
