#!/usr/bin/env python3
"""Compares `flightcluster standalone` with pyarrow's C++ Flight server, in pairs in one run.

    bench.py [--rounds N] [--megabytes M]

Both serve on the loopback interface; the C++ server keeps batches in memory and does nothing else.
In every round each of the two is measured once, one right after the other, so that a busy machine
slows both; the table shows the median of each and of the ratios. FLIGHTCLUSTER_BIN is the binary:
a release build, or the figures mean nothing.

- put: DoPut of a table, every batch acknowledged; ours is durable, theirs is in memory;
- put small: one row a call, the latency of a durable acknowledgement;
- get: DoGet of the whole table; ours reads Parquet files, theirs memory;
- query: an aggregate by Flight SQL against DuckDB in this process over the same Parquet.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

BINARY = os.environ.get("FLIGHTCLUSTER_BIN", "flightcluster")
DATABASE, TABLE = "bench", "rows"
BATCH_ROWS = 65_536
SMALL_CALLS = 200
AGGREGATE = "SELECT tag, count(*) AS n, sum(value) AS s FROM rows GROUP BY tag ORDER BY tag"


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


@contextlib.contextmanager
def ours(folder):
    """A client of a new server whose files are below `folder`."""
    ports = pathlib.Path(folder) / "ports.json"
    process = subprocess.Popen(
        [
            BINARY, "standalone", "--data-dir", f"{folder}/data", "--port-file", ports,
            "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
            "--set", "ingest.flush_interval=1s", "--set", "log.filter=warn",
        ]
    )  # fmt: skip
    try:
        while not ports.exists() or not ports.read_text():
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode}")
            time.sleep(0.02)
        port = json.loads(ports.read_text())["port"]
        with flight.connect(f"grpc://127.0.0.1:{port}") as client:
            yield client
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def theirs():
    """A client of pyarrow's server."""
    with InMemory() as server:
        threading.Thread(target=server.serve, daemon=True).start()
        with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
            yield client
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


def get(client, sql):
    ticket = flight.Ticket(json.dumps({"database": DATABASE, "sql_query": sql}).encode())
    return client.do_get(ticket).read_all()


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def wait_until_flushed(client):
    """Until the rows are in files, which is what is to be measured."""
    rows = "SELECT coalesce(sum(row_count), 0) AS n FROM system.files WHERE table_name = 'rows'"
    with contextlib.suppress(pa.ArrowException):
        end = time.monotonic() + 60
        while get(client, rows)["n"][0].as_py() == 0 and time.monotonic() < end:
            time.sleep(0.2)
        return
    time.sleep(5)


def measure(rounds, megabytes):
    """Prints a line for each measurement."""
    table = table_of(megabytes)
    size = table.nbytes / 2**20
    pairs = {"put MB/s": [], "get MB/s": [], "query ms": []}
    small = []
    with tempfile.TemporaryDirectory() as folder, ours(folder) as mine, theirs() as other:
        file = f"{folder}/rows.parquet"
        pq.write_table(table, file)
        database = duckdb.connect()
        database.execute(f"CREATE VIEW rows AS SELECT * FROM '{file}'")
        put(mine, table, TABLE)
        put(other, table, TABLE)
        wait_until_flushed(mine)
        for number in range(rounds):
            pairs["put MB/s"].append(
                (
                    size / seconds(lambda name=f"round_{number}": put(mine, table, name)),
                    size / seconds(lambda: put(other, table, TABLE)),
                )
            )
            pairs["get MB/s"].append(
                (
                    size / seconds(lambda: get(mine, "SELECT * FROM rows")),
                    size / seconds(lambda: get(other, "")),
                )
            )
            pairs["query ms"].append(
                (
                    1000 * seconds(lambda: get(mine, AGGREGATE)),
                    1000 * seconds(lambda: database.execute(AGGREGATE).fetchall()),
                )
            )
            row = table.slice(number, 1)
            for _ in range(SMALL_CALLS):
                small.append(1000 * seconds(lambda row=row: put(mine, row, "small")))
    print(f"{'':12}{'flightcluster':>15}{'peer':>12}{'ratio':>8}")
    for name, values in pairs.items():
        mine, other = (statistics.median(column) for column in zip(*values, strict=True))
        ratio = statistics.median(a / b for a, b in values)
        print(f"{name:12}{mine:15.1f}{other:12.1f}{ratio:8.2f}")
    quantiles = statistics.quantiles(small, n=100)
    print(f"put of one row, new call each: p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=256)
    arguments = parser.parse_args()
    measure(arguments.rounds, arguments.megabytes)


if __name__ == "__main__":
    main()
