"""Answers without the rows of an ingester that is down: only if asked for, and always marked."""

import json
import pathlib
import re
import sys
import urllib.request

import adbc_driver_flightsql.dbapi as adbc
import influxdb_client_3
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import OperationalError, ProgrammingError
from harness import headers, json_ticket, put, select

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

# Rows stay in the logs unless a statement says otherwise.
SETTINGS = {
    "ingest": {"flush_interval": "1h"},
    "server": {"drain_window": "100ms"},
}
ALL = "SELECT n FROM t ORDER BY n"
MARK = b"flightcluster.partial"
PARTIAL = headers(("x-fc-partial", "true"))
DOWN = r"ingester-1.*heard of last at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(.|\n)*INGESTER_UNAVAILABLE"
HEADER = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value


def numbers(*values):
    return pa.table({"n": pa.array(values, pa.int64())})


def keyed(n):
    """A row of one key."""
    schema = pa.schema(
        [("time", pa.timestamp("us")), ("n", pa.int64())],
        metadata={"flightcluster.primary_key": '["time"]'},
    )
    return pa.table([[0], [n]], schema=schema)


@pytest.fixture
def cluster(tmp_path):
    """A table `t`: 0 and 1 in files, 2 and 3 at the first ingester, 4 at the second, which is down;
    a table `k` with a key, and one `u` of which the second has nothing."""
    with started_cluster(tmp_path, SETTINGS, ingesters=2, queriers=2) as processes:
        first, second = processes.of("ingester")
        with first.connect() as here, second.connect() as there, querier(processes) as client:
            put(here, "d", "t", numbers(0))
            put(there, "d", "t", numbers(1))
            # Puts the rows into files, and takes none.
            select(client, "d", "DELETE FROM t WHERE n > 100")
            put(here, "d", "t", numbers(2, 3))
            put(there, "d", "t", numbers(4))
            put(here, "d", "k", keyed(1))
            put(there, "d", "k", keyed(2))
            put(here, "d", "u", numbers(7))
        second.kill()
        yield processes
        processes.stop()


def querier(cluster, number=0):
    return cluster.of("querier")[number].connect()


def down(cluster):
    return cluster.of("ingester")[1]


def back(cluster):
    down(cluster).start()
    down(cluster).wait_until_ready()


def mark(schema):
    """What the answer says that it lacks, or None."""
    text = (schema.metadata or {}).get(MARK)
    return text and json.loads(text)


def assert_lacks(table, values, *tables):
    """The answer has these numbers, and says that it lacks rows of the tables."""
    assert table["n"].to_pylist() == values
    (ingester,) = mark(table.schema)["ingesters"]
    assert ingester["name"] == "ingester-1"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", ingester["heard_of_at"])
    assert ingester["tables"] == [f"d.public.{table}" for table in tables]


def assert_whole(table, values):
    assert table["n"].to_pylist() == values
    assert mark(table.schema) is None


def assert_refused(client, sql, options=None, more=""):
    with pytest.raises(flight.FlightUnavailableError, match=DOWN) as refused:
        select(client, "d", sql, options)
    assert more in str(refused.value)


def counted(cluster):
    url = f"http://127.0.0.1:{cluster.of('querier')[0].ports['admin_port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(
            re.search(r"^flightcluster_query_partial_total (\d+)", answer.read().decode(), re.M)[1]
        )


def warnings(cluster):
    """Lines about answers that lack rows."""
    lines = cluster.of("querier")[0].log_path.read_text().splitlines()
    return [line for line in lines if "answering without its fresh rows" in line]


def test_a_partial_answer_is_given_if_asked_for_and_marked(cluster):
    with querier(cluster) as client:
        assert_refused(client, ALL)
        assert_refused(client, ALL, headers(("x-fc-partial", "false")))
        assert (counted(cluster), warnings(cluster)) == (0, [])
        assert_lacks(select(client, "d", ALL, PARTIAL), [0, 1, 2, 3], "t")
        (line,) = warnings(cluster)
        assert '"WARN"' in line and "ingester-1" in line
        assert counted(cluster) == 1
        # The mark is there before a row is read.
        assert mark(client.do_get(json_ticket("d", ALL), PARTIAL).schema) is not None
        sql = "SELECT count(*) AS n FROM t, u WHERE t.n < u.n"
        assert_lacks(select(client, "d", sql, PARTIAL), [4], "t")
        # Tables it has nothing of, and no table at all.
        assert_whole(select(client, "d", "SELECT n FROM u", PARTIAL), [7])
        assert_whole(select(client, "d", "SELECT 1 AS n", PARTIAL), [1])
        assert counted(cluster) == 3
        for wrong in ("maybe", "2"):
            with pytest.raises(pa.ArrowInvalid, match='header x-fc-partial is "(maybe|2)"'):
                select(client, "d", ALL, headers(("x-fc-partial", wrong)))

        back(cluster)
        assert_whole(select(client, "d", ALL, PARTIAL), [0, 1, 2, 3, 4])
        assert_whole(select(client, "d", ALL), [0, 1, 2, 3, 4])
        assert (counted(cluster), len(warnings(cluster))) == (3, 3)


def test_a_ticket_keeps_what_was_asked_for(cluster):
    """At another querier, and whatever the second call says."""
    command = flight.FlightDescriptor.for_command(json_ticket("d", ALL).ticket)
    path = flight.FlightDescriptor.for_path("d", "t")
    with querier(cluster) as client, querier(cluster, 1) as other:
        no = headers(("x-fc-partial", "false"))
        for descriptor in (command, path):
            info = client.get_flight_info(descriptor, PARTIAL)
            # It would lack the mark, and drivers show it in place of the answer's.
            assert info.schema is None
            assert client.get_schema(descriptor, PARTIAL).schema.names == ["n"]
            answer = other.do_get(info.endpoints[0].ticket, no).read_all().sort_by("n")
            assert_lacks(answer, [0, 1, 2, 3], "t")
            whole = client.get_flight_info(descriptor)
            assert whole.schema.names == ["n"]
            with pytest.raises(flight.FlightUnavailableError, match=DOWN):
                other.do_get(whole.endpoints[0].ticket, PARTIAL).read_all()
        for listed in client.list_flights(b"db=d", PARTIAL):
            if listed.descriptor.path[-1] == b"t":
                assert listed.schema.names == ["n"]
                with pytest.raises(flight.FlightUnavailableError, match=DOWN):
                    client.do_get(listed.endpoints[0].ticket, PARTIAL).read_all()


def test_what_must_be_whole_is_refused(cluster):
    with querier(cluster) as client:
        for statement in (
            "INSERT INTO u SELECT n FROM t",
            "INSERT INTO u VALUES (8)",
            "CREATE TABLE v AS SELECT n FROM t",
            "DELETE FROM u WHERE n = 7",
            "TRUNCATE TABLE u",
            "DROP TABLE u",
        ):
            with pytest.raises(pa.ArrowInvalid, match="x-fc-partial(.|\n)*INVALID_ARGUMENT"):
                select(client, "d", statement, PARTIAL)
        with pytest.raises(pa.ArrowInvalid, match="x-fc-partial(.|\n)*INVALID_ARGUMENT"):
            put(client, "d", "u", numbers(8), PARTIAL)
        assert_whole(select(client, "d", "SELECT n FROM u"), [7])
        # The older row of the key would pass for the newest.
        keyed = "partial answer of d.public.k: it has a primary key"
        assert_refused(client, "SELECT n FROM k", PARTIAL, keyed)
        assert_refused(client, "SELECT t.n FROM t, k", PARTIAL, keyed)
        back(cluster)
        assert_whole(select(client, "d", "SELECT n FROM k", PARTIAL), [2])


def connect(cluster, **options):
    uri = f"grpc://127.0.0.1:{cluster.of('querier')[0].port()}"
    return adbc.connect(uri, db_kwargs={f"{HEADER}database": "d"} | options, autocommit=True)


def test_adbc_shows_the_mark(cluster):
    with connect(cluster, **{f"{HEADER}x-fc-partial": "true"}) as connection:
        with connection.cursor() as cursor:
            cursor.execute(ALL)
            assert_lacks(cursor.fetch_arrow_table(), [0, 1, 2, 3], "t")
            cursor.execute("SELECT n FROM t WHERE n > ? ORDER BY n", (1,))
            assert_lacks(cursor.fetch_arrow_table(), [2, 3], "t")
            with pytest.raises(ProgrammingError, match="several rows of parameters"):
                cursor.execute("SELECT n FROM t WHERE n > ?", pa.record_batch([[1, 2]], ["v"]))
                cursor.fetch_arrow_table()
            back(cluster)
            cursor.execute(ALL)
            assert_whole(cursor.fetch_arrow_table(), [0, 1, 2, 3, 4])


def test_a_session_takes_partial_answers_until_it_is_told_otherwise(cluster):
    option = "adbc.flight.sql.session.option.partial"
    cookies = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
    with connect(cluster, **cookies) as connection, connection.cursor() as cursor:
        connection.adbc_connection.set_options(**{option: "true"})
        assert connection.adbc_connection.get_option(option) == "true"
        cursor.execute(ALL)
        assert_lacks(cursor.fetch_arrow_table(), [0, 1, 2, 3], "t")
        with pytest.raises(ProgrammingError, match="session option partial"):
            cursor.execute("DELETE FROM u")
            cursor.fetchall()
        with pytest.raises(Exception, match="(?i)partial"):
            connection.adbc_connection.set_options(**{option: "maybe"})
        for otherwise in ("false", ""):
            connection.adbc_connection.set_options(**{option: otherwise})
            with pytest.raises(OperationalError, match=DOWN):
                cursor.execute(ALL)
                cursor.fetchall()


def test_influxdb_clients_show_the_mark(cluster):
    host = f"http://127.0.0.1:{cluster.of('querier')[0].port()}"
    with influxdb_client_3.InfluxDBClient3(host=host, token="any", database="d") as influx:
        asked = {"headers": [(b"x-fc-partial", b"true")]}
        assert_lacks(influx.query(ALL, **asked), [0, 1, 2, 3], "t")
        with pytest.raises(Exception, match="INGESTER_UNAVAILABLE"):
            influx.query(ALL)


def test_a_table_made_of_a_partial_answer_is_not_one(cluster):
    with querier(cluster) as client:
        answer = select(client, "d", ALL, PARTIAL)
        put(client, "d", "kept", answer)
        assert_whole(select(client, "d", "SELECT n FROM kept ORDER BY n"), [0, 1, 2, 3])
        path = flight.FlightDescriptor.for_path("d", "kept")
        assert mark(client.get_flight_info(path).schema) is None
        assert mark(client.get_schema(path).schema) is None
    with connect(cluster) as connection:
        # By GetTables.
        assert mark(connection.adbc_get_table_schema("kept")) is None
