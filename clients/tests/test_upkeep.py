"""Compaction and deletion in a running server: fewer files, the same rows."""

import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Server, put, running, select, wait_until
from test_types import TYPES, name_of, read

# Every put is a file soon, every two files become one, and nothing stays for long.
BUSY = {
    "ingest": {"flush_interval": "50ms", "flushed_grace": "1s"},
    "upkeep": {
        "interval": "50ms",
        "compaction_min_files": 2,
        "gc_grace": "1s",
        "orphan_grace": "1s",
        "orphan_interval": "500ms",
    },
}


def compactions(client, database, table):
    sql = f"""SELECT input_files, output_files, input_rows, output_rows
              FROM system.compactions WHERE table_name = '{table}' AND cause = 'compaction'"""
    return select(client, database, sql).to_pylist()


def files_of(client, database, table):
    sql = f"SELECT path, rows, ingester_id FROM system.files WHERE table_name = '{table}'"
    return select(client, database, sql).to_pylist()


def objects_of(server):
    return list((server.data / "objects").rglob("*.parquet"))


def test_small_files_become_few_old_objects_go_and_every_row_stays(new_server):
    """Issue section 4: live files and objects level off under a stream of small flushes."""
    server = new_server(BUSY)
    server.start()
    done, trouble = threading.Event(), []

    def look():
        """What is read never shrinks and never has a row twice."""
        seen = 0
        try:
            with server.client() as client:
                while not done.is_set():
                    sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM t"
                    row = select(client, "d", sql).to_pylist()[0]
                    assert row["n"] == row["ids"] and row["n"] >= seen, (row, seen)
                    seen = row["n"]
        except Exception as error:
            trouble.append(error)

    with server.client() as client:
        put(client, "d", "t", [pa.record_batch({"id": [0]})])
        reader = threading.Thread(target=look)
        reader.start()
        for number in range(1, 60):
            put(client, "d", "t", [pa.record_batch({"id": [number]})])
            # One flush each: a file of its own.
            sql = "SELECT coalesce(sum(rows), 0) AS n FROM system.files WHERE table_name = 't'"
            wait_until(
                lambda s=sql, n=number: select(client, "d", s).to_pylist()[0]["n"] == n + 1,
                "the row was flushed",
            )
        wait_until(lambda: len(files_of(client, "d", "t")) == 1, "one file is left")
        # Soon, because they are remembered for two graces only.
        done_before = compactions(client, "d", "t")
        done.set()
        reader.join()
        assert not trouble, trouble
        [file] = files_of(client, "d", "t")
        assert file["rows"] == 60 and file["ingester_id"] is None
        rows = select(client, "d", "SELECT id FROM t ORDER BY id").column(0).to_pylist()
        assert rows == list(range(60))
        wait_until(lambda: len(objects_of(server)) == 1, "the old objects are gone")
        assert done_before and all(
            each["input_rows"] == each["output_rows"] and each["input_files"] > each["output_files"]
            for each in done_before
        )
        assert server.metric("flightcluster_gc_deleted_objects_total") >= 60
        assert server.metric("flightcluster_orphan_objects") == 0
    server.stop()


@pytest.fixture(scope="module")
def compacted(tmp_path_factory):
    """{type: (schema of GetFlightInfo, table)} after two files of each were made one."""
    found = {}
    with running(Server(tmp_path_factory.mktemp("compacted"), BUSY)) as server:
        with server.client() as client:
            for half in (0, 1):
                for kind, (values, _) in TYPES.items():
                    numbers = range(half * len(values), (half + 1) * len(values))
                    batch = pa.RecordBatch.from_arrays(
                        [pa.array(numbers, pa.int32()), values], ["row", "v"]
                    )
                    put(client, "d", name_of(kind), [batch])
                wait_until(lambda h=half: all_in_files(client, h + 1), "everything is in files", 60)
            wait_until(lambda: all_compacted(client), "everything is compacted", 60)
            for kind in TYPES:
                try:
                    found[kind] = read(client, name_of(kind))
                except (flight.FlightError, pa.ArrowException, KeyError) as error:
                    found[kind] = error
    return found


def all_in_files(client, halves):
    sql = "SELECT table_name, file_rows FROM system.tables"
    rows = {row["table_name"]: row["file_rows"] for row in select(client, "d", sql).to_pylist()}
    return all(rows[name_of(kind)] == halves * len(TYPES[kind][0]) for kind in TYPES)


def all_compacted(client):
    """Both halves of every table, which were flushed apart, are in one file."""
    sql = "SELECT table_name FROM system.tables WHERE files = 1"
    done = select(client, "d", sql).column(0).to_pylist()
    return {name_of(kind) for kind in TYPES} <= set(done)


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_is_the_same_after_compaction(compacted, kind):
    """Issue section 4: every type the gate takes survives compaction exactly."""
    found = compacted[kind]
    if isinstance(found, Exception):
        raise found
    announced, table = found
    values, other = TYPES[kind]
    assert table.schema.field("v").type == (other or values.type)
    assert announced.equals(table.schema)
    assert table["v"].to_pylist() == values.to_pylist() * 2
