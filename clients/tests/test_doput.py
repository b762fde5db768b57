"""DoPut by path, and reading back what it wrote in every way Flight offers."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest
from harness import headers, json_ticket, put, read_info, running, select, wait_until

BATCHES = [
    pa.record_batch({"id": [1, 2, 3], "name": ["a", None, "c"], "value": [0.5, 1.5, None]}),
    pa.record_batch({"id": [4], "name": ["d"], "value": [4.5]}),
    pa.record_batch({"id": [5, 6], "name": ["e", "f"], "value": [5.5, 6.5]}),
]
WHOLE = pa.Table.from_batches(BATCHES)


@pytest.fixture
def written(client, database):
    """A table `t` with the six rows of BATCHES."""
    put(client, database, "t", BATCHES)
    return WHOLE


def test_every_batch_is_acknowledged_with_sequence_rows_and_durability(client, database):
    """S3-19: the server answers during the write, once per batch."""
    acknowledged = put(client, database, "t", BATCHES)
    assert [answer["rows"] for answer in acknowledged] == [3, 1, 2]
    assert all(answer["durable"] is True for answer in acknowledged)
    sequences = [answer["sequence"] for answer in acknowledged]
    assert sequences == sorted(set(sequences)), "sequences grow"


def test_an_acknowledged_batch_is_in_the_next_query_while_the_stream_is_open(client, database):
    """S1-22, design 4.3: acknowledged means visible, also before the writer is done."""
    descriptor = flight.FlightDescriptor.for_path(database, "t")
    writer, reader = client.do_put(descriptor, BATCHES[0].schema)
    with writer:
        seen = 0
        for batch in BATCHES:
            writer.write_batch(batch)
            json.loads(reader.read().to_pybytes())
            seen += batch.num_rows
            count = select(client, database, "SELECT count(*) AS n FROM t")
            assert count["n"].to_pylist() == [seen]
        writer.done_writing()


def test_rows_come_back_by_sql(client, database, written):
    """S3-18."""
    assert select(client, database, "SELECT * FROM t ORDER BY id").equals(written)


def test_rows_come_back_by_path(client, database, written):
    """S3-1, S3-6, S3-18: GetFlightInfo for the path, then DoGet at every endpoint."""
    info = client.get_flight_info(flight.FlightDescriptor.for_path(database, "t"))
    assert read_info(client, info).sort_by("id").equals(written)


def test_a_path_with_a_schema_names_the_same_table(client, database, written):
    """S3-1: [database, schema, table]."""
    info = client.get_flight_info(flight.FlightDescriptor.for_path(database, "public", "t"))
    assert read_info(client, info).num_rows == written.num_rows
    more = flight.FlightDescriptor.for_path(database, "public", "t")
    writer, reader = client.do_put(more, BATCHES[0].schema)
    with writer:
        writer.write_batch(BATCHES[0])
        reader.read()
        writer.done_writing()
    count = select(client, database, "SELECT count(*) AS n FROM t")["n"][0].as_py()
    assert count == written.num_rows + 3


def test_the_endpoint_of_a_path_has_no_location_by_default(client, database, written):
    """Design 4.2: one endpoint, empty location list: any client reads it on its own channel."""
    info = client.get_flight_info(flight.FlightDescriptor.for_path(database, "t"))
    assert [endpoint.locations for endpoint in info.endpoints] == [[]]
    assert info.descriptor.path == [database.encode(), b"t"]


DESCRIPTORS = {
    "path": lambda database: flight.FlightDescriptor.for_path(database, "t"),
    "sql": lambda database: flight.FlightDescriptor.for_command(
        b"SELECT name, id * 2 AS twice, value IS NULL AS missing FROM t"
    ),
    "json": lambda database: flight.FlightDescriptor.for_command(
        json.dumps({"database": database, "sql_query": "SELECT count(*), name FROM t GROUP BY 2"})
    ),
}


@pytest.mark.parametrize("kind", DESCRIPTORS)
def test_the_advertised_schema_is_the_schema_of_the_stream(client, database, written, kind):
    """S0-14, S3-11, design 4.2: GetSchema = GetFlightInfo = stream, nullability included."""
    options = headers(("database", database))
    descriptor = DESCRIPTORS[kind](database)
    info = client.get_flight_info(descriptor, options)
    stream = client.do_get(info.endpoints[0].ticket, options)
    assert client.get_schema(descriptor, options).schema.equals(stream.schema)
    assert info.schema.equals(stream.schema)
    for chunk in stream:
        assert chunk.data.schema.equals(stream.schema)


def test_the_schema_is_readable_before_any_data_and_without_rows(client, database, written):
    """S0-14: an empty result has its full schema."""
    stream = client.do_get(json_ticket(database, "SELECT id, name FROM t WHERE id < 0"))
    assert stream.schema.names == ["id", "name"]
    assert stream.read_all().num_rows == 0


def test_plain_sql_in_a_command_runs_in_the_database_of_the_header(client, database, written):
    """S3-4."""
    options = headers(("database", database))
    descriptor = flight.FlightDescriptor.for_command(b"SELECT sum(id) AS s FROM t")
    info = client.get_flight_info(descriptor, options)
    assert read_info(client, info, options)["s"].to_pylist() == [21]
    assert info.descriptor.command == descriptor.command


@pytest.mark.parametrize("name", ["database", "bucket", "bucket-name", "iox-namespace-name"])
def test_every_database_header_is_understood(client, database, written, name):
    """Design 4.1."""
    options = headers((name, database))
    descriptor = flight.FlightDescriptor.for_command(b"SELECT count(*) AS n FROM t")
    info = client.get_flight_info(descriptor, options)
    assert read_info(client, info, options)["n"].to_pylist() == [6]


def test_a_json_command_binds_its_parameters(client, database, written):
    """S3-5: bound, not pasted into the text."""
    command = {
        "database": database,
        "sql_query": "SELECT count(*) AS n FROM t WHERE name = $name",
        "params": {"name": "a' OR '1'='1"},
    }
    descriptor = flight.FlightDescriptor.for_command(json.dumps(command))
    info = client.get_flight_info(descriptor)
    assert read_info(client, info)["n"].to_pylist() == [0]


def test_a_ticket_can_be_redeemed_twice(client, database, written):
    """S4-19: a ticket is a reference, not a result that is used up."""
    info = client.get_flight_info(flight.FlightDescriptor.for_path(database, "t"))
    ticket = info.endpoints[0].ticket
    first, second = (client.do_get(ticket).read_all().sort_by("id") for _ in range(2))
    assert first.equals(second)


def test_a_ticket_reads_the_rows_of_the_moment_it_is_redeemed(client, database, written):
    """Design 4.4: rows acknowledged after GetFlightInfo may appear, none may be lost."""
    info = client.get_flight_info(flight.FlightDescriptor.for_path(database, "t"))
    put(client, database, "t", BATCHES[:1])
    assert read_info(client, info).num_rows in (6, 9)


def test_every_way_to_read_gives_the_same_rows(client, database, written):
    """S0-15: all, pandas, chunk, reader."""
    ticket = json_ticket(database, "SELECT * FROM t")
    rows = [
        client.do_get(ticket).read_all().num_rows,
        len(client.do_get(ticket).read_pandas()),
        sum(chunk.data.num_rows for chunk in client.do_get(ticket)),
        client.do_get(ticket).to_reader().read_all().num_rows,
    ]
    assert rows == [6, 6, 6, 6]


def test_list_flights_shows_the_table(client, database, written):
    """S2-1, S4-50."""
    paths = [info.descriptor.path for info in client.list_flights()]
    assert any(path[0] == database.encode() and path[-1] == b"t" for path in paths)


def test_a_new_nullable_column_extends_the_table(client, database, written):
    """S0-10, design 4.3: rows from before have nulls in it."""
    put(client, database, "t", [pa.record_batch({"id": [7], "unit": ["K"]})])
    table = select(client, database, "SELECT id, name, unit FROM t ORDER BY id")
    assert table["unit"].to_pylist() == [None] * 6 + ["K"]
    assert table["name"].to_pylist()[-1] is None


def test_a_column_of_another_type_is_refused_by_name(client, database, written):
    """Design 4.3: InvalidArgument naming the column and both types; nothing is written."""
    with pytest.raises(pa.ArrowInvalid, match="(?s)value.*Float64.*Utf8|value.*Utf8.*Float64"):
        put(client, database, "t", [pa.record_batch({"id": [7], "value": ["text"]})])
    assert select(client, database, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [6]


def test_a_large_batch_is_taken_in_one_message_and_comes_back_in_small_ones(client, database):
    """S1-3, S2-30: pyarrow sends 32 MiB whole; ADBC takes no message over 16 MiB."""
    rows = 4 << 20
    batch = pa.record_batch({"n": pa.array(range(rows), pa.int64())})
    (answer,) = put(client, database, "large", [batch])
    assert answer["rows"] == rows
    largest = 0
    total = 0
    for chunk in client.do_get(json_ticket(database, "SELECT n FROM large")):
        largest = max(largest, chunk.data.nbytes)
        total += pc.sum(chunk.data["n"]).as_py() or 0
    assert total == rows * (rows - 1) // 2
    assert largest <= 4 << 20


def test_dictionary_batches_with_growing_dictionaries_are_stored_as_their_values(client, database):
    """S1-5: a dictionary may be replaced between batches of one stream."""
    schema = pa.schema([("k", pa.dictionary(pa.int32(), pa.string()))])
    batches = [
        pa.record_batch([pa.array(values).dictionary_encode()], schema=schema)
        for values in (["x", "y", "x"], ["z", "x"], ["y", "w", None])
    ]
    put(client, database, "d", batches)
    table = select(client, database, "SELECT k, count(*) AS n FROM d GROUP BY k ORDER BY k")
    assert table["k"].to_pylist() == ["w", "x", "y", "z", None]
    assert table["n"].to_pylist() == [1, 3, 2, 1, 1]


def test_rows_of_a_table_with_a_dictionary_are_inserted_by_a_query(client, database):
    """The dictionary travels in front of the first batch."""
    schema = pa.schema([("k", pa.dictionary(pa.int32(), pa.string()))])
    batch = pa.record_batch([pa.array(["x", "y", "x"]).dictionary_encode()], schema=schema)
    put(client, database, "d", [batch])
    limit = headers(timeout=20)
    for statement in ("INSERT INTO d SELECT * FROM d", "CREATE TABLE copy AS SELECT * FROM d"):
        select(client, database, statement, limit)
    for table in ("d", "copy"):
        counted = select(client, database, f"SELECT k, count(*) AS n FROM {table} GROUP BY k")
        assert sorted(zip(*counted.to_pydict().values(), strict=True)) == [("x", 4), ("y", 2)]


@pytest.mark.parametrize("fields", ['"sequence": "7"', '"sequence": -1', '"sequence": null'])
def test_a_producer_that_is_half_understood_is_refused(client, database, fields):
    """Taken for none, its repeats would be stored again."""
    schema = pa.schema([("n", pa.int64())])
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(database, "p"), schema)
    batch = pa.record_batch([pa.array([1])], schema=schema)
    with pytest.raises(pa.ArrowInvalid, match="expected a text and a number"):
        with writer:
            writer.write_with_metadata(batch, f'{{"producer": "meter-17", {fields}}}'.encode())
            writer.done_writing()
            reader.read()


def test_a_writer_that_falls_silent_is_ended_and_its_memory_given_back(new_server):
    """S2-34: what it has written stays; others get the room of what it keeps for the rest."""
    server = new_server(
        {
            "server": {
                "stream_idle_timeout": "1s",
                "stream_keepalive_interval": "100ms",
                "max_message_bytes": "2MiB",
            },
            "ingest": {"buffer_bytes": "2MiB", "flush_bytes": "1MiB", "flush_interval": "100ms"},
        }
    )
    names = [f"{number:01024}" for number in range(1400)]
    column = pa.DictionaryArray.from_arrays(pa.array([7], pa.int32()), pa.array(names))
    batch = pa.record_batch({"name": column})
    with running(server), server.client() as client, server.client() as other:
        descriptor = flight.FlightDescriptor.for_path("d", "t")
        writer, reader = client.do_put(descriptor, batch.schema)
        writer.write_batch(batch)
        assert json.loads(reader.read().to_pybytes())["durable"] is True
        # Not as long as the dictionary of the silent one is kept: the buffer is for less than both.
        put(other, "d", "large", [pa.record_batch({"name": names[:1200]})])
        assert reader.read() is None
        wait_until(lambda: server.metric("rpc_open", method="DoPut") == 0, "the call has ended")
        with pytest.raises(flight.FlightTimedOutError, match=r"sent nothing for 1s.*STALLED"):
            writer.close()
        found = select(other, "d", "SELECT name FROM t")
        assert found["name"].to_pylist() == [names[7]]
