"""S0-11, S0-12: random nested columns, sent by pyarrow, come back as they went in from memory, from
the log after a kill, and from files; with a primary key, too."""

import contextlib
import datetime
import decimal
import os
import random
import secrets

import pyarrow as pa
from harness import headers, put, running, select

# Tables in a run: of these seeds, and of fresh ones. `SEED=n` runs that one.
FIXED = range(60)
FRESH = 30
ROWS = 7
# Else every client can read an answer, and dictionaries, views and runs are gone.
AS_THEY_ARE = headers(("x-fc-native-encoding", "true"))
# What a time column in a key is marked with.
TIME = {"iox::column::type": "iox::column_type::timestamp"}
KEY = {"flightcluster.primary_key": '["id", "time"]'}


def decimals(make, precision, scale):
    """Numbers of at most this many digits."""
    most = 10**precision - 1
    return make(precision, scale), lambda r: decimal.Decimal(r.randint(-most, most)).scaleb(-scale)


def integers(make, bits, signed):
    low = -(1 << bits - 1) if signed else 0
    return make(), lambda r: r.choice([low, low + (1 << bits) - 1, r.randint(low, low + 99)])


def words(r):
    return r.choice(["", "a", "größe", "x" * 40, str(r.random())])


INTEGERS = [
    integers(make, bits, signed)
    for signed, makes in (
        (True, (pa.int8, pa.int16, pa.int32, pa.int64)),
        (False, (pa.uint8, pa.uint16, pa.uint32, pa.uint64)),
    )
    for bits, make in zip((8, 16, 32, 64), makes, strict=True)
]
TEXTS = [
    *((make(), words) for make in (pa.string, pa.large_string)),
    *((make(), lambda r: words(r).encode()) for make in (pa.binary, pa.large_binary)),
]
VIEWS = [(pa.string_view(), words), (pa.binary_view(), lambda r: words(r).encode())]
MOMENT = datetime.datetime(2024, 2, 29, 12, 34, 56)
DAY = datetime.timedelta(days=1)
LEAVES = [
    *INTEGERS,
    *TEXTS,
    *VIEWS,
    (pa.bool_(), lambda r: r.random() < 0.5),
    (pa.float16(), lambda r: r.randint(-2048, 2048) / 2),
    (pa.float32(), lambda r: r.randint(-9999, 9999) / 4),
    (pa.float64(), lambda r: r.choice([float("inf"), -0.0, 5e-324, r.random()])),
    (pa.binary(3), lambda r: r.randbytes(3)),
    (pa.date32(), lambda r: MOMENT.date() + r.randint(-9999, 9999) * DAY),
    (pa.date64(), lambda r: MOMENT.date() + r.randint(-9999, 9999) * DAY),
    (pa.time32("s"), lambda r: r.randrange(86400)),
    (pa.time64("ns"), lambda r: r.randrange(86400 * 10**9)),
    *(
        (pa.timestamp(unit), lambda r: r.randint(-(10**9), 10**9))
        for unit in ("s", "ms", "us", "ns")
    ),
    (pa.timestamp("us", "Europe/Prague"), lambda r: r.randint(-(10**15), 10**15)),
    *(
        (pa.duration(unit), lambda r: r.randint(-(10**9), 10**9))
        for unit in ("s", "ms", "us", "ns")
    ),
    decimals(pa.decimal32, 9, 2),
    decimals(pa.decimal64, 18, 18),
    decimals(pa.decimal128, 38, 5),
    decimals(pa.decimal256, 76, 0),
    (pa.null(), lambda r: None),
]
SMALL_KEYS = [pa.int8(), pa.int16(), pa.uint8(), pa.uint16()]
KEYS = [*SMALL_KEYS, pa.int32(), pa.int64()]


class Columns:
    """Makes columns of a length, each as a pair: as it is sent, and as it has to come back."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def column(self, rows, depth):
        r = self.random
        makers = [self.leaf] * 4 + [self.words_by_key, self.runs, self.one_digit]
        if depth:
            makers += [self.of_lists, self.of_lists, self.fixed_lists, self.structs, self.maps]
        return r.choice(makers)(rows, depth)

    def leaf(self, rows, depth, leaves=LEAVES, nulls=True):
        data_type, value = self.random.choice(leaves)
        missing = self.missing(rows) if nulls else [False] * rows
        made = pa.array([None if gone else value(self.random) for gone in missing], data_type)
        return made, made

    def missing(self, rows):
        often = self.random.choice([0, 0.3, 1])
        return [self.random.random() < often for _ in range(rows)]

    def one_digit(self, rows, depth):
        """Files can't have decimals of one digit in 32 bits."""
        values = [
            self.random.choice([None, *map(decimal.Decimal, range(-9, 10))]) for _ in range(rows)
        ]
        return pa.array(values, pa.decimal32(1, 0)), pa.array(values, pa.decimal64(1, 0))

    def words_by_key(self, rows, depth):
        """Small keys grow; what Parquet readers make no dictionary of is stored plain."""
        floats = [(kind, value) for kind, value in LEAVES if kind in (pa.float32(), pa.float64())]
        kept = [*TEXTS, *INTEGERS, *floats]
        leaves = self.random.choice([kept, kept, VIEWS, [decimals(pa.decimal128, 20, 2)]])
        dictionary, _ = self.leaf(self.random.randint(1, 5), 0, leaves, nulls=False)
        key = self.random.choice(KEYS)
        places = [
            None if gone else self.random.randrange(len(dictionary)) for gone in self.missing(rows)
        ]
        sent = pa.DictionaryArray.from_arrays(pa.array(places, key), dictionary)
        if leaves is VIEWS:
            plain = pa.string() if dictionary.type == pa.string_view() else pa.binary()
            dictionary = pa.array(dictionary.to_pylist(), plain)
        elif leaves is not kept:
            return sent, dictionary.take(pa.array(places, pa.int64()))
        key = pa.int32() if key in SMALL_KEYS else key
        return sent, pa.DictionaryArray.from_arrays(pa.array(places, key), dictionary)

    def runs(self, rows, depth):
        lengths = []
        while sum(lengths) < rows:
            lengths.append(self.random.randint(1, rows - sum(lengths)))
        ends = [sum(lengths[: at + 1]) for at in range(len(lengths))]
        values, plain = self.leaf(len(lengths), 0, [*INTEGERS, *TEXTS])
        sent = pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), values)
        places = [at for at, length in enumerate(lengths) for _ in range(length)]
        return sent, plain.take(pa.array(places, pa.int64()))

    def offsets(self, rows):
        """Where lists begin and end, and how many items there are."""
        ends = [0]
        for _ in range(rows):
            ends.append(ends[-1] + self.random.choice([0, 1, 3]))
        return ends

    def of_lists(self, rows, depth):
        ends, gone = self.offsets(rows), self.missing(rows)
        kind, view, width = self.random.choice(
            [
                (pa.ListArray, False, pa.int32()),
                (pa.LargeListArray, False, pa.int64()),
                (pa.ListViewArray, True, pa.int32()),
                (pa.LargeListViewArray, True, pa.int64()),
            ]
        )

        def make(items):
            if view:
                sizes = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
                parts = (pa.array(ends[:-1], width), pa.array(sizes, width))
            else:
                parts = (pa.array(ends, width),)
            return kind.from_arrays(*parts, items, mask=pa.array(gone, pa.bool_()))

        return tuple(map(make, self.column(ends[-1], depth - 1)))

    def fixed_lists(self, rows, depth):
        size, gone = self.random.choice([1, 3]), self.missing(rows)
        mask = pa.array(gone, pa.bool_())
        items = self.column(rows * size, depth - 1)
        return tuple(pa.FixedSizeListArray.from_arrays(each, size, mask=mask) for each in items)

    def structs(self, rows, depth):
        mask = pa.array(self.missing(rows), pa.bool_())
        pairs = [self.column(rows, depth - 1) for _ in range(self.random.randint(1, 3))]

        def make(columns):
            fields = [
                pa.field(f"f{at}", each.type, metadata={"nested": str(at)})
                for at, each in enumerate(columns)
            ]
            return pa.StructArray.from_arrays(columns, fields=fields, mask=mask)

        return tuple(make(list(each)) for each in zip(*pairs, strict=True))

    def maps(self, rows, depth):
        ends = self.offsets(rows)
        names = pa.array([f"k{at}" for at in range(ends[-1])], pa.string())
        mask = pa.array(self.missing(rows), pa.bool_())
        items = self.column(ends[-1], depth - 1)
        return tuple(
            pa.MapArray.from_arrays(pa.array(ends, pa.int32()), names, each, mask=mask)
            for each in items
        )

    def tables(self):
        """(sent, as it has to come back): one batch each."""
        has_key = self.random.random() < 0.5
        first = [pa.array(range(ROWS), pa.int64()), pa.array(range(ROWS), pa.timestamp("us"))]
        pairs = [(each, each) for each in first]
        pairs += [self.column(ROWS, 3) for _ in range(self.random.randint(1, 4))]

        def make(columns):
            names = ["id", "time", *(f"c{at} ü" for at in range(len(columns) - 2))]
            fields = [
                pa.field(
                    name,
                    each.type,
                    nullable=name[0] == "c",
                    metadata=TIME if name == "time" else {"about": name},
                )
                for name, each in zip(names, columns, strict=True)
            ]
            metadata = {"from": "a test"} | (KEY if has_key else {})
            return pa.record_batch(columns, schema=pa.schema(fields, metadata=metadata))

        return tuple(make(list(each)) for each in zip(*pairs, strict=True))


def seeds():
    if "SEED" in os.environ:
        return [int(os.environ["SEED"])]
    fresh = secrets.randbelow(1 << 40)
    return [*FIXED, *range(fresh, fresh + FRESH)]


@contextlib.contextmanager
def of_seed(seed, place):
    """Whatever fails says which table it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"SEED={seed}, {place}")
        raise


def check(found, expected):
    found.validate(full=True)
    assert found.schema.metadata[b"from"] == b"a test"
    assert found.schema.names == expected.schema.names
    for field in expected.schema:
        there = found.schema.field(field.name)
        assert there.equals(field, check_metadata=True), f"{there} is not {field}"
        # Values by Python, since arrays of some types can't be compared.
        values = [repr(value) for value in found[field.name].to_pylist()]
        assert values == [repr(value) for value in expected[field.name].to_pylist()], field


def test_random_columns_come_back_from_every_place(new_server):
    tables = {seed: Columns(seed).tables() for seed in seeds()}
    server = new_server({"ingest": {"flush_interval": "1h"}})

    def check_all(place):
        with server.client() as client:
            for seed, (_, expected) in tables.items():
                with of_seed(seed, place):
                    found = select(client, "d", f"SELECT * FROM t{seed}", AS_THEY_ARE)
                    check(found, expected)

    with running(server):
        with server.client() as client:
            for seed, (sent, _) in tables.items():
                with of_seed(seed, "the way there"):
                    put(client, "d", f"t{seed}", [sent])
        check_all("memory")
        server.kill()
        server.start()
        assert server.metric("ingest_buffer_rows") == ROWS * len(tables)
        check_all("the log")
        server.stop()
        server.start()
        assert server.metric("ingest_buffer_rows") == 0
        check_all("files")
