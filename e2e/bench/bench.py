#!/usr/bin/env python3
"""Measures `flightcluster standalone` against peers, in pairs in one run.

    bench.py [--rounds N] [--megabytes M]

All serve on the loopback interface. In every round each of a pair is measured once, one right after
the other, so that a busy machine slows both; the table shows the median of each, of the ratios, and
the quartiles of the ratios, which say how far to trust them. FLIGHTCLUSTER_BIN is the binary: a
release build, or the figures mean nothing.

Against pyarrow's C++ Flight server, which keeps batches in memory and does nothing else:
- put: DoPut of a table, every batch acknowledged; ours is durable on disk;
- put, no disk: the same with our files in memory (/dev/shm), which leaves out what the disk costs;
- get: DoGet of the whole table; ours reads Parquet files.
Against DataFusion in this process, over the very same Parquet files, read once before:
- scan: every value of the table is looked at, one row is the answer;
- aggregate: a GROUP BY of a text column;
- filter: a sum over the rows that have one of its texts;
- fetch: every row of the table, here through DoGet and there without leaving the process.
By itself:
- 4 writers: bytes a second of four streams against those of one, of large batches that are sent
  without waiting, and of small ones of which each is sent when the one before is acknowledged; the
  same for pyarrow's server, which shows what this machine has left for three more clients;
- small puts: the latency of one row in a call of its own; and, under a steady load of such calls,
  the time from sending a row until a query counts it;
- files: how many a table has under that load, while compaction goes on;
- primary key: a table with one against the same rows in one without: how fast it takes them; a scan
  of its files after compaction; the same when one late row is in memory, and when a thousand spread
  over all times are in files;
- caches: a scan of files in S3 by a server that has seen none of them, by one that was started
  again and has them on disk, and by one that has them in memory. VERSITYGW is an S3 server;
- memory: resident before a burst of writes, and ten seconds after its rows were in files; and ten
  seconds after its end where rows wait for files as long as they do without settings;
- malloc: the rate of puts, and the resident memory of a burst, with each preset (S4-44).
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import datafusion
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

sys.path.append(str(pathlib.Path(__file__).parents[1] / "stores"))

import versitygw

BINARY = os.environ.get("FLIGHTCLUSTER_BIN", "flightcluster")
VERSITYGW = os.environ.get("VERSITYGW", "versitygw")
DATABASE = "bench"
BATCH_ROWS = 65_536
SMALL_CALLS = 200
# What a writer that waits sends at once, and how often.
SMALL_ROWS, SMALL_BATCHES = 1000, 400
# The steady load of small writes: calls a second, from this many clients, for this long.
LOAD_PER_SECOND, LOAD_CLIENTS, LOAD_SECONDS = 1000, 8, 10
# For the number of files: how long, and how often it is looked at.
GROWTH_SECONDS, GROWTH_STEP = 90, 10
CACHE_ROUNDS = 3
KEYED_ROUNDS = 5
# Parts a table is written in, each a file, and how many of them compaction makes one.
KEYED_PARTS, KEYED_MIN_FILES = 8, 4
COMPACTED_SECONDS = 10
LATE_ROWS = 1000
SCAN = "SELECT min(time) AS a, max(id) AS b, sum(value) AS c, max(tag) AS d FROM rows"
FETCH = "SELECT * FROM rows"
AGGREGATE = "SELECT tag, count(*) AS n, sum(value) AS s FROM rows GROUP BY tag ORDER BY tag"
FILTER = "SELECT count(*) AS n, sum(value) AS s FROM rows WHERE tag = 'tag-042'"


class InMemory(flight.FlightServerBase):
    """The peer: C++ Flight without any work behind it."""

    def __init__(self):
        super().__init__("grpc://127.0.0.1:0")
        self.batches, self.schema = [], None

    def do_put(self, _context, _descriptor, reader, writer):
        self.schema, self.batches = reader.schema, []
        for chunk in reader:
            self.batches.append(chunk.data)
            writer.write(b"{}")

    def do_get(self, _context, _ticket):
        return flight.RecordBatchStream(
            pa.RecordBatchReader.from_batches(self.schema, self.batches)
        )


class Ours:
    """A server of ours whose files are below `folder`; `settings` are as after `--set`."""

    def __init__(self, folder, *settings):
        self.data = pathlib.Path(folder) / "data"
        self.ports = pathlib.Path(folder) / "ports.json"
        self.ports.unlink(missing_ok=True)
        settings = ("ingest.flush_interval=1s", "log.filter=warn", *settings)
        self.process = subprocess.Popen(
            [
                BINARY, "standalone", "--data-dir", self.data, "--port-file", self.ports,
                "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                *(word for setting in settings for word in ("--set", setting)),
            ]
        )  # fmt: skip

    def __enter__(self):
        while not self.ports.exists() or not self.ports.read_text():
            if self.process.poll() is not None:
                sys.exit(f"the server ended with {self.process.returncode}")
            time.sleep(0.02)
        ports = json.loads(self.ports.read_text())
        self.url = f"grpc://127.0.0.1:{ports['port']}"
        self.client = self.connect()
        return self

    def connect(self):
        """A new connection: only while the server runs."""
        return flight.connect(self.url)

    def resident_mebibytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def wait_until_in_files(self, name, rows):
        sql = f"SELECT sum(rows) AS n FROM system.files WHERE table_name = '{name}'"
        end = time.monotonic() + 120
        while (get(self.client, sql)["n"][0].as_py() or 0) < rows:
            if time.monotonic() > end:
                sys.exit(f"table {name} is not in files after two minutes")
            time.sleep(0.2)

    def __exit__(self, *_):
        self.client.close()
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def theirs():
    """The address of pyarrow's server."""
    with InMemory() as server:
        threading.Thread(target=server.serve, daemon=True).start()
        yield f"grpc://127.0.0.1:{server.port}"
        server.shutdown()


def table_of(megabytes):
    rows = megabytes * 2**20 // 36
    chance = np.random.default_rng(1)
    tags = pa.array([f"tag-{number:03}" for number in range(100)])
    return pa.table(
        {
            "time": pa.array(np.arange(rows) * 1000, pa.timestamp("us", "UTC")),
            "id": pa.array(np.arange(rows)),
            "value": pa.array(chance.random(rows)),
            "tag": tags.take(pa.array(chance.integers(0, 100, rows))),
        }
    )


def put(client, table, name):
    descriptor = flight.FlightDescriptor.for_path(DATABASE, name)
    batches = table.to_batches(max_chunksize=BATCH_ROWS)
    writer, reader = client.do_put(descriptor, table.schema)

    def read():
        for _ in batches:
            reader.read()

    acknowledgements = threading.Thread(target=read)
    acknowledgements.start()
    with writer:
        for batch in batches:
            writer.write_batch(batch)
        writer.done_writing()
        acknowledgements.join()


def put_waiting(client, table, name):
    """Sends a batch when the one before is acknowledged."""
    descriptor = flight.FlightDescriptor.for_path(DATABASE, name)
    writer, reader = client.do_put(descriptor, table.schema)
    with writer:
        for batch in table.to_batches(max_chunksize=SMALL_ROWS):
            writer.write_batch(batch)
            reader.read()
        writer.done_writing()


def get(client, sql):
    ticket = flight.Ticket(json.dumps({"database": DATABASE, "sql_query": sql}).encode())
    return client.do_get(ticket).read_all()


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def drop(server, name):
    get(server.client, f"DROP TABLE {name}")


def in_process(server):
    """DataFusion in this process over the files of table `rows`."""
    files = get(server.client, "SELECT path FROM system.files WHERE table_name = 'rows'")
    folders = {(server.data / "objects" / path).parent for path in files["path"].to_pylist()}
    context = datafusion.SessionContext()
    context.register_parquet("rows", f"{folders.pop()}/")
    return context


def rates(table, server, other, rounds):
    """Bytes a second and times of the pairs, by name."""
    size = table.nbytes / 2**20
    in_pairs = {"scan ms": SCAN, "aggregate ms": AGGREGATE, "filter ms": FILTER, "fetch ms": FETCH}
    found = {name: [] for name in ("put MB/s", "get MB/s", *in_pairs)}
    put(server.client, table, "rows")
    put(other, table, "rows")
    server.wait_until_in_files("rows", table.num_rows)
    engine = in_process(server)

    def pair(name, mine, peer):
        found[name].append((mine(), peer()))

    for sql in in_pairs.values():
        get(server.client, sql)
        engine.sql(sql).collect()
    for number in range(rounds):
        name = f"round_{number}"
        pair(
            "put MB/s",
            lambda name=name: size / seconds(lambda: put(server.client, table, name)),
            lambda: size / seconds(lambda: put(other, table, "rows")),
        )
        drop(server, name)
        pair(
            "get MB/s",
            lambda: size / seconds(lambda: get(server.client, FETCH)),
            lambda: size / seconds(lambda: get(other, "")),
        )
        for label, sql in in_pairs.items():
            pair(
                label,
                lambda sql=sql: 1000 * seconds(lambda: get(server.client, sql)),
                lambda sql=sql: 1000 * seconds(lambda: engine.sql(sql).collect()),
            )
    return found


def puts_without_disk(table, other, rounds):
    size = table.nbytes / 2**20
    found = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Ours(folder) as server:
        for number in range(rounds):
            name = f"round_{number}"
            mine = size / seconds(lambda name=name: put(server.client, table, name))
            found.append((mine, size / seconds(lambda: put(other, table, "rows"))))
            drop(server, name)
    return found


def four_writers(table, server, peer_url, rounds):
    """Bytes a second of four streams, and of one, by what is written to whom."""
    small = table.slice(0, SMALL_ROWS * SMALL_BATCHES)
    found = {}
    with concurrent.futures.ThreadPoolExecutor(4) as pool, contextlib.ExitStack() as stack:

        def clients(url):
            return [stack.enter_context(flight.connect(url)) for _ in range(4)]

        def compare(label, writers, write, rows, remove):
            quarter = rows.slice(0, rows.num_rows // 4)
            names = [f"four_{each}" for each in range(4)]

            def four():
                list(pool.map(write, writers, [quarter] * 4, names))

            size = rows.nbytes / 2**20
            many = size / seconds(four)
            # Before the one: their rows would be written to files meanwhile.
            remove(names)
            one = size / seconds(lambda: write(writers[0], rows, "one"))
            remove(["one"])
            found.setdefault(label, []).append((many, one))

        def remove(names):
            for name in names:
                drop(server, name)

        mine, peers = clients(server.url), clients(peer_url)
        for _ in range(rounds):
            for label, write, rows in (("large", put, table), ("waiting", put_waiting, small)):
                compare(label, mine, write, rows, remove)
                compare(f"{label}, peer", peers, write, rows, lambda _: None)
    return found


def small_puts(table, server):
    """Milliseconds of calls that write one row, one after the other."""
    rows = (table.slice(number, 1) for number in range(SMALL_CALLS))
    return [1000 * seconds(lambda row=row: put(server.client, row, "small")) for row in rows]


def steady_load(table, server, until):
    """One-row calls at a steady pace from a few clients; how many there were."""
    pause = LOAD_CLIENTS / LOAD_PER_SECOND
    put(server.client, table.slice(0, 1), "load")

    def write(number):
        calls, due = 0, time.monotonic()
        with server.connect() as client:
            while time.monotonic() < until:
                put(client, table.slice(number, 1), "load")
                calls, due = calls + 1, due + pause
                time.sleep(max(0.0, due - time.monotonic()))
        return calls

    with concurrent.futures.ThreadPoolExecutor(LOAD_CLIENTS) as pool:
        return sum(pool.map(write, range(LOAD_CLIENTS)))


def visibility(table, server):
    """Under a steady load of small writes: calls a second, and for samples of them the milliseconds
    from sending a row until a query counts it."""
    until = time.monotonic() + LOAD_SECONDS

    def sample():
        times, mark = [], 10**9
        with server.connect() as client:
            while time.monotonic() < until:
                mark += 1
                row = table.slice(0, 1).set_column(1, "id", pa.array([mark]))
                began = time.perf_counter()
                put(client, row, "load")
                seen = f"SELECT count(*) AS n FROM load WHERE id = {mark}"
                while get(client, seen)["n"][0].as_py() == 0:
                    pass
                times.append(1000 * (time.perf_counter() - began))
        return times

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        samples = pool.submit(sample)
        calls = steady_load(table, server, until)
        return calls / LOAD_SECONDS, samples.result()


def files_under_load(table):
    """How many files a table has, look by look, while small writes go on; and how many flushes
    there were."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Ours(folder, "upkeep.interval=1s") as server,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        began = time.monotonic()
        load = pool.submit(steady_load, table, server, began + GROWTH_SECONDS)
        counts, query = [], "SELECT count(*) AS n FROM system.files WHERE table_name = 'load'"
        while len(counts) < GROWTH_SECONDS // GROWTH_STEP:
            time.sleep(max(0.0, began + GROWTH_STEP * (len(counts) + 1) - time.monotonic()))
            counts.append(get(server.client, query)["n"][0].as_py())
        return counts, load.result()


def live_files(server, name):
    sql = f"SELECT count(*) AS n FROM system.files WHERE table_name = '{name}'"
    return get(server.client, sql)["n"][0].as_py()


def late(table):
    """Some of the rows again, from all over the table, with another value."""
    rows = table.take(np.linspace(0, table.num_rows - 1, LATE_ROWS).astype(np.int64))
    return rows.set_column(2, "value", pa.array(np.full(LATE_ROWS, -1.0)))


def keyed(table):
    """Times of a table with a primary key and of one without, by name."""
    found = {"put MB/s": [], "scan ms": [], "one late row": [], f"{LATE_ROWS} in files": []}
    part = table.num_rows // KEYED_PARTS + 1
    schema = table.schema
    with_key = schema.with_metadata({b"flightcluster.primary_key": b'["time", "tag"]'})
    tables = {"keyed": table.cast(with_key), "plain": table}
    compaction = f"upkeep.compaction_min_files={KEYED_MIN_FILES}"
    with tempfile.TemporaryDirectory() as folder, Ours(folder, compaction) as server:
        for at in range(0, table.num_rows, part):
            size = table.slice(at, part).nbytes / 2**20
            took = []
            for name, rows in tables.items():
                rows = rows.slice(at, part)
                took.append(seconds(lambda name=name, rows=rows: put(server.client, rows, name)))
                server.wait_until_in_files(name, min(at + part, table.num_rows))
            found["put MB/s"].append((size / took[0], size / took[1]))
        wait_until_compacted(server, tables)

        def measure(label):
            for _ in range(KEYED_ROUNDS):
                pair = [SCAN.replace("rows", name) for name in tables]
                ran = [1000 * seconds(lambda sql=sql: get(server.client, sql)) for sql in pair]
                found[label].append(tuple(ran))

        for name in tables:
            get(server.client, SCAN.replace("rows", name))
        measure("scan ms")
        for label, rows in (("one late row", 1), (f"{LATE_ROWS} in files", LATE_ROWS)):
            for name, like in tables.items():
                again = late(table).slice(0, rows).cast(like.schema)
                put(server.client, again, name)
                if rows > 1:
                    server.wait_until_in_files(name, table.num_rows + rows)
            measure(label)
        counted = get(server.client, "SELECT count(*) AS n FROM keyed")["n"][0].as_py()
        if counted != table.num_rows:
            sys.exit(f"{counted} rows with a key of {table.num_rows}")
    return found


def wait_until_compacted(server, names):
    """Until the number of files stays as it is for a while."""
    end, since, before = time.monotonic() + 120, time.monotonic(), None
    while time.monotonic() - since < COMPACTED_SECONDS:
        counts = [live_files(server, name) for name in names]
        if counts != before:
            since, before = time.monotonic(), counts
        if time.monotonic() > end:
            sys.exit("compaction did not come to an end within two minutes")
        time.sleep(0.2)


def caches(table):
    """Milliseconds of a scan over files in S3: never seen, on the server's disk, in its memory."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        bucket = versitygw.Versitygw(VERSITYGW, folder / "s3")
        bucket.make_bucket(DATABASE)
        for name, value in (("id", versitygw.ACCESS_KEY), ("secret", versitygw.SECRET_KEY)):
            (folder / name).write_text(value + "\n")
        objects = {
            "kind": "s3",
            "bucket": DATABASE,
            "region": versitygw.REGION,
            "endpoint": f"http://127.0.0.1:{bucket.port}",
            "allow_http": "true",
            "path_style": "true",
            "access_key_id_file": folder / "id",
            "secret_access_key_file": folder / "secret",
        }
        settings = [f"storage.object_store.{name}={value}" for name, value in objects.items()]
        # No compaction: it would change the files that are in the caches.
        settings += ["query.cache_memory_bytes=512MiB", "upkeep.run_in=nobody"]

        def scan(server):
            return 1000 * seconds(lambda: get(server.client, SCAN))

        bucket.start()
        try:
            while not bucket.is_up():
                time.sleep(0.02)
            with Ours(folder, *settings) as server:
                put(server.client, table, "rows")
                server.wait_until_in_files("rows", table.num_rows)
            cold, disk, memory = [], [], []
            for _ in range(CACHE_ROUNDS):
                shutil.rmtree(folder / "data" / "cache", ignore_errors=True)
                with Ours(folder, *settings) as server:
                    cold.append(scan(server))
                with Ours(folder, *settings) as server:
                    disk.append(scan(server))
                    memory.append(scan(server))
            return [statistics.median(times) for times in (cold, disk, memory)]
        finally:
            bucket.stop()


def memory(table, *settings, is_flushed=True):
    """Resident mebibytes before a burst of writes, at its end, and ten seconds later or after it is
    in files."""
    with tempfile.TemporaryDirectory() as folder, Ours(folder, *settings) as server:
        # Once before: what is loaded with the first write is not what a burst leaves behind.
        first = table.slice(0, BATCH_ROWS)
        put(server.client, first, "first")
        server.wait_until_in_files("first", first.num_rows)
        time.sleep(2)
        before = server.resident_mebibytes()
        for number in range(4):
            put(server.client, table, f"burst_{number}")
        peak = server.resident_mebibytes()
        for number in range(4 if is_flushed else 0):
            server.wait_until_in_files(f"burst_{number}", table.num_rows)
        # The grace in which flushed rows stay in memory (ingest.flushed_grace) is over by then.
        time.sleep(10)
        return before, peak, server.resident_mebibytes()


def presets(table, rounds):
    """For each preset of `malloc`: MB/s of puts, and the figures of `memory`."""
    size = table.nbytes / 2**20
    for preset in ("throughput", "balanced", "low-memory"):
        setting = f"malloc.preset={preset}"
        with tempfile.TemporaryDirectory() as folder, Ours(folder, setting) as server:
            puts = []
            for number in range(rounds):
                name = f"put_{number}"
                puts.append(size / seconds(lambda s=server, n=name: put(s.client, table, n)))
                server.wait_until_in_files(name, table.num_rows)
                drop(server, name)
        yield preset, statistics.median(puts), *memory(table, setting)


def print_pairs(pairs, heads=("flightcluster", "peer")):
    print(f"{'':18}{heads[0]:>15}{heads[1]:>12}{'ratio':>8}   quartiles")
    for name, values in pairs.items():
        mine, other = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [a / b for a, b in values]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"{name:18}{mine:15.1f}{other:12.1f}{middle:8.2f}   {low:.2f} to {high:.2f}")


def percentiles(values):
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"


def measure(rounds, megabytes):
    table = table_of(megabytes)
    with tempfile.TemporaryDirectory() as folder, Ours(folder) as server, theirs() as peer_url:
        with flight.connect(peer_url) as other:
            pairs = rates(table, server, other, rounds)
            pairs["put MB/s, no disk"] = puts_without_disk(table, other, rounds)
        print_pairs(pairs)
        print("MB/s of four writers and of one:")
        print_pairs(four_writers(table, server, peer_url, rounds), ("four", "one"))
        print(f"one row, one call: {percentiles(small_puts(table, server))}")
        calls, samples = visibility(table, server)
        print(f"write to visible at {calls:.0f} calls/s: {percentiles(samples)}")
    print("a table with a primary key, and the same rows in one without:")
    print_pairs(keyed(table), ("with", "without"))
    counts, calls = files_under_load(table)
    print(f"live files after {calls} calls, every {GROWTH_STEP} s: {' '.join(map(str, counts))}")
    if shutil.which(VERSITYGW):
        cold, disk, warm = caches(table)
        print(f"scan of files in S3: cold {cold:.0f} ms, from disk {disk:.0f}, warm {warm:.0f}")
    else:
        print("scan of files in S3: not measured, no S3 server; `make node-tools` builds one")
    before, peak, after = memory(table)
    print(
        f"resident: {before:.0f} MiB before a burst, {peak:.0f} at its end, {after:.0f} when idle,"
        f" ratio {after / before:.2f}"
    )
    before, peak, after = memory(table, "ingest.flush_interval=30s", is_flushed=False)
    print(
        f"resident, where rows wait 30 s for files: {before:.0f} MiB before a burst, {peak:.0f} at"
        f" its end, {after:.0f} ten seconds later"
    )
    print(f"{'malloc':18}{'put MB/s':>15}{'before':>12}{'burst':>8}{'idle MiB':>11}")
    for preset, rate, *resident in presets(table, rounds):
        before, peak, after = resident
        print(f"{preset:18}{rate:15.1f}{before:12.0f}{peak:8.0f}{after:11.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=256)
    arguments = parser.parse_args()
    measure(arguments.rounds, arguments.megabytes)


if __name__ == "__main__":
    main()
