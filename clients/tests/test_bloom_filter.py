"""Bloom filters: asked for by SQL, written by flushes and compactions, used by queries."""

import hashlib
import re

import pyarrow as pa
import pytest
from harness import put, select, wait_until

QUICK = {
    "ingest": {"flush_interval": "50ms", "flushed_grace": "100ms"},
    "upkeep": {"interval": "50ms", "compaction_min_files": 4},
}
ROWS = 1000


def pruned(client, sql):
    """Row groups that were looked at, and those whose filter may have the value."""
    rows = select(client, "d", f"EXPLAIN ANALYZE {sql}")
    text = "".join(rows["plan"].to_pylist())
    found = re.findall(r"row_groups_pruned_bloom_filter=(\d+) total → (\d+) matched", text)
    return tuple(sum(int(pair[at]) for pair in found) for at in (0, 1))


def test_a_single_value_is_found_by_the_filters_of_files(new_server):
    """Issue section 3: Bloom filters."""
    server = new_server(QUICK)
    server.start()
    with server.client() as client:
        sql = "CREATE TABLE t (time TIMESTAMP, trace TEXT, n BIGINT) WITH (bloom_filter = 'trace')"
        select(client, "d", sql)
        traces = [hashlib.md5(b"%d" % row).hexdigest() for row in range(ROWS * 3)]
        for part in range(3):
            now = pa.scalar(part, pa.timestamp("ns"))
            rows = {
                "time": pa.array([now] * ROWS),
                "trace": traces[part * ROWS : (part + 1) * ROWS],
                "n": range(2 * part * ROWS, 2 * (part + 1) * ROWS, 2),
            }
            put(client, "d", "t", [pa.record_batch(rows)])

            def flushed(rows=(part + 1) * ROWS):
                sql = "SELECT file_rows AS n FROM system.tables WHERE table_name = 't'"
                return select(client, "d", sql)["n"].to_pylist() == [rows]

            wait_until(flushed, "the rows are in a file")
        looked_for = ROWS + 7
        sql = f"SELECT n FROM t WHERE trace = '{traces[looked_for]}'"
        assert select(client, "d", sql)["n"].to_pylist() == [2 * looked_for]
        assert pruned(client, sql) == (3, 1)
        assert select(client, "d", f"{sql} AND n < 0").num_rows == 0
        sql = "SELECT bloom_filter FROM system.tables"
        assert select(client, "d", sql)["bloom_filter"].to_pylist() == ["trace"]

        # What compaction writes has them too, and from now on of another column.
        select(client, "d", "ALTER TABLE t SET (bloom_filter = 'n')")
        rows = {"time": [None], "trace": ["x"], "n": [-1]}
        schema = pa.schema(
            [("time", pa.timestamp("ns")), ("trace", pa.string()), ("n", pa.int64())]
        )
        put(client, "d", "t", [pa.record_batch(rows, schema=schema)])

        def compacted():
            return select(client, "d", "SELECT path FROM system.files").num_rows == 1

        wait_until(compacted, "the files are one")
        assert pruned(client, "SELECT time FROM t WHERE n = 1500") == (1, 1)
        assert pruned(client, "SELECT time FROM t WHERE n = 1501") == (1, 0), "n is even"
        assert pruned(client, "SELECT time FROM t WHERE trace = '5'") == (1, 1)
        select(client, "d", "ALTER TABLE t SET (bloom_filter = NULL)")
        sql = "SELECT bloom_filter FROM system.tables"
        assert select(client, "d", sql)["bloom_filter"].to_pylist() == [None]
    server.stop()


def test_what_can_have_no_filter_is_said(client, database):
    put(client, database, "t", [pa.record_batch({"n": [1], "x": [0.5]})])
    for sql, cure in (
        ("ALTER TABLE t SET (bloom_filter = 'm')", 'no column "m"'),
        ("ALTER TABLE t SET (bloom_filter = 'n, x')", '"x" is Float64; it can be texts'),
        ("ALTER TABLE t SET (bloom_filter = ' ')", "names no column"),
        (f"ALTER TABLE t SET (bloom_filter = '{'n,' * 17}')", "more than 16 columns"),
        (f"ALTER DATABASE {database} SET (bloom_filter = 'n')", "an option of a table"),
        ("CREATE TABLE u (n BIGINT) WITH (bloom_filter = 'm')", 'no column "m"'),
    ):
        with pytest.raises(pa.ArrowInvalid, match=cure):
            select(client, database, sql)
