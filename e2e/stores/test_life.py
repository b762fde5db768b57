"""The life of a table whose files are in a bucket: flushed, large, made one, deleted, restored."""

import os
import shutil

import pyarrow as pa
from harness import Server, put, run_cli, running, select, wait_until
from kinds import BUCKET, settings
from table import DATABASE, batch, everything, files, in_files

# A file above 8 MiB goes in parts of that size; these rows don't get smaller by compression.
LARGE_ROWS = 9
LARGE_ROW_BYTES = 1 << 20
# Every flush is a file soon, two files become one, and nothing stays for long.
BUSY = {
    "interval": "100ms",
    "compaction_min_files": 2,
    "gc_grace": "1s",
    "orphan_grace": "1s",
    "orphan_interval": "500ms",
}


def test_a_table_lives_in_a_bucket_and_comes_back_from_its_backup(tmp_path, store, proxy):
    """Flush, kill -9, compaction, DELETE, garbage collection, backup, restore into nothing."""
    config = settings(store, tmp_path, f"http://127.0.0.1:{proxy.port}")
    config["upkeep"] = BUSY
    server = Server(tmp_path / "server", config)
    server.expect_log("objects could not be deleted")
    with running(server):
        # What is deleted again next time is not there any more: at GCS that is a 404.
        proxy.fail_next("unanswered", *store.deletion)
        with server.client() as client:
            fill(client, 0, 4000)
            wait_until(lambda: len(files(client)) == 1, "the files are made one")
            wait_until(lambda: stored(store) == set(files(client)), "old objects are gone")
            waiting = "flightcluster_gc_waiting_objects"
            wait_until(lambda: server.metric(waiting) == 0, "nothing waits to be deleted")
            assert proxy.done["unanswered"] == 1
            select(client, DATABASE, "DELETE FROM t WHERE n < 1250")
            assert everything(client) == list(range(1250, 4000))
            wait_until(lambda: in_files(client) == 2750, "the rows are out of the files")
            wait_until(lambda: stored(store) == set(files(client)), "the deleted rows are gone")
            put(client, DATABASE, "t", [batch(4000)])
        server.kill()
        server.start()
        with server.client() as client:
            assert everything(client) == list(range(1250, 4500))
            wait_until(lambda: in_files(client) == 3250, "what was only logged is in a file")
            assert server.metric("flightcluster_orphan_objects") == 0
    catalog("backup", server)
    shutil.rmtree(server.data)
    catalog("restore", server)
    catalog("check", server)
    with running(server), server.client() as client:
        assert everything(client) == list(range(1250, 4500))
        fill(client, 4500, 5000)
        assert everything(client) == list(range(1250, 5000))


def fill(client, first, end):
    """Rows in files of 500."""
    for number in range(first, end, 500):
        before = in_files(client) if number else 0
        put(client, DATABASE, "t", [batch(number)])
        wait_until(lambda n=before + 500: in_files(client) == n, "the rows are in a file")


def stored(store):
    """The table's objects in the bucket."""
    return {key for key in store.server.objects(BUCKET) if key.endswith(".parquet")}


def catalog(command, server):
    done = run_cli("catalog", command, "--config", server.config_file, "--data-dir", server.data)
    assert done.returncode == 0, done.stdout + done.stderr


def large(first):
    numbers = pa.array(range(first, first + LARGE_ROWS), pa.int64())
    content = [os.urandom(LARGE_ROW_BYTES) for _ in range(LARGE_ROWS)]
    return pa.record_batch([numbers, pa.array(content, pa.binary())], names=["n", "content"])


def test_every_request_of_a_large_upload_may_fail(tmp_path, store, proxy):
    """Cut, throttled, refused, unanswered: the rows are in one file, once."""
    config = settings(store, tmp_path, f"http://127.0.0.1:{proxy.port}")
    config["upkeep"]["run_in"] = "nobody"
    server = Server(tmp_path / "server", config)
    server.expect_log("object store|can't store|can't flush")
    with running(server), server.client() as client:
        for number, fault in enumerate(store.parts_that_fail):
            proxy.fail_next(*fault)
            before = proxy.done[fault[0]]
            first = number * LARGE_ROWS
            put(client, DATABASE, "t", [large(first)])
            everyone = first + LARGE_ROWS
            wait_until(lambda n=everyone: in_files(client) == n, f"{fault} is overcome", 60)
            assert proxy.done[fault[0]] > before, f"{fault} did not happen"
            assert everything(client) == list(range(everyone))
