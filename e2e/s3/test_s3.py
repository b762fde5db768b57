"""The binary with a real S3 server: a store that fails, one that is away, and wrong settings."""

import contextlib
import os
import pathlib
import sys

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from store import ACCESS_KEY, FAULTS, REGION, SECRET_KEY, Proxy
from store import Server as S3

sys.path.append(str(pathlib.Path(__file__).parents[2] / "clients" / "tests"))

from certificates import Authority
from harness import Server, put, running, select, wait_until

VERSITYGW = os.environ.get("VERSITYGW", "versitygw")
BUCKET = "rows"
DATABASE = "d"
ROWS = pa.schema([("n", pa.int64()), ("text", pa.string())])


@pytest.fixture
def s3(tmp_path):
    """An S3 server with one bucket."""
    with serving(tmp_path / "s3") as server:
        yield server


@contextlib.contextmanager
def serving(folder, leaf=None):
    server = S3(VERSITYGW, folder, leaf)
    (server.buckets / BUCKET).mkdir()
    try:
        server.start()
        wait_until(server.is_up, "the S3 server accepts connections")
        yield server
    finally:
        server.stop()


@pytest.fixture
def proxy(s3):
    """The way to the S3 server."""
    proxy = Proxy(s3.port)
    try:
        yield proxy
    finally:
        proxy.stop()


def settings(folder, endpoint, secret=SECRET_KEY, **more):
    """Configuration of a server whose files are in the bucket."""
    folder.mkdir(exist_ok=True)
    for name, value in (("id", ACCESS_KEY), ("secret", secret)):
        (folder / name).write_text(value + "\n")
    object_store = {
        "kind": "s3",
        "bucket": BUCKET,
        "region": REGION,
        "endpoint": endpoint,
        "allow_http": True,
        "path_style": True,
        "access_key_id_file": str(folder / "id"),
        "secret_access_key_file": str(folder / "secret"),
        # A stalled request is given up soon.
        "request_timeout": "1s",
    }
    return {
        "storage": {"object_store": object_store | more},
        "ingest": {"flush_interval": "200ms", "flushed_grace": "100ms"},
        "upkeep": {"interval": "200ms", "gc_grace": "5s"},
        # Only what is in the bucket is looked at, not what was kept of it.
        "query": {"cache_memory_bytes": "0B", "cache_disk_bytes": "0B"},
    }


def batch(first, rows=500):
    numbers = range(first, first + rows)
    columns = [pa.array(numbers, pa.int64()), pa.array([f"row {n:>16}" for n in numbers])]
    return pa.record_batch(columns, schema=ROWS)


def everything(client):
    return select(client, DATABASE, "SELECT n FROM t ORDER BY n")["n"].to_pylist()


def test_a_store_that_fails_in_every_way_costs_no_row(tmp_path, s3, proxy):
    """Throttling, 5xx, time-outs, and connections that end in the middle of a body."""
    server = Server(tmp_path / "server", settings(tmp_path, f"http://127.0.0.1:{proxy.port}"))
    server.expect_log("object store|can't store|can't flush|S3 error")
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


def in_files(client):
    """Rows of live files: those that no log is needed for any more."""
    files = "SELECT sum(rows) AS rows FROM system.files WHERE table_name = 't'"
    return select(client, DATABASE, files)["rows"][0].as_py()


@pytest.mark.parametrize(
    ("limit", "refusal"),
    [("buffer_bytes", "OVERLOADED"), ("wal_bytes", "DISK_FULL")],
    ids=["memory", "disk"],
)
def test_an_outage_is_ridden_out_and_writes_are_refused_before_room_ends(
    tmp_path, s3, proxy, limit, refusal
):
    """Issue section 5: the log grows to its budget, then writes are refused, then all goes on."""
    config = settings(tmp_path, f"http://127.0.0.1:{proxy.port}")
    config["server"] = {"max_message_bytes": "1MiB"}
    config["ingest"] |= {"flush_bytes": "256KiB", limit: "1MiB"}
    server = Server(tmp_path / "server", config)
    server.expect_log("object store|can't store|can't flush|S3 error|refusing writes")
    with running(server), server.client() as client:
        put(client, DATABASE, "t", [batch(0)])
        wait_until(lambda: in_files(client) == 500, "the first rows are in a file")
        proxy.is_down = True
        sent = 500
        with pytest.raises(pa.ArrowException) as refused:
            while sent < 1_000_000:
                put(client, DATABASE, "t", [batch(sent)])
                sent += 500
        assert refusal in str(refused.value)
        assert sent > 500, "nothing was taken while the store was away"
        assert server.metric("wal_size_bytes") < 2 << 20
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


def test_a_private_authority_is_trusted_by_its_file(tmp_path):
    authority = Authority("authority of the store")
    leaf = authority.issue(tmp_path / "tls")
    with serving(tmp_path / "s3", leaf) as s3:
        endpoint = f"https://127.0.0.1:{s3.port}"
        config = settings(tmp_path, endpoint, ca_file=str(leaf.authority_file))
        with running(Server(tmp_path / "server", config)) as server, server.client() as client:
            put(client, DATABASE, "t", [batch(0)])
            wait_until(lambda: in_files(client) == 500, "the rows are in a file")
            assert everything(client) == list(range(500))
        assert any(key.endswith(".parquet") for key in s3.objects(BUCKET))
        stranger = Authority("somebody else").issue(tmp_path / "stranger")
        config = settings(tmp_path, endpoint, ca_file=str(stranger.authority_file))
        assert "ca_file" in complaint(tmp_path / "refused", config)


@pytest.mark.parametrize(
    ("wrong", "verify"),
    [
        ({"bucket": "not-there"}, "the bucket exists"),
        ({"secret": "not-the-key"}, "the credentials"),
        ({"endpoint": "http://127.0.0.1:9"}, "endpoint, region"),
    ],
    ids=["bucket", "credentials", "endpoint"],
)
def test_a_store_that_cannot_be_used_is_named_at_start_with_what_to_verify(
    tmp_path, s3, wrong, verify
):
    config = settings(tmp_path, **{"endpoint": f"http://127.0.0.1:{s3.port}"} | wrong)
    text = complaint(tmp_path / "server", config)
    assert verify in text and "S3 bucket" in text, text


def complaint(folder, config):
    """What a server that can't use its store says; it goes on trying, and is ended."""
    server = Server(folder, config)
    server.expect_log("object store")

    def told():
        lines = server.log_lines()
        return [line for line in lines if "the object store can't be used" in line["message"]]

    try:
        server.launch()
        (line, *_) = wait_until(told, "the server says that the store can't be used", seconds=40)
        assert server.process.poll() is None, "it gave up"
        return line["error"]
    finally:
        server.kill()
