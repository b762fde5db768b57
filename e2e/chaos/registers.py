"""A table with a primary key: of two writes to a key the later one is read, whoever took them.

Writers put new values under a few keys through any process; readers ask for all of them.
`Registers` keeps when each write began and was acknowledged, counted in one sequence with the
questions. Each answer is checked against that:

- several: a key is there twice;
- invented: a value that nobody wrote under this key;
- missing: a key that was acknowledged before the question is not there;
- outdated: a write of the key was acknowledged before the question and began after the write of the
  value that is read was acknowledged;
- back: a value that had given way to another one for the same reader is read again.

A write that was never answered may be there or not, and may become visible at any time.
"""

import json
import threading

import pyarrow as pa
import pyarrow.flight as flight
from history import Violation, is_fault
from workload import CALL_SECONDS, DATABASE, RETRY_SECONDS, Worker, select

TABLE = "latest"
KEYS = 6
KEY = {"flightcluster.primary_key": json.dumps(["id", "time"])}
COLUMNS = [("id", pa.int64()), ("time", pa.timestamp("us")), ("value", pa.int64())]
SCHEMA = pa.schema(COLUMNS, metadata=KEY)
LAST_FAULTS = 8


class Write:
    """A value under a key: when its write began, and when it was acknowledged, if it was."""

    def __init__(self, started):
        self.started, self.ended = started, None

    def __repr__(self):
        return f"{self.started}-{self.ended or '?'}"


class Registers:
    """All writes of a run. Safe to use from many threads."""

    def __init__(self, history):
        self.lock = threading.Lock()
        self.history = history
        self.now, self.next = 0, 0
        self.writes = {key: {} for key in range(KEYS)}
        self.acknowledged, self.overwritten = 0, 0

    def begin(self, keys):
        """New values for these keys, by key."""
        with self.lock:
            self.now += 1
            values = {}
            for key in keys:
                self.next += 1
                values[key] = self.next
                self.writes[key][self.next] = Write(self.now)
            return values

    def end(self, values):
        with self.lock:
            self.now += 1
            for key, value in values.items():
                self.writes[key][value].ended = self.now
                self.acknowledged += 1

    def ask(self):
        with self.lock:
            self.now += 1
            return self.now

    def any_acknowledged(self):
        with self.lock:
            return self.acknowledged > 0

    def check(self, asked, answer, seen, where):
        """Checks an answer, pairs of key and value; `seen` is what this reader saw, by key."""
        with self.lock:
            for key, writes in self.writes.items():
                values = [value for of, value in answer if of == key]
                self.check_key(asked, key, writes, values, where)
                if not values:
                    continue
                (value,), before = values, seen.setdefault(key, [])
                if value in before[:-1]:
                    self.violated("back", key, f"{value} after {before[-5:]}", where)
                if not before or before[-1] != value:
                    before.append(value)

    def check_key(self, asked, key, writes, values, where):
        if len(values) > 1:
            self.violated("several", key, f"{values}", where)
        known = [write for write in writes.values() if write.ended and write.ended < asked]
        if not values:
            if known:
                self.violated("missing", key, "it was acknowledged", where)
            return
        read = writes.get(values[0])
        if read is None:
            self.violated("invented", key, f"{values[0]}", where)
        later = [write for write in known if read.ended and write.started > read.ended]
        if later:
            self.violated("outdated", key, f"{values[0]} of {read}, later is {later[-1]}", where)
        self.overwritten += len(known) > 1

    def violated(self, kind, key, what, where):
        faults = [text for _, text in self.history.notes if is_fault(text)][-LAST_FAULTS:]
        last = list(self.writes[key].items())[-12:]
        raise Violation(kind, f"key {key} at {where}: {what}\n  writes: {last}\n  {faults}")


class RegisterWriter(Worker):
    """Overwrites keys, a few batches on their way at once."""

    def __init__(self, number, targets, registers, *common):
        super().__init__(f"register-writer-{number}", *common)
        self.targets, self.registers = targets, registers

    def work(self):
        target = self.chance.choice(self.targets)
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        options = flight.FlightCallOptions(timeout=CALL_SECONDS)
        with target.connect() as client:
            writer, reader = client.do_put(descriptor, SCHEMA, options)
            try:
                for _ in range(self.chance.randint(1, 20)):
                    if self.stop.is_set():
                        break
                    self.overwrite(writer, reader)
                writer.done_writing()
            finally:
                # Tells what ended the stream, if anything did.
                writer.close()

    def overwrite(self, writer, reader):
        under_way = []
        for _ in range(self.chance.choice([1, 1, 3])):
            keys = self.chance.sample(range(KEYS), self.chance.randint(1, 3))
            values = self.registers.begin(keys)
            columns = [list(values), [0] * len(keys), list(values.values())]
            arrays = [pa.array(each, of) for each, (_, of) in zip(columns, COLUMNS, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            under_way.append(values)
        for values in under_way:
            answer = reader.read()
            if answer is None:
                writer.close()
                raise AssertionError(f"{self.name}: the stream ended without an error")
            answer = json.loads(answer.to_pybytes())
            if answer.get("durable") is not True or answer.get("rows") != len(values):
                raise AssertionError(f"{self.name}: {answer} for {len(values)} rows")
            self.registers.end(values)


class RegisterReader(Worker):
    """Asks for all keys, again and again, and checks every answer."""

    def __init__(self, number, targets, registers, *common):
        super().__init__(f"register-reader-{number}", *common)
        self.targets, self.registers = targets, registers
        self.seen, self.answers = {}, 0

    def work(self):
        if not self.registers.any_acknowledged():
            # There may be no table yet.
            self.stop.wait(RETRY_SECONDS)
            return
        target = self.chance.choice(self.targets)
        with target.connect() as client:
            for _ in range(self.chance.randint(1, 10)):
                if self.stop.is_set():
                    return
                asked = self.registers.ask()
                answer = all_values(client)
                self.registers.check(asked, answer, self.seen, f"{self.name}@{target.name}")
                self.answers += 1


def all_values(client):
    """Key and value of all rows."""
    table = select(client, f"SELECT id, value FROM {TABLE}")
    return list(zip(*table.select(["id", "value"]).to_pydict().values(), strict=True))
