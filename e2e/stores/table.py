"""The one table of the scenarios: rows that are numbered, so that a lost or doubled one is seen."""

import pyarrow as pa
from harness import select

DATABASE = "d"
ROWS = pa.schema([("n", pa.int64()), ("text", pa.string())])


def batch(first, rows=500):
    numbers = range(first, first + rows)
    columns = [pa.array(numbers, pa.int64()), pa.array([f"row {n:>16}" for n in numbers])]
    return pa.record_batch(columns, schema=ROWS)


def everything(client):
    return select(client, DATABASE, "SELECT n FROM t ORDER BY n")["n"].to_pylist()


def files(client):
    """Paths of the live files with their rows: those that no log is needed for any more."""
    sql = "SELECT path, rows FROM system.files WHERE table_name = 't'"
    return {row["path"]: row["rows"] for row in select(client, DATABASE, sql).to_pylist()}


def in_files(client):
    return sum(files(client).values())
