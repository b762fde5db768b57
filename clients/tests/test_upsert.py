"""Tables with a primary key, from clients: the later row of a key is the one that is read."""

import datetime
import json

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_manager import ProgrammingError
from harness import headers, put, select, wait_until

KEY = {"flightcluster.primary_key": json.dumps(["host", "time"])}
SCHEMA = pa.schema(
    [("host", pa.string()), ("time", pa.timestamp("us")), ("v", pa.int64())], metadata=KEY
)
CREATE = "CREATE TABLE t (host VARCHAR, time TIMESTAMP, v BIGINT, PRIMARY KEY (host, time))"
# Every put is a file soon, and every two files become one.
BUSY = {
    "ingest": {"flush_interval": "20ms", "flushed_grace": "1s"},
    "upkeep": {"interval": "50ms", "compaction_min_files": 2},
}


def rows(*values):
    """Rows of (host, v), all at one time."""
    at = datetime.datetime(2026, 1, 1)
    hosts, numbers = [host for host, _ in values], [v for _, v in values]
    return pa.table([hosts, [at] * len(values), numbers], schema=SCHEMA)


def read(client, database, table="t"):
    answer = select(client, database, f"SELECT host, v FROM {table} ORDER BY host")
    return list(zip(*answer.to_pydict().values(), strict=True))


def run(cursor, sql):
    """A statement of which the rows do not matter."""
    cursor.execute(sql)
    cursor.fetchall()


def test_a_stream_asks_for_a_key_and_overwrites_by_it(client, database):
    put(client, database, "t", rows(("a", 1), ("b", 2), ("a", 3)))
    assert read(client, database) == [("a", 3), ("b", 2)]
    # Once the table has its key, nobody has to name it.
    put(client, database, "t", rows(("b", 4)).replace_schema_metadata(None))
    assert read(client, database) == [("a", 3), ("b", 4)]
    assert select(client, database, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [2]
    other = SCHEMA.with_metadata({"flightcluster.primary_key": '["time"]'})
    with pytest.raises(pa.ArrowInvalid, match=r"primary key \(host, time\).*SCHEMA_CONFLICT"):
        put(client, database, "t", rows(("a", 1)).cast(other))
    with pytest.raises(pa.ArrowInvalid, match="does not allow nulls"):
        put(client, database, "t", rows((None, 1)))


def test_sql_declares_a_key_and_overwrites_by_it(connection, client, database):
    with connection.cursor() as cursor:
        run(cursor, CREATE)
        for v in (1, 2):
            run(cursor, f"INSERT INTO t VALUES ('a', TIMESTAMP '2026-01-01T00:00:00', {v})")
        cursor.execute("SELECT * FROM t")
        assert cursor.fetch_arrow_table().to_pydict() == {
            "host": ["a"],
            "time": [datetime.datetime(2026, 1, 1)],
            "v": [2],
        }
        for sql, why in [
            ("CREATE TABLE u (a DOUBLE, time TIMESTAMP, PRIMARY KEY (a, time))", "Float64"),
            ("CREATE TABLE u (a BIGINT PRIMARY KEY, time TIMESTAMP)", "add .*time.* to it"),
            ("CREATE TABLE u (__fc_order BIGINT)", "reserved"),
        ]:
            with pytest.raises(Exception, match=why):
                run(cursor, sql)
    put(client, database, "t", rows(("a", 5)).replace_schema_metadata(None))
    assert read(client, database) == [("a", 5)]


def test_bulk_ingest_makes_a_table_with_a_key(connection, client, database):
    with connection.cursor() as cursor:
        for v in (1, 2):
            cursor.adbc_ingest("t", rows(("a", v), ("b", v)), mode="create_append")
    assert read(client, database) == [("a", 2), ("b", 2)]
    # A key that can't be: nothing is left behind.
    wrong = SCHEMA.with_metadata({"flightcluster.primary_key": '["v", "nothing"]'})
    with connection.cursor() as cursor, pytest.raises(ProgrammingError, match="nothing"):
        cursor.adbc_ingest("u", rows(("a", 1)).cast(wrong), mode="create")
    with pytest.raises(KeyError, match="not found"):
        select(client, database, "SELECT * FROM u")


def primary_keys(client, database, table):
    """CommandGetPrimaryKeys, packed by hand: no client package here asks it."""

    def text(field, value):
        return bytes([field << 3 | 2, len(value)]) + value

    command = text(1, database.encode()) + text(3, table.encode())
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetPrimaryKeys"
    descriptor = flight.FlightDescriptor.for_command(text(1, name) + text(2, command))
    options = headers(("database", database))
    ticket = client.get_flight_info(descriptor, options).endpoints[0].ticket
    return client.do_get(ticket, options).read_all()


def test_the_key_is_shown_and_the_orders_are_not(connection, client, database):
    put(client, database, "t", rows(("a", 1)))
    put(client, database, "plain", pa.table({"v": [1]}))
    keys = primary_keys(client, database, "t")
    assert keys["column_name"].to_pylist() == ["host", "time"]
    assert keys["key_sequence"].to_pylist() == [1, 2]
    assert primary_keys(client, database, "plain").num_rows == 0
    objects = connection.adbc_get_objects(depth="all", catalog_filter=database)
    assert "__fc" not in str(objects.read_all().to_pydict())
    table = flight.FlightDescriptor.for_path(database, "t")
    assert client.get_schema(table).schema.names == ["host", "time", "v"]
    columns = select(client, database, "SELECT column_name FROM information_schema.columns")
    assert "__fc_order" not in columns["column_name"].to_pylist()
    listed = select(client, database, "SELECT table_name, primary_key FROM system.tables")
    assert dict(zip(*listed.to_pydict().values(), strict=True)) == {
        "t": "host, time",
        "plain": None,
    }


def test_a_key_is_read_once_while_files_are_compacted_and_after_a_crash(new_server):
    server = new_server(BUSY)
    server.start()
    with server.client() as client:
        for v in range(60):
            put(client, "d", "t", rows(("a", v), ("b", -v)))
            assert read(client, "d") == [("a", v), ("b", -v)]
        causes = "SELECT count(*) AS n FROM system.compactions"
        wait_until(lambda: select(client, "d", causes)["n"][0].as_py() > 0, "files are compacted")
        put(client, "d", "t", rows(("a", 1000)))
    server.kill()
    server.start()
    with server.client() as client:
        assert read(client, "d") == [("a", 1000), ("b", -59)]
        put(client, "d", "t", rows(("b", 7)))
        assert read(client, "d") == [("a", 1000), ("b", 7)]


def test_a_repeated_batch_does_not_take_a_later_row_away(client, database):
    def send(sequence, v):
        identity = json.dumps({"producer": "p", "sequence": sequence}).encode()
        descriptor = flight.FlightDescriptor.for_path(database, "t")
        writer, reader = client.do_put(descriptor, SCHEMA)
        with writer:
            writer.write_with_metadata(rows(("a", v)).to_batches()[0], identity)
            writer.done_writing()
            return json.loads(reader.read().to_pybytes())

    send(1, 10)
    put(client, database, "t", rows(("a", 20)))
    assert send(1, 10)["duplicate"] is True
    assert read(client, database) == [("a", 20)]


def test_a_delete_removes_a_key_with_every_row_it_had(client, connection, database):
    def change(sql):
        with connection.cursor() as cursor:
            cursor.adbc_statement.set_sql_query(sql)
            return cursor.adbc_statement.execute_update()

    put(client, database, "t", rows(("a", 3), ("b", 9), ("c", 1)))
    put(client, database, "t", rows(("a", 7), ("b", 2)))
    assert change("DELETE FROM t WHERE v > 5") == 1
    assert read(client, database) == [("b", 2), ("c", 1)]
    put(client, database, "t", rows(("a", 4), ("b", 8)))
    assert change("DELETE FROM t WHERE host = 'b'") == 1
    assert read(client, database) == [("a", 4), ("c", 1)]
    assert change("TRUNCATE TABLE t") == 2
    assert read(client, database) == []
    put(client, database, "t", rows(("b", 5)))
    assert read(client, database) == [("b", 5)]
