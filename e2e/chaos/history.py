"""What writers were promised, what readers saw, and whether the two go together.

A row is a writer's number and a sequence number that the writer uses once. `History` keeps, for
every row, whether it was sent, acknowledged and seen. Each answer is checked when it arrives,
against what was known when its question was asked:

- lost: a row that had been acknowledged before the question is missing;
- unseen: a row that an earlier answer had, to whomever, is missing;
- doubled: a row is in the answer twice;
- invented: a row that nobody had sent when the answer ended;
- altered: a row with another value than the one sent.

A row whose sending broke may be there or not; once seen it has to stay. A refused batch was never
stored, so none of its rows may ever appear. Rows that went with a lost catalog are excused until
they are back (restores.py): each of them as soon as it is seen again.
"""

import threading
import time

import numpy as np

KINDS = ("lost", "unseen", "doubled", "invented", "altered")
WRITER_SHIFT = 40


def key(writer, sequence):
    """One number for a row."""
    return (writer << WRITER_SHIFT) + sequence


def value_of(keys):
    """The value a row has to carry: any function that a mix-up of rows would not survive."""
    return (keys * 2654435761) % 1_000_003


class Violation(Exception):
    """A promise that was broken; the message names the rows and what was known of them."""

    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class History:
    """All rows of a run. Safe to use from many threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.sent = KeySet()
        self.acknowledged = KeySet()
        self.refused = KeySet()
        self.seen = KeySet()
        self.excused = np.empty(0, dtype=np.int64)
        self.notes = []

    def note(self, text):
        """Remembers an event, such as a fault, for the story of a violation."""
        with self.lock:
            self.notes.append((time.monotonic() - self.began, text))

    def send(self, keys, where):
        with self.lock:
            self.sent.add(keys)
        self.note(f"{where}: sent {span(keys)}")

    def acknowledge(self, keys, where):
        with self.lock:
            self.acknowledged.add(keys)
        self.note(f"{where}: acknowledged {span(keys)}")

    def refuse(self, keys, where, reason):
        with self.lock:
            self.refused.add(keys)
        self.note(f"{where}: refused {span(keys)}: {reason}")

    def ask(self):
        """What an answer to a question that is asked now must hold at least."""
        with self.lock:
            known = self.acknowledged.all(), self.seen.all()
            return tuple(np.setdiff1d(keys, self.excused) for keys in known)

    def excuse(self, keys):
        """These rows may be missing, whatever was known of them and is said of them from now on."""
        with self.lock:
            self.excused = np.union1d(self.excused, keys)

    def end_excuses(self):
        """All that was ever acknowledged or seen has to be there again."""
        with self.lock:
            self.excused = self.excused[:0]

    def check(self, expected, keys, values, where):
        """Checks an answer; `expected` is what `ask` said before the question.

        Raises Violation for the first promise in the order of KINDS that is broken.
        """
        acknowledged, seen = expected
        with self.lock:
            sent, refused = self.sent.all(), self.refused.all()
        found, counts = np.unique(keys, return_counts=True)
        self.must_be_none("lost", np.setdiff1d(acknowledged, found), where)
        self.must_be_none("unseen", np.setdiff1d(seen, found), where)
        self.must_be_none("doubled", found[counts > 1], where)
        strangers = np.union1d(np.setdiff1d(found, sent), np.intersect1d(found, refused))
        self.must_be_none("invented", strangers, where)
        self.must_be_none("altered", keys[values != value_of(keys)], where)
        with self.lock:
            self.seen.add(np.setdiff1d(found, self.seen.all()))
            self.excused = np.setdiff1d(self.excused, found)

    def must_be_none(self, kind, keys, where):
        if len(keys):
            message = f"{len(keys)} rows at {where}, such as {name(keys[0])}"
            raise Violation(kind, f"{message}\n{self.story(keys[0])}")

    def story(self, row, around=6):
        """What happened to a row, and the faults from shortly before it was sent."""
        writer = int(row) >> WRITER_SHIFT
        sequence = int(row) & ((1 << WRITER_SHIFT) - 1)
        with self.lock:
            notes = list(self.notes)
        own = [at for at, text in notes if is_about(text, writer, sequence)]
        since = min(own, default=0.0) - around
        lines = [
            f"  {at:8.3f} s  {text}"
            for at, text in notes
            if is_about(text, writer, sequence) or (is_fault(text) and at >= since)
        ]
        return "\n".join(lines)


class KeySet:
    """A growing set of row numbers that is read as one sorted array."""

    def __init__(self):
        self.whole = np.empty(0, dtype=np.int64)
        self.added = []

    def add(self, keys):
        self.added.append(np.asarray(keys, dtype=np.int64))

    def all(self):
        if self.added:
            self.whole = np.union1d(self.whole, np.concatenate(self.added))
            self.added = []
        return self.whole


def span(keys):
    """`w3:10-20` for the rows 10 to 20 of writer 3."""
    first, last = int(keys[0]), int(keys[-1])
    mask = (1 << WRITER_SHIFT) - 1
    return f"w{first >> WRITER_SHIFT}:{first & mask}-{last & mask}"


def name(row):
    return span([row])


def is_fault(text):
    return text.startswith("fault ")


def is_about(text, writer, sequence):
    """Whether a note has a span with this row in it."""
    for word in text.replace(":", " ", 1).split():
        prefix, _, rest = word.rstrip(":").partition(":")
        if prefix == f"w{writer}" and "-" in rest:
            first, _, last = rest.partition("-")
            return int(first) <= sequence <= int(last)
    return False
