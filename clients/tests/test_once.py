"""A ticket of a statement that changes something, redeemed at two queriers: it is done once."""

import pathlib
import sys

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import select

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

SETTINGS = {"ingest": {"flush_interval": "1h"}, "server": {"drain_window": "100ms"}}
DATABASE = "d"


@pytest.fixture(scope="module")
def queriers(tmp_path_factory):
    """One ingester, and two queriers with the same key and nothing else in common."""
    folder = tmp_path_factory.mktemp("once")
    with started_cluster(folder, SETTINGS, ingesters=1, queriers=2) as processes:
        yield processes.of("querier")
        processes.stop()


def ask(process, sql):
    with process.connect() as client:
        return select(client, DATABASE, sql)


def numbers(process, table):
    return ask(process, f"SELECT n FROM {table} ORDER BY n")["n"].to_pylist()


def ticket_for(process, sql):
    options = flight.FlightCallOptions(headers=[(b"database", DATABASE.encode())])
    with process.connect() as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()), options)
    return info.endpoints[0].ticket


def redeem(process, ticket):
    with process.connect() as client:
        return client.do_get(ticket).read_all()


def everywhere(queriers, sql, meanwhile=()):
    """Redeems one ticket at both, with other statements in between."""
    first, second = queriers
    ticket = ticket_for(first, sql)
    answer = redeem(first, ticket)
    for statement in meanwhile:
        ask(second, statement)
    for process in (second, first, second):
        assert redeem(process, ticket) == answer


def test_a_table_is_created_replaced_and_dropped_once(queriers):
    """What others made, or wrote, between the two redemptions stays."""
    first, second = queriers
    everywhere(queriers, "CREATE TABLE t AS SELECT 1 AS n", ["INSERT INTO t VALUES (2)"])
    assert numbers(first, "t") == [1, 2]
    replace = "CREATE OR REPLACE TABLE t AS SELECT 7 AS n"
    everywhere(queriers, replace, ["INSERT INTO t VALUES (8)"])
    assert numbers(second, "t") == [7, 8]
    everywhere(queriers, "DROP TABLE t", ["CREATE TABLE t AS SELECT 9 AS n"])
    assert numbers(first, "t") == [9]
    everywhere(queriers, "DROP TABLE IF EXISTS t", ["CREATE TABLE t AS SELECT 10 AS n"])
    assert numbers(first, "t") == [10]
    everywhere(queriers, "CREATE TABLE empty (n BIGINT)", ["INSERT INTO empty VALUES (1)"])
    everywhere(queriers, "CREATE TABLE IF NOT EXISTS t (n BIGINT)", ["DROP TABLE t"])
    with pytest.raises(pa.ArrowException, match="not found"):
        numbers(first, "t")
    assert numbers(second, "empty") == [1]
    everywhere(
        queriers, "CREATE OR REPLACE TABLE empty (n BIGINT)", ["INSERT INTO empty VALUES (3)"]
    )
    assert numbers(second, "empty") == [3]


def test_rows_are_deleted_once(queriers):
    """What came after the first redemption is not what the statement was to delete."""
    first, second = queriers
    ask(first, "CREATE TABLE rows AS SELECT 1 AS n")
    everywhere(queriers, "DELETE FROM rows WHERE n > 0", ["INSERT INTO rows VALUES (1), (2)"])
    assert numbers(second, "rows") == [1, 2]
    everywhere(queriers, "TRUNCATE TABLE rows", ["INSERT INTO rows VALUES (3)"])
    assert numbers(second, "rows") == [3]
    # A new ticket is a new statement.
    everywhere(queriers, "TRUNCATE TABLE rows")
    assert numbers(first, "rows") == []


def test_a_statement_that_failed_elsewhere_is_refused(queriers):
    """Nobody knows there how far it came."""
    first, second = queriers
    ticket = ticket_for(first, "CREATE TABLE taken (n BIGINT)")
    ask(second, "CREATE TABLE taken (n BIGINT)")
    with pytest.raises(pa.ArrowException, match="TABLE_EXISTS"):
        redeem(first, ticket)
    ask(second, "DROP TABLE taken")
    with pytest.raises(pa.ArrowException, match="begun before.*new ticket.*INVALID_TICKET"):
        redeem(second, ticket)
    with pytest.raises(pa.ArrowException, match="not found"):
        numbers(second, "taken")
