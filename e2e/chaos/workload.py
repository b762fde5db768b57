"""Writers and readers over real Flight connections, while everything around them breaks."""

import contextlib
import json
import random
import re
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
from history import Violation, key, value_of

DATABASE, TABLE = "chaos", "events"
SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.int64()), ("text", pa.string())])
LARGEST_BATCH = 40
# A call that takes longer is given up; what it was about is then unknown.
CALL_SECONDS = 15
RETRY_SECONDS = 0.1

# What a client must expect of a service in trouble. Everything else is a defect.
TROUBLE = (
    flight.FlightUnavailableError,
    flight.FlightTimedOutError,
    flight.FlightCancelledError,
)
# A refusal with one of these codes comes before anything is stored.
REFUSALS = ("RESOURCE_EXHAUSTED", "DISK_FULL", "OVERLOADED", "PERSIST_LAG")


class Recess:
    """Workers pause, each when it has ended what it does."""

    def __init__(self):
        self.changed = threading.Condition()
        self.is_on, self.at_work = False, 0

    def begin(self, seconds):
        """Comes back when nobody is at work."""
        with self.changed:
            self.is_on = True
            if not self.changed.wait_for(lambda: self.at_work == 0, seconds):
                raise AssertionError(f"{self.at_work} workers do not come to an end")

    def end(self):
        with self.changed:
            self.is_on = False
            self.changed.notify_all()

    @contextlib.contextmanager
    def working(self):
        """Some work, which begins when no recess is on."""
        with self.changed:
            self.changed.wait_for(lambda: not self.is_on)
            self.at_work += 1
        try:
            yield
        finally:
            with self.changed:
                self.at_work -= 1
                self.changed.notify_all()


class Worker(threading.Thread):
    """A thread that works until told to stop and keeps the defect it met."""

    def __init__(self, name, history, stop, seed):
        super().__init__(name=name, daemon=True)
        self.history, self.stop = history, stop
        self.chance = random.Random(seed)
        self.defect = None
        self.troubles = 0
        # Of its own unless it is given another one before it begins.
        self.recess = Recess()

    def run(self):
        try:
            while not self.stop.is_set():
                try:
                    with self.recess.working():
                        self.work()
                except TROUBLE:
                    self.troubles += 1
                    self.stop.wait(RETRY_SECONDS)
                except pa.ArrowException as error:
                    if not is_trouble(error):
                        raise
                    self.troubles += 1
                    self.stop.wait(RETRY_SECONDS)
        except Violation as violation:
            self.defect = str(violation)
            self.stop.set()
        except Exception as error:
            self.defect = f"{self.name}: {type(error).__name__}: {error}"
            self.stop.set()


def is_trouble(error):
    """Whether an error of another class comes from a connection that broke or a refusal."""
    text = str(error)
    broken = ("Stream removed", "Socket closed", "Connection reset", "Broken pipe", "RST_STREAM")
    return any(word in text for word in (*broken, *REFUSALS)) or is_clock_jump(text)


def is_clock_jump(text):
    """Whether a ticket expired longer ago than a query takes: the clock was set ahead."""
    expired = re.search(r"the ticket expired (\d+) ms ago", text)
    return expired is not None and int(expired[1]) > 1000 * CALL_SECONDS


class Writer(Worker):
    """Puts numbered batches, several on their way at once.

    A plain writer goes on with new numbers when a stream breaks. A producer repeats what was not
    acknowledged, under the same producer id and sequence, until it is: its rows are stored exactly
    once. `targets` are the processes it may write to; each stream goes to any of them, a repeat
    too.
    """

    def __init__(self, number, targets, is_producer, *common):
        super().__init__(f"writer-{number}", *common)
        self.number, self.targets, self.is_producer = number, targets, is_producer
        self.next_row, self.next_batch = 0, 0
        # Batches of a producer that were sent and not acknowledged: (sequence, keys).
        self.pending = []

    def work(self):
        target = self.chance.choice(self.targets)
        with target.connect("writers") as client:
            self.stream(client, target.name)

    def stream(self, client, where):
        where = f"{self.name}@{where}"
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        options = flight.FlightCallOptions(timeout=CALL_SECONDS)
        writer, reader = client.do_put(descriptor, SCHEMA, options)
        depth = self.chance.choice([1, 1, 4, 16])
        batches = self.chance.randint(1, 60)
        under_way = []
        again = list(self.pending)
        try:
            while (batches or under_way or again) and not (self.stop.is_set() and not under_way):
                if (batches or again) and len(under_way) < depth and not self.stop.is_set():
                    under_way.append(self.write(writer, where, again))
                    batches = max(0, batches - 1)
                    continue
                self.read_acknowledgement(reader, writer, under_way, where)
            writer.done_writing()
            if reader.read() is not None:
                raise AssertionError(f"{where}: more acknowledgements than batches")
        finally:
            # Tells what ended the stream, if anything did.
            writer.close()

    def write(self, writer, where, again):
        if again:
            sequence, keys = again.pop(0)
        else:
            sequence, keys = self.next_batch, self.new_rows()
            self.next_batch += 1
            self.history.send(keys, where)
            if self.is_producer:
                self.pending.append((sequence, keys))
        batch = batch_of(keys)
        if self.is_producer:
            producer = {"producer": f"producer-{self.number}", "sequence": sequence}
            writer.write_with_metadata(batch, json.dumps(producer).encode())
        else:
            writer.write_batch(batch)
        return sequence, keys

    def new_rows(self):
        keys = keys_of(self.number, self.next_row, self.chance.randint(1, LARGEST_BATCH))
        self.next_row += len(keys)
        return keys

    def read_acknowledgement(self, reader, writer, under_way, where):
        answer = reader.read()
        if answer is None:
            writer.close()
            raise AssertionError(f"{where}: the stream ended in the middle without an error")
        answer = json.loads(answer.to_pybytes())
        sequence, keys = under_way.pop(0)
        if answer.get("durable") is not True or answer.get("rows") != len(keys):
            raise AssertionError(f"{where}: {answer} for {len(keys)} rows")
        self.history.acknowledge(keys, where)
        self.pending = [each for each in self.pending if each[0] != sequence]

    def finish(self, seconds):
        """Repeats a producer's pending batches until all are acknowledged."""
        end = time.monotonic() + seconds
        self.stop = threading.Event()
        while self.pending:
            try:
                with self.chance.choice(self.targets).connect() as client:
                    self.repeat(client)
            except (*TROUBLE, pa.ArrowException) as error:
                if time.monotonic() > end:
                    raise AssertionError(f"{self.name} can't finish: {error}") from None
                time.sleep(RETRY_SECONDS)

    def repeat(self, client):
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        writer, reader = client.do_put(descriptor, SCHEMA)
        again = list(self.pending)
        with writer:
            while again:
                under_way = [self.write(writer, self.name, again)]
                self.read_acknowledgement(reader, writer, under_way, self.name)
            writer.done_writing()


def keys_of(writer, first, count):
    """So many rows of a writer."""
    return np.array([key(writer, row) for row in range(first, first + count)])


def batch_of(keys):
    values = value_of(keys)
    columns = [pa.array(keys), pa.array(values), pa.array([f"row {each}" for each in values])]
    return pa.record_batch(columns, schema=SCHEMA)


class Reader(Worker):
    """Asks for all rows, again and again, and checks every answer.

    An answer whose connection was cut is none: the question is asked again, there or elsewhere.
    """

    def __init__(self, number, targets, *common):
        super().__init__(f"reader-{number}", *common)
        self.targets = targets
        self.answers = 0

    def work(self):
        target = self.chance.choice(self.targets)
        with target.connect("readers") as client:
            for _ in range(self.chance.randint(1, 10)):
                if self.stop.is_set():
                    return
                self.ask(client, target.name)

    def ask(self, client, where):
        expected = self.history.ask()
        # Before the first acknowledgement there may be no table yet.
        if not len(expected[0]):
            self.stop.wait(RETRY_SECONDS)
            return
        keys, values = all_rows(client, self.chance.random() < 0.5)
        self.history.check(expected, keys, values, f"{self.name}@{where}")
        self.answers += 1


def compactions(client):
    """How many compactions the catalog remembers."""
    return select(client, "SELECT count(*) AS n FROM system.compactions")["n"][0].as_py()


def live_files(client):
    """How many files with rows there are."""
    return select(client, "SELECT count(*) AS n FROM system.files")["n"][0].as_py()


def select(client, sql, seconds=CALL_SECONDS):
    """The answer to a JSON ticket, as a table."""
    ticket = flight.Ticket(json.dumps({"database": DATABASE, "sql_query": sql}).encode())
    options = flight.FlightCallOptions(timeout=seconds)
    return client.do_get(ticket, options).read_all()


def all_rows(client, by_ticket=False):
    """Numbers and values of all rows, by GetFlightInfo and DoGet or by a JSON ticket."""
    sql = f"SELECT id, value FROM {TABLE}"
    if by_ticket:
        table = select(client, sql)
    else:
        headers = [(b"database", DATABASE.encode())]
        options = flight.FlightCallOptions(timeout=CALL_SECONDS, headers=headers)
        descriptor = flight.FlightDescriptor.for_command(sql.encode())
        (endpoint,) = client.get_flight_info(descriptor, options).endpoints
        table = client.do_get(endpoint.ticket, options).read_all()
    return table["id"].to_numpy(), table["value"].to_numpy()
