"""Every Arrow type: written by DoPut, read fresh from the buffer and again from Parquet."""

import datetime
import decimal
import json
import os
import re

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Server, headers, put, running, select, wait_until

D = decimal.Decimal
DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 34, 56, 789000)


def array(values, type=None):
    return pa.array(values, type)


# name: (array, type after the default encoding; None = the same)
TYPES = {
    "null": (array([None, None], pa.null()), None),
    "bool": (array([True, None, False], pa.bool_()), None),
    **{
        str(t): (array([0, None, 7], t), None)
        for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
    },
    **{
        str(t): (array([0, None, 200], t), None)
        for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    },
    "uint64 max": (array([2**64 - 1], pa.uint64()), None),
    "int64 min": (array([-(2**63)], pa.int64()), None),
    "float16": (array([1.5, None, -0.25], pa.float16()), None),
    "float32": (array([1.5, None, float("inf")], pa.float32()), None),
    "float64": (array([1.5, None, -0.0], pa.float64()), None),
    "string": (array(["", None, "žluťoučký 🐎"], pa.string()), None),
    "large_string": (array(["a", None], pa.large_string()), None),
    "string_view": (array(["a", None, "x" * 40], pa.string_view()), pa.string()),
    "binary": (array([b"", None, b"\x00\xff"], pa.binary()), None),
    "large_binary": (array([b"a", None], pa.large_binary()), None),
    "binary_view": (array([b"a", None, b"x" * 40], pa.binary_view()), pa.binary()),
    "fixed_size_binary": (array([b"abcd", None], pa.binary(4)), None),
    "date32": (array([DAY, None], pa.date32()), None),
    "date64": (array([DAY, None], pa.date64()), None),
    **{
        f"time {t.unit}": (
            array([45_296_000, None], pa.int32() if t.bit_width == 32 else pa.int64()).cast(t),
            None,
        )
        for t in (pa.time32("ms"), pa.time64("us"), pa.time64("ns"))
    },
    "time s": (array([45_296, None], pa.int32()).cast(pa.time32("s")), None),
    **{
        f"timestamp {unit}": (
            array([1_700_000_000, None, -1], pa.int64()).cast(pa.timestamp(unit)),
            None,
        )
        for unit in ("s", "ms", "us", "ns")
    },
    **{
        f"timestamp {unit} with zone": (
            array([1_700_000_000, None], pa.int64()).cast(pa.timestamp(unit, "Europe/Prague")),
            None,
        )
        for unit in ("s", "ms", "us", "ns")
    },
    **{
        f"duration {unit}": (array([5, None, -5], pa.int64()).cast(pa.duration(unit)), None)
        for unit in ("s", "ms", "us", "ns")
    },
    "decimal32": (array([D("1.23"), None], pa.decimal32(7, 2)), pa.decimal128(7, 2)),
    "decimal64": (array([D("1.23"), None], pa.decimal64(17, 2)), pa.decimal128(17, 2)),
    "decimal128": (array([D("1.23"), None, D("-99999999.99")], pa.decimal128(38, 2)), None),
    "decimal256": (array([D("1.23"), None], pa.decimal256(60, 2)), None),
    "list": (array([[1, None], None, []], pa.list_(pa.int32())), None),
    "large_list": (array([[1, None], None, []], pa.large_list(pa.int32())), None),
    "fixed_size_list": (array([[1, 2], None], pa.list_(pa.int32(), 2)), None),
    "struct": (
        array(
            [{"a": 1, "b": "x"}, None, {"a": None, "b": None}],
            pa.struct([("a", pa.int32()), ("b", pa.string())]),
        ),
        None,
    ),
    "list of struct": (
        array([[{"a": 1}], [], None], pa.list_(pa.struct([("a", pa.int64())]))),
        None,
    ),
    "map": (array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())), None),
    "dictionary of string": (array(["a", None, "a"]).dictionary_encode(), pa.string()),
    "dictionary of int64": (array([5, None, 5]).dictionary_encode(), pa.int64()),
    "small dictionary": (
        array(["a", "b"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        pa.string(),
    ),
    "run_end_encoded": (
        pa.RunEndEncodedArray.from_arrays(array([2, 3], pa.int32()), array(["a", "b"])),
        pa.string(),
    ),
    "list_view": (
        pa.ListViewArray.from_arrays([0, 2], [2, 1], array([1, 2, 3])),
        pa.list_(pa.int64()),
    ),
}

# What Parquet cannot keep is refused before it is acknowledged (design 4.3), by these names.
REFUSED = {
    "dense_union": (
        pa.UnionArray.from_dense(
            array([0, 1], pa.int8()),
            array([0, 0], pa.int32()),
            [array([1]), array(["x"])],
        ),
        "Union(Dense",
    ),
    "month_day_nano": (
        array([pa.MonthDayNano([1, 2, 3])], pa.month_day_nano_interval()),
        "Interval(MonthDayNano)",
    ),
    "negative scale": (array([D("1E+3")], pa.decimal128(5, -2)), "Decimal128(5, -2)"),
    "empty struct": (array([{}], pa.struct([])), "Struct()"),
}


def name_of(kind):
    return kind.replace(" ", "_")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """{(type, when): (schema of GetFlightInfo, table)} before and after a restart that flushes."""
    server = Server(tmp_path_factory.mktemp("types"))
    found = {}
    with running(server):
        for when in ("fresh", "from files"):
            with server.client() as client:
                for kind, (values, _) in TYPES.items():
                    table = name_of(kind)
                    try:
                        if when == "fresh":
                            put(client, "d", table, rows_of(values))
                        found[kind, when] = read(client, table)
                    except (flight.FlightError, pa.ArrowException, KeyError) as error:
                        found[kind, when] = error
            if when == "fresh":
                server.stop()
                server.start()
    return found


def rows_of(values):
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(len(values)), pa.int32()), values], ["row", "v"]
    )
    return [batch]


def read(client, table):
    sql = f'SELECT "row", v FROM "{table}" ORDER BY "row"'
    options = headers(("database", "d"))
    info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()), options)
    return info.schema, client.do_get(info.endpoints[0].ticket, options).read_all()


@pytest.mark.parametrize("when", ["fresh", "from files"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_type_comes_back_as_it_went_in(stored, kind, when):
    """S1-4, design 4.2 and 4.3: values and type survive; the schema is announced truthfully."""
    found = stored[kind, when]
    if isinstance(found, Exception):
        raise found
    announced, table = found
    values, other = TYPES[kind]
    expected = other or values.type
    assert table.schema.field("v").type == expected
    assert announced.equals(table.schema)
    assert table["v"].to_pylist() == values.to_pylist()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_type_that_cannot_be_kept_is_refused_by_name(client, database, kind):
    """Design 4.3: before the write-ahead log, naming column and type, at any depth."""
    refused, type_name = REFUSED[kind]
    nested = pa.StructArray.from_arrays([refused], ["inner"])
    for column, values in (("v", refused), ("v.inner", nested)):
        said = re.escape(f'column "{column}" has type {type_name}') + ".*can't be stored: .+"
        with pytest.raises(pa.ArrowInvalid, match=said):
            put(client, database, "t", rows_of(values))
    with pytest.raises(pa.ArrowKeyError):
        select(client, database, "SELECT * FROM t")


def test_column_order_names_and_metadata_survive(client, database):
    """S0-11: field metadata is what tells tags from fields."""
    field = {b"iox::column::type": b"iox::column_type::tag"}
    schema = pa.schema(
        [
            pa.field("Mixed Case", pa.string(), metadata=field),
            pa.field("with.dot", pa.int64()),
            pa.field("größe", pa.float64()),
        ]
    )
    batch = pa.record_batch([["a"], [1], [2.5]], schema=schema)
    put(client, database, "names", [batch])
    table = select(client, database, "SELECT * FROM names")
    assert table.schema.names == schema.names
    assert table.schema.field(0).metadata == field


def test_a_column_becomes_wider(tmp_path):
    """Integers, floats, decimals grow; streams, tickets and the past keep what they were told."""
    server = Server(tmp_path)
    narrow = pa.schema([("n", pa.int32()), ("f", pa.float32()), ("d", pa.decimal128(5, 2))])
    wide = pa.schema([("n", pa.int64()), ("f", pa.float64()), ("d", pa.decimal256(44, 4))])
    cents, mills = [D("1.50"), D("-0.15")], D("123456789012345678.0150")
    rows = {
        narrow: [pa.record_batch([[n], [n / 2], [cents[n - 1]]], schema=narrow) for n in (1, 2)],
        wide: [pa.record_batch([[2**40], [0.1], [mills]], schema=wide)],
    }
    with running(server):
        with server.client() as client:
            put(client, "d", "t", rows[narrow][:1])
        server.stop()
        server.start()
        with server.client() as client:
            path = flight.FlightDescriptor.for_path("d", "t")
            early = client.get_flight_info(path)
            assert early.schema.types == narrow.types
            latest = select(client, "d", "SELECT max(snapshot) AS s FROM system.snapshots")
            snapshot = latest["s"][0].as_py()
            writer, reader = client.do_put(path, narrow)
            with writer:
                put(client, "d", "t", rows[wide])
                writer.write_batch(rows[narrow][1])
                assert json.loads(reader.read().to_pybytes())["durable"]
                writer.done_writing()
            with pytest.raises(flight.FlightUnavailableError, match="SCHEMA_CHANGED"):
                client.do_get(early.endpoints[0].ticket).read_all()
            refused = pa.record_batch({"n": pa.array(["x"])})
            with pytest.raises(pa.ArrowInvalid, match="type Int64, but Utf8 was sent"):
                put(client, "d", "t", [refused])
            refused = pa.record_batch({"d": pa.array([D("0.00001")], pa.decimal128(9, 5))})
            both = r"type Decimal256\(44, 4\), but Decimal128\(9, 5\) was sent"
            with pytest.raises(pa.ArrowInvalid, match=both):
                put(client, "d", "t", [refused])
            past = f"SELECT * FROM t FOR SYSTEM_VERSION AS OF {snapshot}"
            assert select(client, "d", past).schema.types == narrow.types
        for _ in ("in files and in memory", "in files"):
            with server.client() as client:
                assert client.get_schema(path).schema.types == wide.types
                found = select(client, "d", "SELECT * FROM t ORDER BY n")
                assert found.schema.types == wide.types
                values = {"n": [1, 2, 2**40], "f": [0.5, 1.0, 0.1], "d": [*cents, mills]}
                assert found.to_pydict() == values
                for n, d in zip(values["n"], values["d"], strict=True):
                    d = f"'{d}'::decimal(44, 4)"
                    for where in (f"n = {n}", f"d = {d}", f"d >= {d} AND d <= {d}"):
                        one = select(client, "d", f"SELECT n FROM t WHERE {where}")
                        assert one["n"].to_pylist() == [n], where
            server.stop()
            server.start()


def test_what_is_inside_of_a_column_becomes_wider(new_server):
    """Items of lists and fields of structs; a struct with a new field is refused."""
    server = new_server()

    def rows(number, value):
        pairs = pa.struct([("id", pa.int8()), ("values", pa.list_(number))])
        column = pa.array([[{"id": 1, "values": [value, None]}, None], None], pa.list_(pairs))
        return pa.record_batch({"v": column})

    small, large = rows(pa.int16(), 7), rows(pa.int64(), 2**40)
    with running(server):
        with server.client() as client:
            put(client, "d", "t", [small])
        server.stop()
        server.start()
        with server.client() as client:
            put(client, "d", "t", [large])
            put(client, "d", "t", [small])
            more = pa.record_batch({"v": pa.array([[{"id": 1, "values": [1], "new": 1}]])})
            with pytest.raises(pa.ArrowInvalid, match='Int64.* but .*"new".* was sent'):
                put(client, "d", "t", [more])
        for _ in ("in files and in memory", "in files"):
            with server.client() as client:
                found = select(client, "d", "SELECT v FROM t ORDER BY v[1]['values'][1]")
                assert found.schema.types == large.schema.types
                values = [*small["v"].to_pylist()[:1] * 2, *large["v"].to_pylist(), None, None]
                assert found["v"].to_pylist() == values
                one = "SELECT count(*) AS n FROM t WHERE v[1]['values'][1] = "
                assert select(client, "d", f"{one} 7")["n"].to_pylist() == [2]
                assert select(client, "d", f"{one} {2**40}")["n"].to_pylist() == [1]
            server.stop()
            server.start()


def test_a_decimal_with_more_digits_than_its_type_is_refused(client, database):
    """Arrow's libraries don't look at numbers in a buffer: this one has eleven digits."""
    number = (12345678901).to_bytes(16, "little")
    column = pa.Array.from_buffers(pa.decimal128(9, 2), 1, [None, pa.py_buffer(number)])
    why = r'values of column "d" can\'t be stored as Decimal128\(9, 2\)'
    with pytest.raises(pa.ArrowInvalid, match=why):
        put(client, database, "digits", [pa.record_batch({"d": column})])
    good = pa.record_batch({"d": pa.array([D("-9999999.99")], pa.decimal128(9, 2))})
    put(client, database, "digits", [good])
    assert select(client, database, "SELECT * FROM digits").to_batches() == [good]


def test_random_tables_round_trip(client, database):
    """Many shapes at once: nulls anywhere, empty batches, several batches."""
    import random

    seed = int(os.environ.get("FLIGHTCLUSTER_TEST_SEED", random.randrange(1 << 32)))
    print(f"FLIGHTCLUSTER_TEST_SEED={seed}")
    chance = random.Random(seed)
    makers = [
        lambda: chance.choice([None, chance.randint(-(2**40), 2**40)]),
        lambda: chance.choice([None, chance.random()]),
        lambda: chance.choice([None, "x" * chance.randint(0, 30)]),
        lambda: chance.choice([None, [chance.randint(0, 9) for _ in range(chance.randint(0, 4))]]),
    ]
    types = [pa.int64(), pa.float64(), pa.string(), pa.list_(pa.int64())]
    schema = pa.schema([("row", pa.int64()), *((f"c{i}", t) for i, t in enumerate(types))])
    batches, row = [], 0
    for _ in range(20):
        size = chance.choice([0, 1, 7, 300])
        columns = [pa.array(range(row, row + size), pa.int64())]
        columns += [
            pa.array([make() for _ in range(size)], t)
            for make, t in zip(makers, types, strict=True)
        ]
        batches.append(pa.record_batch(columns, schema=schema))
        row += size
    put(client, database, "mixed", batches)
    found = select(client, database, "SELECT * FROM mixed ORDER BY row")
    assert found.equals(pa.Table.from_batches(batches))


def test_a_table_made_of_dictionaries_that_files_do_not_have_is_read_from_files(new_server):
    """They were acknowledged and read from memory, and no file of them could be read."""
    server = new_server({"ingest": {"flush_interval": "100ms"}})
    with running(server), server.client() as client:
        for name, kind in (
            ("money", "Dictionary(Int32, Decimal128(20, 2))"),
            ("small", "Dictionary(Int8, Utf8)"),
        ):
            select(client, "d", f"CREATE TABLE {name} AS SELECT arrow_cast('1', '{kind}') AS v")
        files = "SELECT count(*) AS n FROM system.files"
        wait_until(lambda: select(client, "d", files)["n"][0].as_py() == 2, "the rows are in files")
        assert select(client, "d", "SELECT v FROM money")["v"].to_pylist() == [D("1.00")]
        assert select(client, "d", "SELECT v FROM small")["v"].to_pylist() == ["1"]
