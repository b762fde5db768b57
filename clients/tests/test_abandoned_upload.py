"""An upload that is neither finished nor aborted."""

import json

import pyarrow as pa
import pytest
from harness import headers, put, running, select, wait_until

# Rows become files at once, and what belongs to nothing is soon gone.
SETTINGS = {
    "ingest": {"flush_interval": "100ms", "upload_ttl": "2s", "flushed_grace": "100ms"},
    "upkeep": {
        "interval": "100ms",
        "gc_grace": "1s",
        "orphan_grace": "1s",
        "orphan_interval": "500ms",
    },
}


def act(client, action, **body):
    (answer,) = client.do_action((action, json.dumps(body).encode()))
    return json.loads(answer.body.to_pybytes())


def test_an_abandoned_upload_expires_and_leaves_nothing(new_server):
    """Issue 4 section 1: neither rows nor files, and whoever comes back is told."""
    server = new_server(SETTINGS)

    def files():
        return [*(server.data / "objects").rglob("*.parquet")]

    with running(server):
        with server.client() as client:
            upload = act(client, "start-upload", database="d", table="t")["upload"]
            of_upload = headers(("x-fc-upload", upload))
            put(client, "d", "t", [pa.record_batch({"n": [1, 2, 3]})], of_upload)
            (staged,) = wait_until(files, "the rows of the upload are in a file")
            put(client, "d", "other", [pa.record_batch({"n": [4]})])
            # Those that rested are looked for as often as they may rest, at least once a minute.
            wait_until(lambda: not staged.exists(), "the file of the upload is gone", 30)
            for late in (
                lambda: act(client, "finish-upload", upload=upload),
                lambda: put(client, "d", "t", [pa.record_batch({"n": [5]})], of_upload),
            ):
                with pytest.raises(pa.ArrowException, match="expired.*UPLOAD_ENDED"):
                    late()
        server.kill()
        server.start()
        with server.client() as client:
            assert select(client, "d", "SELECT n FROM other")["n"].to_pylist() == [4]
            tables = select(client, "d", "SELECT table_name FROM system.files")
            assert tables["table_name"].to_pylist() == ["other"]
            with pytest.raises(pa.ArrowException, match="not found"):
                select(client, "d", "SELECT n FROM t")
            rows = "ingest_buffer_rows"
            wait_until(lambda: server.metric(rows) == 0, "the log's rows of it are given up")
