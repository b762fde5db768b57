"""Streams with a name: stored once, for clients that can't say anything of a batch."""

import contextlib
import pathlib
import sys

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import put, running, select

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

HEADER = "adbc.flight.sql.rpc.call_header."
SCHEMA = pa.schema([("n", pa.int64())])


def table_of(count, batch_rows):
    """Numbers from 0 on, cut into batches of so many rows."""
    rows = pa.table({"n": range(count)}, schema=SCHEMA)
    return pa.Table.from_batches(rows.to_batches(max_chunksize=batch_rows), SCHEMA)


def named(producer, sequence):
    pairs = [(b"x-fc-producer", producer), (b"x-fc-sequence", sequence)]
    return flight.FlightCallOptions(
        headers=[(name, str(value).encode()) for name, value in pairs if value is not None]
    )


def ingest(connection, rows, producer="loader", sequence=1, table="t"):
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(
            **{f"{HEADER}x-fc-producer": producer, f"{HEADER}x-fc-sequence": str(sequence)}
        )
        return cursor.adbc_ingest(table, rows, mode="create_append")


def numbers(client, database, table="t"):
    return select(client, database, f"SELECT n FROM {table} ORDER BY n")["n"].to_pylist()


def test_an_ingest_that_is_repeated_counts_once_also_after_kill_9(new_server, connect_adbc):
    """Issue section 1: producer and sequence of a client that sets only headers."""
    server = new_server({"ingest": {"flush_interval": "1h"}})
    with running(server):
        connection = connect_adbc(server, "d")
        for _ in range(2):
            assert ingest(connection, table_of(1000, 100)) == 1000
        with server.client() as client:
            assert numbers(client, "d") == list(range(1000))
        server.kill()
        server.start()
        connection = connect_adbc(server, "d")
        # Cut otherwise, and it is the same stream all the same.
        assert ingest(connection, table_of(1000, 333)) == 1000
        with server.client() as client:
            assert numbers(client, "d") == list(range(1000))
            # Another number, and another producer, are other streams.
            assert ingest(connection, table_of(10, 10), sequence=2) == 10
            assert ingest(connection, table_of(10, 10), producer="other") == 10
            assert len(numbers(client, "d")) == 1020


def begin(client, count, batch_rows):
    """Sends a stream and leaves it open when its rows are acknowledged."""
    descriptor = flight.FlightDescriptor.for_path("d", "t")
    writer, reader = client.do_put(descriptor, SCHEMA, named("p", 7))
    for batch in table_of(count, batch_rows).to_batches():
        writer.write_batch(batch)
        assert reader.read() is not None
    return writer


def test_a_stream_that_broke_off_goes_on_where_its_stored_rows_end(tmp_path):
    """Through a querier and two ingesters, with the first attempt cut off by a kill."""
    settings = {"ingest": {"flush_interval": "1h"}, "server": {"drain_window": "100ms"}}
    with started_cluster(tmp_path, settings, ingesters=2, queriers=1) as processes:
        (querier,), ingesters = processes.of("querier"), processes.of("ingester")
        with querier.connect() as client:
            writer = begin(client, 250, 100)
            for ingester in ingesters:
                ingester.kill()
            with contextlib.suppress(pa.ArrowException):
                writer.close()
        for ingester in ingesters:
            ingester.start()
            ingester.wait_until_ready()
        repeats = []
        for process in (ingesters[0], querier, ingesters[1], querier):
            with process.connect() as client:
                answers = put(client, "d", "t", table_of(1000, 90), named("p", 7))
                assert sum(answer["rows"] for answer in answers) == 1000
                repeats.append([answer.get("duplicate", False) for answer in answers])
        # Of the first repeat two batches were there, and the third in part.
        assert repeats == [[True] * 2 + [False] * 10] + [[True] * 12] * 3
        with querier.connect() as client:
            assert numbers(client, "d") == list(range(1000))
        processes.stop()


@pytest.mark.parametrize(
    ("producer", "sequence", "problem"),
    [
        ("p", None, "x-fc-producer is given without x-fc-sequence; send both"),
        (None, 7, "x-fc-sequence is given without x-fc-producer; send both"),
        ("p", "seven", 'x-fc-sequence is "seven"; send a number'),
        ("p" * 300, 1, "a producer id has 1 to 256 bytes"),
    ],
)
def test_a_name_that_is_half_understood_is_refused(client, database, producer, sequence, problem):
    with pytest.raises(pa.ArrowInvalid, match=f"{problem}(.|\n)*INVALID_ARGUMENT"):
        put(client, database, "t", table_of(10, 10), named(producer, sequence))


def field(number, value):
    """A field of a protobuf message: a small number, or bytes of any length."""

    def varint(number):
        more, last = divmod(number, 128)
        return bytes([last]) if more == 0 else bytes([last | 128]) + varint(more)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def ingest_by_options(client, database, rows, options, headers=None):
    """CommandStatementIngest as a driver sends it whose options the caller sets."""
    entries = [
        field(1, name.encode()) + field(2, value.encode()) for name, value in options.items()
    ]
    modes = field(1, 1) + field(2, 2)  # create, append
    command = field(1, modes) + field(2, b"t") + field(4, database.encode())
    command += b"".join(field(1000, entry) for entry in entries)
    url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementIngest"
    descriptor = flight.FlightDescriptor.for_command(field(1, url) + field(2, command))
    writer, reader = client.do_put(descriptor, SCHEMA, headers)
    with writer:
        writer.write_table(rows)
        writer.done_writing()
        return reader.read().to_pybytes()


def test_options_of_an_ingest_name_it_as_headers_do(client, database):
    options = {"flightcluster.producer": "p", "flightcluster.sequence": "7", "other": "x"}
    stored = field(1, 10)  # DoPutUpdateResult.record_count
    assert ingest_by_options(client, database, table_of(10, 4), options) == stored
    both = ingest_by_options(client, database, table_of(10, 3), options, named("p", 7))
    assert both == stored
    assert numbers(client, database) == list(range(10))
    with pytest.raises(pa.ArrowInvalid, match="headers name stream 8 of producer"):
        ingest_by_options(client, database, table_of(10, 4), options, named("p", 8))
    del options["flightcluster.sequence"]
    with pytest.raises(pa.ArrowInvalid, match="is given without flightcluster.sequence"):
        ingest_by_options(client, database, table_of(10, 4), options)
    assert numbers(client, database) == list(range(10))


def test_a_statement_has_no_name_of_a_stream(connection):
    """It would be taken for one that is done once."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n BIGINT)")
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(
            **{f"{HEADER}x-fc-producer": "p", f"{HEADER}x-fc-sequence": "1"}
        )
        with pytest.raises(adbc_driver_manager.Error, match="name a stream of rows"):
            cursor.adbc_statement.set_sql_query("INSERT INTO t VALUES (1)")
            cursor.adbc_statement.execute_update()
