"""The past, from clients: a snapshot answers as it did then, by header, session and SQL."""

import datetime
import json
import pathlib
import sys

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import ProgrammingError
from harness import headers, put, select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

# Every put is a file soon. Nothing is compacted or deleted unless a test says so.
QUICK = {"ingest": {"flush_interval": "20ms"}, "upkeep": {"run_in": "nobody"}}
# Every two files become one, and nothing stays for long.
BUSY = {
    "ingest": {"flush_interval": "20ms", "flushed_grace": "1s"},
    "upkeep": {"interval": "50ms", "compaction_min_files": 2, "gc_grace": "5s"},
}


def numbers(*values):
    return pa.table({"n": pa.array(values, pa.int64())})


def ids(client, sql="SELECT n FROM t ORDER BY n", options=None):
    return select(client, "d", sql, options)["n"].to_pylist()


def as_of(state):
    return headers(("x-fc-as-of", str(state)))


def newest(client):
    """The newest snapshot and its time."""
    sql = "SELECT snapshot, created_at FROM system.snapshots ORDER BY snapshot DESC LIMIT 1"
    return tuple(select(client, "d", sql).to_pylist()[0].values())


def flushed(client, table, rows):
    """Waits until all rows of a table are in files, and returns the state they are in."""
    sql = f"SELECT coalesce(sum(rows), 0) AS n FROM system.files WHERE table_name = '{table}'"
    wait_until(lambda: select(client, "d", sql)["n"].to_pylist() == [rows], "rows are in files")
    return newest(client)[0]


@pytest.fixture
def history(new_server):
    """A server, and what the table `t` held in each of its states."""
    server = new_server(QUICK)
    server.start()
    states = {}
    with server.client() as client:
        for last in (2, 4, 6):
            put(client, "d", "t", numbers(last - 1, last))
            states[flushed(client, "t", last)] = list(range(1, last + 1))
        run(server, "DELETE FROM t WHERE n <= 3")
        states[newest(client)[0]] = [4, 5, 6]
        run(server, "CREATE OR REPLACE TABLE t AS SELECT n * 10 AS n FROM t")
        states[flushed(client, "t", 3)] = [40, 50, 60]
        run(server, "DROP TABLE t")
        yield server, client, states


def connect(server, **options):
    kwargs = {f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}database": "d"} | options
    return adbc.connect(server.uri, db_kwargs=kwargs, autocommit=True)


def run(server, sql, **options):
    with connect(server, **options) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def test_a_header_and_sql_read_what_was(history):
    server, client, states = history
    with pytest.raises(KeyError, match="TABLE_NOT_FOUND"):
        ids(client)
    for state, expected in states.items():
        assert ids(client, options=as_of(state)) == expected
        sql = f"SELECT n FROM t FOR VERSION AS OF {state} ORDER BY n"
        assert ids(client, sql) == expected
        assert run(server, sql)["n"].to_pylist() == expected
        header = {f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}x-fc-as-of": str(state)}
        assert run(server, "SELECT n FROM t ORDER BY n", **header)["n"].to_pylist() == expected
    old, new = list(states)[0], list(states)[2]
    came = f"SELECT n FROM t VERSION AS OF {new} EXCEPT SELECT n FROM t VERSION AS OF {old}"
    assert sorted(ids(client, came)) == [3, 4, 5, 6]
    # The whole table by its path: the ticket keeps the state.
    path = flight.FlightDescriptor.for_path("d", "t")
    info = client.get_flight_info(path, as_of(old))
    assert client.do_get(info.endpoints[0].ticket).read_all()["n"].to_pylist() == [1, 2]
    assert client.get_schema(path, as_of(old)).schema.names == ["n"]


def test_a_time_reads_what_was_then(history):
    _, client, states = history
    sql = "SELECT snapshot, created_at FROM system.snapshots"
    times = {row["snapshot"]: row["created_at"] for row in select(client, "d", sql).to_pylist()}
    for state, expected in states.items():
        later = [times[other] for other in times if other > state]
        if any(other <= times[state] for other in later):
            continue  # Made in one millisecond.
        time = times[state].isoformat()
        assert ids(client, options=as_of(time)) == expected
        assert ids(client, f"SELECT n FROM t FOR SYSTEM_TIME AS OF '{time}' ORDER BY n") == expected


def test_what_can_not_be_read_is_refused(history):
    server, client, states = history
    future = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    for state, why in [
        (10**6, "snapshot 1000000 is still to come; the newest is snapshot"),
        (future.isoformat(), "is still to come"),
        (
            "2001-01-01",
            "no longer kept; the oldest that can be read is snapshot .* upkeep.gc_grace",
        ),
        ("yesterday", "neither the number of a snapshot nor a time"),
    ]:
        with pytest.raises(pa.ArrowInvalid, match=f"{why}(.|\n)*INVALID_ARGUMENT"):
            ids(client, options=as_of(state))
    first = list(states)[0]
    with pytest.raises(KeyError, match="d.public.t is not in snapshot 1;(.|\n)*TABLE_NOT_FOUND"):
        ids(client, "SELECT n FROM t VERSION AS OF 1")
    header = {f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}x-fc-as-of": str(first)}
    for sql in ("INSERT INTO t VALUES (1)", "DELETE FROM t", "CREATE TABLE u (n BIGINT)"):
        with pytest.raises(ProgrammingError, match="can't be done in the past"):
            run(server, sql, **header)
    with pytest.raises(ProgrammingError, match="can't change the past"):
        run(server, f"INSERT INTO t FOR VERSION AS OF {first} VALUES (1)")
    with pytest.raises(pa.ArrowInvalid, match="rows can't be written into the past"):
        put(client, "d", "t", numbers(1), as_of(first))
    run(server, f"CREATE TABLE t AS SELECT * FROM t VERSION AS OF {first}")
    assert ids(client) == [1, 2]


def test_a_session_reads_the_past_until_it_is_told_otherwise(history):
    server, _, states = history
    options = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
    option = "adbc.flight.sql.session.option.as_of"
    with connect(server, **options) as connection, connection.cursor() as cursor:
        for state, expected in states.items():
            connection.adbc_connection.set_options(**{option: str(state)})
            assert connection.adbc_connection.get_option(option) == str(state)
            cursor.execute("SELECT n FROM t ORDER BY n")
            assert cursor.fetch_arrow_table()["n"].to_pylist() == expected
            with pytest.raises(ProgrammingError, match="can't be done in the past"):
                cursor.execute("CREATE TABLE u (n BIGINT)")
                cursor.fetchall()
        with pytest.raises(Exception, match="(?i)as_of"):
            connection.adbc_connection.set_options(**{option: "yesterday"})
        connection.adbc_connection.set_options(**{option: ""})
        cursor.execute("CREATE TABLE u (n BIGINT)")
        cursor.fetchall()


def test_the_past_stays_through_compaction_until_it_is_collected(new_server):
    server = new_server(BUSY)
    server.start()
    with server.client() as client:
        put(client, "d", "t", numbers(1))
        state = flushed(client, "t", 1)
        put(client, "d", "t", numbers(2))

        def is_refused():
            """As it was, or refused: never fewer rows."""
            try:
                assert ids(client, options=as_of(state)) == [1]
            except pa.ArrowInvalid as error:
                assert "upkeep.gc_grace" in str(error)
                return True
            return False

        sql = "SELECT count(*) AS n FROM system.compactions"
        wait_until(lambda: ids(client, sql) == [1], "the file was replaced")
        assert not is_refused()
        wait_until(is_refused, "the snapshot is collected")

        def oldest_readable():
            """The object of a file goes a moment before the catalog notes it."""
            [oldest] = ids(client, "SELECT min(snapshot) AS n FROM system.snapshots")
            return oldest > state and oldest

        oldest = wait_until(oldest_readable, "the catalog knows it")
        assert ids(client, options=as_of(oldest)) == [1, 2]
    server.stop()


def test_rows_with_a_key_are_those_of_the_snapshot(new_server):
    server = new_server(QUICK)
    server.start()
    schema = pa.schema(
        [("host", pa.string()), ("time", pa.timestamp("us")), ("n", pa.int64())],
        metadata={"flightcluster.primary_key": json.dumps(["host", "time"])},
    )
    at = datetime.datetime(2026, 1, 1)
    with server.client() as client:
        states = {}
        for count, n in enumerate((7, 8, 9), 1):
            put(client, "d", "t", pa.table([["a"], [at], [n]], schema=schema))
            states[flushed(client, "t", count)] = [n]
        for state, expected in states.items():
            assert ids(client, options=as_of(state)) == expected


@pytest.fixture
def queriers(tmp_path):
    """Two queriers of one cluster."""
    settings = QUICK | {"server": {"drain_window": "100ms"}}
    with started_cluster(tmp_path, settings, ingesters=1, queriers=2) as processes:
        first, second = processes.of("querier")
        with first.connect() as first, second.connect() as second:
            yield first, second
        processes.stop()


def test_a_ticket_reads_the_same_past_at_another_querier(queriers):
    first, second = queriers
    put(first, "d", "t", numbers(1, 2))
    state = flushed(first, "t", 2)
    put(first, "d", "t", numbers(3))
    later = flushed(first, "t", 3)
    question = {"database": "d", "sql_query": "SELECT n FROM t ORDER BY n"}
    command = flight.FlightDescriptor.for_command(json.dumps(question).encode())
    now = datetime.datetime.now(datetime.UTC).isoformat()
    for rows, (how, expected) in enumerate([(state, [1, 2]), (now, [1, 2, 3])], 4):
        ticket = first.get_flight_info(command, as_of(how)).endpoints[0].ticket
        put(second, "d", "t", numbers(rows))
        flushed(second, "t", rows)
        assert second.do_get(ticket).read_all()["n"].to_pylist() == expected
        # What the ticket says comes before what the call says.
        told = second.do_get(ticket, as_of(later)).read_all()
        assert told["n"].to_pylist() == expected
