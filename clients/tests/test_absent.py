"""A cluster of real processes without one of its ingesters: what goes on, and what does not."""

import json
import pathlib
import re
import sys
import urllib.request

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

# Rows stay in the logs unless a statement says otherwise, and leave memory soon after.
SETTINGS = {
    "ingest": {"flush_interval": "1h", "flushed_grace": "100ms"},
    "server": {"drain_window": "100ms"},
}
DATABASE = "d"
NUMBERS = pa.schema([("n", pa.int64())])
DOWN = r"ingester-2.*heard of last at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d.*INGESTER_UNAVAILABLE"


@pytest.fixture
def cluster(tmp_path):
    """Nobody starts a process again but the test."""
    with started_cluster(tmp_path, SETTINGS, ingesters=3, queriers=1) as processes:
        yield processes
        processes.stop()


def ask(cluster, sql):
    with cluster.of("querier")[0].connect() as client:
        return select(client, DATABASE, sql)


def numbers(cluster, table):
    return ask(cluster, f"SELECT n FROM {table} ORDER BY n")["n"].to_pylist()


def put(process, table, *values):
    """Writes a stream that is over when this returns."""
    with process.connect() as client:
        writer, reader = client.do_put(flight.FlightDescriptor.for_path(DATABASE, table), NUMBERS)
        with writer:
            writer.write_batch(pa.record_batch([pa.array(values, pa.int64())], schema=NUMBERS))
            assert json.loads(reader.read().to_pybytes())["durable"] is True
            writer.done_writing()


def closings(process):
    """Calls with which an ingester said that it has nothing of some tables any more."""
    url = f"http://127.0.0.1:{process.ports['admin_port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    name = r'catalog_call_duration_seconds_count\{[^}]*method="close_tables"[^}]*\} (\d+)'
    found = re.search(name, text)
    return int(found[1]) if found else 0


def test_only_tables_it_may_have_rows_of_need_an_ingester_that_is_down(cluster):
    """Issue section 3: queries and DELETE, before the ingester is back and after."""
    first, second, third = cluster.of("ingester")
    put(first, "never_there", *range(6))
    put(third, "in_files", *range(6))
    put(second, "in_files", *range(6, 9))
    # Puts the rows into files, and takes none.
    ask(cluster, "DELETE FROM in_files WHERE n > 100")
    wait_until(lambda: closings(third) > 0, "nothing of the table is in memory")
    put(first, "in_log", *range(3))
    put(third, "in_log", *range(3, 6))
    third.kill()

    for table in ("never_there", "in_files"):
        count = {"never_there": 6, "in_files": 9}[table]
        assert numbers(cluster, table) == list(range(count))
        ask(cluster, f"DELETE FROM {table} WHERE n % 2 = 0")
        assert numbers(cluster, table) == list(range(1, count, 2))
    for statement in (
        "SELECT n FROM in_log",
        "DELETE FROM in_log WHERE n % 2 = 0",
        "TRUNCATE TABLE in_log",
        "SELECT count(*) FROM never_there, in_log",
    ):
        with pytest.raises(flight.FlightUnavailableError, match=DOWN):
            ask(cluster, statement)
    put(second, "never_there", 100)
    ask(cluster, "TRUNCATE TABLE in_files")
    assert numbers(cluster, "in_files") == []
    assert numbers(cluster, "never_there") == [1, 3, 5, 100]

    third.start()
    third.wait_until_ready()
    assert numbers(cluster, "in_log") == list(range(6))
    ask(cluster, "DELETE FROM in_log WHERE n % 2 = 0")
    assert numbers(cluster, "in_log") == [1, 3, 5]
    assert numbers(cluster, "in_files") == []
    assert numbers(cluster, "never_there") == [1, 3, 5, 100]
    # It takes rows again, of tables that were changed without it too.
    put(third, "in_files", 7)
    assert numbers(cluster, "in_files") == [7]
