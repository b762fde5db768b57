"""A table with a primary key: of two writes to a key the later one is read, whoever took them.

Writers put new values under a few keys through any process, somebody deletes some of them through
any querier, and readers ask for all. `Registers` keeps when each write and each deletion began and
was acknowledged, counted in one sequence with the questions. Each answer is checked against that:

- several: a key is there twice;
- invented: a value that nobody wrote under this key;
- missing: a key that was acknowledged before the question is not there, and no deletion that had
  begun can have met what was its last value then;
- outdated: a write of the key was acknowledged before the question and began after the write of the
  value that is read was acknowledged;
- deleted: a deletion that meets the value that is read was acknowledged before the question and
  began after the write of the value was acknowledged;
- back: a value that had given way to another one, or to none, for the same reader is read again.

A write that was never answered may be there or not, and may become visible at any time. A deletion
that was never answered may take effect at any time, or not at all.
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
# A deletion has all ingesters flush: not all the time.
BETWEEN_DELETIONS = (0.0, 0.3)
# It may wait for the lease of one whose querier was killed, longer than a run takes.
DELETE_SECONDS = 4


class Write:
    """A value under a key: when its write began, and when it was acknowledged, if it was."""

    def __init__(self, started):
        self.started, self.ended = started, None
        # Whether it may have gone with a lost catalog.
        self.doubtful = False

    def __repr__(self):
        return f"{self.started}-{self.ended or '?'}{' or lost' if self.doubtful else ''}"


class Deletion:
    """Of some keys, if their value is not above a limit."""

    def __init__(self, keys, highest, started):
        self.keys, self.highest = keys, highest
        self.started, self.ended = started, None
        # Whether it may be undone with a lost catalog.
        self.doubtful = False

    def __repr__(self):
        end = f"{self.ended or '?'}{' or undone' if self.doubtful else ''}"
        return f"{self.keys} <= {self.highest}: {self.started}-{end}"

    def meets(self, key, value):
        return key in self.keys and value <= self.highest

    def may_see(self, write):
        """Whether the write may have been before it."""
        return self.ended is None or write.started < self.ended


def surely_before(one, other):
    """Whether a write or deletion was over when the other began."""
    return one.ended is not None and one.ended < other.started


class Registers:
    """All writes and deletions of a run. Safe to use from many threads."""

    def __init__(self, history):
        self.lock = threading.Lock()
        self.history = history
        self.now, self.next = 0, 0
        self.writes = {key: {} for key in range(KEYS)}
        self.deletions = []
        self.acknowledged, self.overwritten, self.deleted = 0, 0, 0

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

    def begin_deletion(self, keys, beyond):
        """A deletion of these keys, if they have values up to `beyond` after the last one."""
        with self.lock:
            self.now += 1
            self.deletions.append(Deletion(keys, self.next + beyond, self.now))
            return self.deletions[-1]

    def end_deletion(self, deletion):
        with self.lock:
            self.now += 1
            deletion.ended = self.now
            self.deleted += 1

    def set_back(self, since, lost, kept):
        """The table is as it was in a backup that was begun at `since`, with what logs still had.

        `lost` are the pairs of key and value that only orphans hold, `kept` those of files. These
        writes may not be there any more, nor those that a lost one may have overwritten, as files
        have only the last row of a key. Deletions that may be after the backup may be undone.
        """
        with self.lock:
            for key, value in lost:
                for other, write in self.writes[key].items():
                    if not surely_before(self.writes[key][value], write):
                        write.doubtful |= (key, other) not in kept
            for deletion in self.deletions:
                deletion.doubtful |= deletion.ended is None or deletion.ended > since

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
                self.check_order(key, values[0] if values else None, seen, where)

    def check_order(self, key, value, seen, where):
        """What a reader saw of a key before it gave way to `value`, None for nothing, is over."""
        before = seen.setdefault(key, [])
        if value is not None and value in before[:-1]:
            self.violated("back", key, f"{value} after {before[-5:]}", where)
        if before[-1:] != [value]:
            before.append(value)

    def check_key(self, asked, key, writes, values, where):
        if len(values) > 1:
            self.violated("several", key, f"{values}", where)
        known = [write for write in writes.values() if write.ended and write.ended < asked]
        known = [write for write in known if not write.doubtful]
        if not values:
            for write in known:
                if not self.may_be_gone(key, write, known):
                    self.violated("missing", key, f"{write} was acknowledged", where)
            return
        read = writes.get(values[0])
        if read is None:
            self.violated("invented", key, f"{values[0]}", where)
        later = [write for write in known if surely_before(read, write)]
        if later:
            self.violated("outdated", key, f"{values[0]} of {read}, later is {later[-1]}", where)
        gone = [each for each in self.deletions if each.ended and each.ended < asked]
        gone = [each for each in gone if each.meets(key, values[0]) and surely_before(read, each)]
        gone = [each for each in gone if not each.doubtful]
        if gone:
            self.violated("deleted", key, f"{values[0]} of {read} by {gone[-1]}", where)
        self.overwritten += len(known) > 1

    def may_be_gone(self, key, write, known):
        """Whether a deletion can have met the last value, when that was this write or a later one.

        It takes all rows of a key when the newest one meets it.
        """
        writes = self.writes[key].items()
        for deletion in self.deletions:
            if not deletion.may_see(write):
                continue
            # What it met was not older than the write, and was not overwritten for sure before.
            met = [each for value, each in writes if deletion.meets(key, value)]
            met = [each for each in met if deletion.may_see(each)]
            met = [each for each in met if not surely_before(each, write)]
            lasting = [
                each
                for each in met
                if not any(
                    surely_before(each, other) and surely_before(other, deletion) for other in known
                )
            ]
            if lasting:
                return True
        return False

    def violated(self, kind, key, what, where):
        faults = [text for _, text in self.history.notes if is_fault(text)][-LAST_FAULTS:]
        last = list(self.writes[key].items())[-12:]
        deletions = [each for each in self.deletions if key in each.keys][-6:]
        story = f"writes: {last}\n  deletions: {deletions}\n  {faults}"
        raise Violation(kind, f"key {key} at {where}: {what}\n  {story}")


class RegisterWriter(Worker):
    """Overwrites keys, a few batches on their way at once."""

    def __init__(self, number, targets, registers, *common):
        super().__init__(f"register-writer-{number}", *common)
        self.targets, self.registers = targets, registers

    def work(self):
        target = self.chance.choice(self.targets)
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        options = flight.FlightCallOptions(timeout=CALL_SECONDS)
        with target.connect("writers") as client:
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


class RegisterDeleter(Worker):
    """Deletes keys, also while they are overwritten.

    Half of the deletions go by a connection that may be cut. One that was not answered may have
    taken effect, may do so at any time, or not at all: it can't be repeated, as keys are
    overwritten.
    """

    def __init__(self, targets, registers, *common):
        super().__init__("register-deleter", *common)
        self.targets, self.registers = targets, registers

    def work(self):
        self.stop.wait(self.chance.uniform(*BETWEEN_DELETIONS))
        if self.stop.is_set() or not self.registers.any_acknowledged():
            return
        keys = self.chance.sample(range(KEYS), self.chance.choice([1, 1, 2, KEYS]))
        # Not the last values, or all there are, or also some that come while it runs.
        beyond = self.chance.choice([-4, 0, 0, 3])
        who = self.chance.choice(["writers", None])
        with self.chance.choice(self.targets).connect(who) as client:
            delete_keys(client, self.registers, keys, beyond)


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
        with target.connect("readers") as client:
            for _ in range(self.chance.randint(1, 10)):
                if self.stop.is_set():
                    return
                asked = self.registers.ask()
                answer = all_values(client)
                self.registers.check(asked, answer, self.seen, f"{self.name}@{target.name}")
                self.answers += 1


def delete_keys(client, registers, keys, beyond):
    """Deletes keys whose values are not above the last one that was begun, and `beyond` more."""
    deletion = registers.begin_deletion(keys, beyond)
    any_of = ", ".join(map(str, keys))
    sql = f"DELETE FROM {TABLE} WHERE id IN ({any_of}) AND value <= {deletion.highest}"
    select(client, sql, DELETE_SECONDS)
    registers.end_deletion(deletion)


def all_values(client):
    """Key and value of all rows."""
    table = select(client, f"SELECT id, value FROM {TABLE}")
    return list(zip(*table.select(["id", "value"]).to_pydict().values(), strict=True))
