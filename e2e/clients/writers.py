"""Writers and readers that go on while a server dies, and the check of what they were promised.

    writers.py CONNECTION write FILE     until standard input is closed
    writers.py CONNECTION verify FILE

Each writer puts batches of rows `(writer, id)` with ids that are never used twice, and appends the
ids of each acknowledged batch to FILE as `WRITER FIRST END`. When its stream breaks it opens
another and goes on with the next ids: whether the batch in between was stored it cannot know. A
reader counts all the while: an answer may be refused as Unavailable, but never lack a row that was
acknowledged before the question, and never hold one twice.

`write` prints JSON with the numbers of batches, broken streams, answers and refusals; `verify`
prints how many rows were acknowledged and found, and which were lost or doubled.
"""

import json
import random
import sys
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
from connection import Connection, select

DATABASE = "faults"
TABLE = "events"
WRITERS = 3
SCHEMA = pa.schema([("writer", pa.int64()), ("id", pa.int64())])
LARGEST_BATCH = 50
RETRY_SECONDS = 0.2
# A question that takes longer hangs; a busy machine needs seconds.
CALL_SECONDS = 20


class Acknowledged:
    """The ids that were acknowledged, in memory and in the file."""

    def __init__(self, file):
        self.file = file
        self.lock = threading.Lock()
        self.rows = 0

    def add(self, writer, first, end):
        with self.lock:
            self.file.write(f"{writer} {first} {end}\n")
            self.file.flush()
            self.rows += end - first


class Worker(threading.Thread):
    """A thread that works until told to stop, and keeps the error that should not have been."""

    def __init__(self, connection, stop):
        super().__init__(daemon=True)
        self.connection, self.stop = connection, stop
        self.error = None

    def run(self):
        try:
            self.work()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            self.stop.set()


class Writer(Worker):
    """Puts numbered batches, each acknowledged before the next."""

    def __init__(self, connection, stop, number, acknowledged):
        super().__init__(connection, stop)
        self.number, self.acknowledged = number, acknowledged
        self.next, self.batches, self.breaks = 0, 0, 0
        self.chance = random.Random(number)

    def work(self):
        while not self.stop.is_set():
            try:
                with self.connection.ingester() as client:
                    self.stream(client)
            except (flight.FlightUnavailableError, flight.FlightTimedOutError):
                self.breaks += 1
                time.sleep(RETRY_SECONDS)

    def stream(self, client):
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        options = self.connection.options(DATABASE)
        writer, reader = client.do_put(descriptor, SCHEMA, options)
        while not self.stop.is_set():
            first, end = self.next, self.next + self.chance.randint(1, LARGEST_BATCH)
            self.next = end
            columns = {"writer": [self.number] * (end - first), "id": range(first, end)}
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
            answer = reader.read()
            if answer is None:
                writer.close()  # raises what ended the stream
                raise AssertionError("the stream ended in the middle without an error")
            answer = json.loads(answer.to_pybytes())
            assert answer["durable"] is True and answer["rows"] == end - first, answer
            self.acknowledged.add(self.number, first, end)
            self.batches += 1
        writer.done_writing()
        assert reader.read() is None
        writer.close()


class Reader(Worker):
    """Counts; knows how many rows must be there at least."""

    def __init__(self, connection, stop, acknowledged):
        super().__init__(connection, stop)
        self.acknowledged = acknowledged
        self.answers, self.refused = 0, 0

    def work(self):
        sql = f"SELECT count(*) AS n, count(DISTINCT writer * 1000000000 + id) AS d FROM {TABLE}"
        while not self.stop.is_set():
            least = self.acknowledged.rows
            if not least:
                time.sleep(RETRY_SECONDS)
                continue
            try:
                options = self.connection.options(DATABASE, CALL_SECONDS)
                with self.connection.querier() as client:
                    row = select(client, options, sql).to_pylist()[0]
            except (flight.FlightUnavailableError, flight.FlightTimedOutError):
                self.refused += 1
                time.sleep(RETRY_SECONDS)
                continue
            assert row["n"] == row["d"], f"a row is there twice: {row}"
            assert row["n"] >= least, f"{row} although {least} were acknowledged before"
            self.answers += 1


def write(connection, path):
    with open(path, "a", encoding="ascii") as file:
        return work(connection, Acknowledged(file))


def work(connection, acknowledged):
    stop = threading.Event()
    writers = [Writer(connection, stop, number, acknowledged) for number in range(WRITERS)]
    reader = Reader(connection, stop, acknowledged)
    workers = [*writers, reader]
    for worker in workers:
        worker.start()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    stop.wait()
    for worker in workers:
        worker.join(2 * CALL_SECONDS)
    return {
        "errors": [worker.error for worker in workers if worker.error],
        "hanging": sum(worker.is_alive() for worker in workers),
        "batches": [writer.batches for writer in writers],
        "broken_streams": sum(writer.breaks for writer in writers),
        "answers": reader.answers,
        "refused": reader.refused,
    }


def verify(connection, path):
    acknowledged = set()
    with open(path, encoding="ascii") as file:
        for line in file:
            writer, first, end = map(int, line.split())
            acknowledged |= {(writer, each) for each in range(first, end)}
    sql = f"SELECT writer, id, count(*) AS n FROM {TABLE} GROUP BY writer, id"
    with connection.querier() as client:
        rows = select(client, connection.options(DATABASE), sql).to_pylist()
    found = {(row["writer"], row["id"]): row["n"] for row in rows}
    lost = sorted(acknowledged - found.keys())
    doubled = sorted(row for row, count in found.items() if count != 1)
    return {
        "acknowledged": len(acknowledged),
        "found": len(found),
        "lost": len(lost),
        "first_lost": lost[:5],
        "doubled": len(doubled),
        "first_doubled": doubled[:5],
    }


def main():
    folder, action, path = sys.argv[1:]
    run = {"write": write, "verify": verify}[action]
    print(json.dumps(run(Connection(folder), path)))


main()
