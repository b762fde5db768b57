"""How long rows are kept: set by SQL, seen in every answer, and the files go."""

import contextlib
import datetime
import sqlite3

import pyarrow as pa
import pytest
from harness import put, select, wait_until

# Every put is a file soon.
QUICK = {
    "ingest": {"flush_interval": "50ms", "flushed_grace": "1s"},
    "upkeep": {"interval": "50ms", "gc_grace": "1s", "compaction_min_files": 200},
}


def hours_ago(*hours):
    now = datetime.datetime.now(datetime.UTC)
    times = [now - datetime.timedelta(hours=each) for each in hours]
    columns = {
        "time": pa.array(times, pa.timestamp("ns", "UTC")),
        "h": pa.array(hours, pa.float64()),
    }
    return [pa.record_batch(columns)]


def seen(client, database, table="t"):
    rows = select(client, database, f"SELECT h FROM {table} ORDER BY h")
    (count,) = select(client, database, f"SELECT count(*) AS n FROM {table}")["n"].to_pylist()
    assert count == rows.num_rows
    return rows["h"].to_pylist()


def test_each_change_of_options_is_remembered_so_that_a_late_copy_does_nothing(new_server):
    """What the catalog makes of the ids is tested there."""
    server = new_server()
    server.start()
    with server.client() as client:
        put(client, "d", "t", hours_ago(1))
        for _ in range(2):
            select(client, "d", "ALTER TABLE t SET (retention = '2d')")
        select(client, "d", "ALTER DATABASE d SET (retention = '3d')")
    [file] = server.data.rglob("catalog.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as catalog:
        [(ids,)] = catalog.execute("SELECT count(DISTINCT id) FROM statements").fetchall()
    assert ids == 3
    server.stop()


def test_expired_rows_are_not_seen_and_their_files_go(new_server):
    """Issue section 4: retention per table and per database."""
    server = new_server(QUICK)
    server.start()
    with server.client() as client:

        def flushed(rows, table="t"):
            sql = f"SELECT file_rows AS n FROM system.tables WHERE table_name = '{table}'"
            return lambda: select(client, "d", sql)["n"].to_pylist() == [rows]

        put(client, "d", "t", hours_ago(50, 60))
        wait_until(flushed(2), "the old rows are in a file")
        put(client, "d", "t", hours_ago(49, 1))
        wait_until(flushed(4), "old and young rows are in a file")
        put(client, "d", "t", hours_ago(48.5, 2))
        wait_until(flushed(6), "all rows are in files")
        assert seen(client, "d") == [1, 2, 48.5, 49, 50, 60]

        select(client, "d", "ALTER TABLE t SET (retention = '2d')")
        assert seen(client, "d") == [1, 2]
        sql = "SELECT table_name, retention FROM system.tables"
        assert select(client, "d", sql).to_pylist() == [{"table_name": "t", "retention": "2d"}]
        wait_until(flushed(4), "the file of old rows went")
        wait_until(
            lambda: len(list((server.data / "objects").rglob("*.parquet"))) == 2,
            "its object was deleted",
        )
        assert server.metric("flightcluster_retention_expired_files_total") == 1
        assert server.metric("flightcluster_retention_expired_rows_total") == 2
        sql = "SELECT cause, input_rows, output_rows FROM system.compactions"
        done = {"cause": "retention", "input_rows": 2, "output_rows": 0}
        assert done in select(client, "d", sql).to_pylist()
        # A longer time brings back what is there.
        select(client, "d", "ALTER TABLE t SET (retention = 'forever')")
        assert seen(client, "d") == [1, 2, 48.5, 49]

        select(client, "d", "ALTER DATABASE d SET (retention = '2d')")
        assert seen(client, "d") == [1, 2, 48.5, 49]
        select(client, "d", "ALTER TABLE t SET (retention = NULL)")
        assert seen(client, "d") == [1, 2]
    server.kill()
    server.start()
    with server.client() as client:
        assert seen(client, "d") == [1, 2]
    server.stop()


def test_a_table_is_created_with_it(client, database):
    sql = "CREATE TABLE t (time TIMESTAMP, h DOUBLE) WITH (retention = '1d')"
    select(client, database, sql)
    sql = """INSERT INTO t VALUES (now() - INTERVAL '2 days', 48), (now(), 0)"""
    select(client, database, sql)
    assert seen(client, database) == [0]


def test_what_can_not_be_set_is_said(client, database):
    put(client, database, "t", [pa.record_batch({"n": [1]})])
    for sql, cure in (
        ("ALTER TABLE t SET (retention = '1d')", "no time column"),
        ("ALTER TABLE t SET (retention = 'soon')", "'forever'"),
        ("ALTER TABLE t SET (colour = 'red')", "only retention and bloom_filter"),
    ):
        with pytest.raises(pa.ArrowInvalid, match=cure):
            select(client, database, sql)
