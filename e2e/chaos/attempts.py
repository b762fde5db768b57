"""Two attempts to store the same rows at the same time, as of a client that gave one up.

A client whose call was not answered begins again while what it sent is still being read, at the
same process or another. Rows are either of a stream with a name (docs/decisions/0022), which each
attempt cuts into batches of its own, or batches with numbers of their own, the same in each
attempt. Whatever was acknowledged to either is stored, and nothing is stored twice: history.py
checks that, as of all rows.
"""

import concurrent.futures
import json
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
from workload import (
    CALL_SECONDS,
    DATABASE,
    SCHEMA,
    TABLE,
    TROUBLE,
    Worker,
    batch_of,
    is_trouble,
    keys_of,
)

LARGEST_STREAM = 300
LARGEST_BATCH = 60


class TwiceWriter(Worker):
    """Stores rows in one or two attempts at once, again and again until all are acknowledged."""

    def __init__(self, number, targets, has_name, *common):
        super().__init__(f"twice-{number}", *common)
        self.number, self.targets, self.has_name = number, targets, has_name
        self.next_row, self.next_sequence = 0, 0
        # Rows that are not all acknowledged yet, and the number of their stream or first batch.
        self.keys, self.sequence = None, None
        # Where one attempt to send them after the other cuts them, the same for numbered batches.
        self.cuts = []
        self.pool = concurrent.futures.ThreadPoolExecutor(2, self.name)
        # How often both of two attempts were answered, and how often rows were there already.
        self.both, self.duplicates = 0, 0

    def work(self):
        if self.keys is None:
            self.begin()
        count = self.chance.choice([1, 2, 2, 2])
        attempts = [self.attempt() for _ in range(count)]
        self.history.note(f"{self.name}: {count} attempts")
        done = [self.pool.submit(*each) for each in attempts]
        stored, duplicates = zip(*(each.result() for each in done), strict=True)
        self.both += count == 2 and all(stored)
        self.duplicates += sum(duplicates)
        if max(stored) == len(self.keys):
            self.keys = None
        else:
            self.stop.wait(self.chance.uniform(0, 0.2))

    def finish(self, seconds):
        """Goes on until the last rows that were begun are acknowledged."""
        end = time.monotonic() + seconds
        self.stop = threading.Event()
        while self.keys is not None:
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} can't finish")
            self.work()
        self.pool.shutdown()

    def begin(self):
        self.keys = keys_of(self.number, self.next_row, self.chance.randint(1, LARGEST_STREAM))
        self.next_row += len(self.keys)
        self.sequence, self.cuts = self.next_sequence, self.cut()
        self.next_sequence += 1 if self.has_name else len(self.cuts)
        self.history.send(self.keys, self.name)

    def attempt(self):
        """What to send where; chosen in this thread, for a seed to choose the same again."""
        cuts = self.cut() if self.has_name else self.cuts
        return self.send, self.chance.choice(self.targets), self.keys, self.sequence, cuts

    def cut(self):
        """Batches of any size: the first row of each, and the one after its last."""
        cuts = [0]
        while cuts[-1] < len(self.keys):
            cuts.append(min(len(self.keys), cuts[-1] + self.chance.randint(1, LARGEST_BATCH)))
        return list(zip(cuts, cuts[1:], strict=False))

    def send(self, target, keys, sequence, cuts):
        """One attempt: of how many rows, from the first on, it heard that they are stored.

        And how many batches it heard were stored before.
        """
        stored, duplicates, where = 0, 0, f"{self.name}@{target.name}"
        try:
            with target.connect("writers") as client:
                for rows, is_duplicate in self.put(client, keys, sequence, cuts):
                    self.history.acknowledge(keys[stored : stored + rows], where)
                    stored += rows
                    duplicates += is_duplicate
        except pa.ArrowException as error:
            if not (isinstance(error, TROUBLE) or is_trouble(error)):
                raise
        return stored, duplicates

    def put(self, client, keys, sequence, cuts):
        """Sends all batches; gives the rows of each acknowledged one, and if they were there."""
        producer = f"producer-{self.name}"
        headers = []
        if self.has_name:
            name = {"x-fc-producer": producer, "x-fc-sequence": sequence}
            headers = [(key.encode(), str(value).encode()) for key, value in name.items()]
        options = flight.FlightCallOptions(timeout=CALL_SECONDS, headers=headers)
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        writer, reader = client.do_put(descriptor, SCHEMA, options)
        try:
            for number, (begin, end) in enumerate(cuts):
                batch = batch_of(keys[begin:end])
                if self.has_name:
                    writer.write_batch(batch)
                else:
                    metadata = {"producer": producer, "sequence": sequence + number}
                    writer.write_with_metadata(batch, json.dumps(metadata).encode())
            for begin, end in cuts:
                answer = reader.read()
                if answer is None:
                    writer.close()
                    raise AssertionError(f"{self.name}: the stream ended without an error")
                answer = json.loads(answer.to_pybytes())
                if answer.get("durable") is not True or answer.get("rows") != end - begin:
                    raise AssertionError(f"{self.name}: {answer} for {end - begin} rows")
                yield end - begin, answer.get("duplicate", False)
            writer.done_writing()
        finally:
            # Tells what ended the stream, if anything did.
            writer.close()
