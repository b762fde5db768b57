"""Uploads: their rows are visible all at once when they are finished, or never.

Each upload has a number, and its rows carry it. `Uploads` keeps what was sent and acknowledged of
each, and whether it was asked to finish. Each answer is checked against that:

- doubled: a row is there twice;
- unfinished: rows of an upload that nobody asked to finish, or that was aborted or expired;
- torn: some rows of an upload are there and others, which were acknowledged, are not;
- invented: rows that were not sent;
- lost: an upload that was finished, or seen, before the question is not there.
"""

import json
import threading

import pyarrow as pa
import pyarrow.flight as flight
from history import Violation, is_fault
from workload import CALL_SECONDS, DATABASE, RETRY_SECONDS, TROUBLE, Worker, is_trouble, select

TABLE = "uploaded"
SCHEMA = pa.schema([("upload", pa.int64()), ("row", pa.int64())])
LAST_FAULTS = 8
# The part of uploads that is aborted.
ABORTS = 0.3
# Of calls that end an upload and were not answered, the part after which the other one is made.
CHANGES_OF_MIND = 0.3
OTHER = {"finish-upload": "abort-upload", "abort-upload": "finish-upload"}
# What the upload is when the other one took effect.
OTHER_END = {"finish-upload": "aborted", "abort-upload": "finished"}


class Upload:
    """What is known of an upload."""

    def __init__(self):
        self.sent, self.acknowledged = set(), set()
        self.may_appear, self.must_appear = False, False


class Uploads:
    """All uploads of a run. Safe to use from many threads."""

    def __init__(self, history):
        self.lock = threading.Lock()
        self.history = history
        self.all = []
        self.seen = set()
        # The process that was asked to end an upload and has not answered yet.
        self.ending = None

    def begin(self):
        with self.lock:
            self.all.append(Upload())
            return len(self.all) - 1

    def send(self, number, rows):
        with self.lock:
            self.all[number].sent.update(rows)

    def acknowledge(self, number, rows):
        with self.lock:
            self.all[number].acknowledged.update(rows)

    def finishing(self, number):
        with self.lock:
            self.all[number].may_appear = True

    def finished(self, number):
        with self.lock:
            self.all[number].must_appear = True

    def ended(self, number):
        """It was aborted, or is expired."""
        with self.lock:
            self.all[number].may_appear = False

    def ask(self):
        """The uploads that an answer to a question that is asked now must hold."""
        with self.lock:
            finished = {at for at, upload in enumerate(self.all) if upload.must_appear}
            return finished | self.seen

    def check(self, expected, answer, where):
        found = {}
        for number, row in answer:
            found.setdefault(number, []).append(row)
        with self.lock:
            for number in expected - found.keys():
                self.violated("lost", number, where)
            for number, rows in found.items():
                self.check_one(number, rows, where)
            self.seen.update(found)

    def check_one(self, number, rows, where):
        if len(rows) != len(set(rows)):
            self.violated("doubled", number, where)
        upload = self.all[number] if number < len(self.all) else Upload()
        if not set(rows) <= upload.sent:
            self.violated("invented", number, where)
        if not upload.may_appear:
            self.violated("unfinished", number, where)
        if not upload.acknowledged <= set(rows):
            self.violated("torn", number, where)

    def violated(self, kind, number, where):
        faults = [text for _, text in self.history.notes if is_fault(text)][-LAST_FAULTS:]
        raise Violation(kind, f"upload {number} at {where}\n  {faults}")


class Uploader(Worker):
    """Uploads in one or several streams, through any processes, and finishes or aborts.

    Each call goes by a connection that may be cut, as half of them do: then nobody knows whether it
    took effect, and it is repeated with the same id. An upload whose finish was not answered is
    sometimes aborted instead, and one whose abort was not answered finished. The first answer
    decides which it was: an upload that is aborted never appears, and a finished one has to.
    """

    def __init__(self, number, targets, uploads, *common):
        super().__init__(f"uploader-{number}", *common)
        self.targets, self.uploads = targets, uploads
        # Calls that end an upload and were not answered.
        self.unclear = 0

    def work(self):
        number = self.uploads.begin()
        try:
            self.upload(number)
        except pa.ArrowInvalid as error:
            # A clock that was set ahead ends every upload; it may not appear any more.
            if "is expired; begin a new one" not in str(error):
                raise
            self.uploads.ended(number)

    def upload(self, number):
        upload = self.act("start-upload", database=DATABASE, table=TABLE)["upload"]
        for part in range(self.chance.randint(1, 3)):
            self.put_part(number, upload, part)
        self.end(number, upload)

    def end(self, number, upload):
        """A repeat has the same answer, wherever it comes to."""
        name = "abort-upload" if self.chance.random() < ABORTS else "finish-upload"
        unclear = False
        while not self.stop.is_set():
            if name == "finish-upload":
                self.uploads.finishing(number)
            try:
                self.act(name, upload=upload)
            except pa.ArrowException as error:
                if unclear and f" is {OTHER_END[name]}; begin a new one" in str(error):
                    # What was not answered did take effect.
                    name = OTHER[name]
                    break
                if not (isinstance(error, TROUBLE) or is_trouble(error)):
                    raise
                unclear = True
                self.troubles += 1
                self.unclear += 1
                if self.chance.random() < CHANGES_OF_MIND:
                    name = OTHER[name]
                self.stop.wait(RETRY_SECONDS)
            else:
                break
        else:
            return
        if name == "finish-upload":
            self.uploads.finished(number)
        else:
            self.uploads.ended(number)

    def act(self, name, **body):
        options = flight.FlightCallOptions(timeout=CALL_SECONDS)
        who = self.chance.choice(["writers", None])
        target = self.chance.choice(self.targets)
        with target.connect(who) as client:
            self.uploads.ending = target if name in OTHER else None
            try:
                (answer,) = client.do_action((name, json.dumps(body).encode()), options)
            finally:
                self.uploads.ending = None
            return json.loads(answer.body.to_pybytes())

    def put_part(self, number, upload, part):
        headers = [(b"x-fc-upload", upload.encode())]
        options = flight.FlightCallOptions(timeout=CALL_SECONDS, headers=headers)
        descriptor = flight.FlightDescriptor.for_path(DATABASE, TABLE)
        with self.chance.choice(self.targets).connect("writers") as client:
            writer, reader = client.do_put(descriptor, SCHEMA, options)
            try:
                for batch in range(self.chance.randint(1, 4)):
                    first = (part * 100 + batch) * 100
                    rows = range(first, first + self.chance.randint(1, 20))
                    self.uploads.send(number, rows)
                    columns = [pa.array([number] * len(rows)), pa.array(rows)]
                    writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
                    answer = reader.read()
                    if answer is None:
                        writer.close()
                        raise AssertionError(f"{self.name}: the stream ended without an error")
                    self.uploads.acknowledge(number, rows)
                writer.done_writing()
            finally:
                # Tells what ended the stream, if anything did.
                writer.close()


class UploadReader(Worker):
    """Asks for the rows of all uploads, again and again, and checks every answer."""

    def __init__(self, targets, uploads, *common):
        super().__init__("upload-reader", *common)
        self.targets, self.uploads = targets, uploads
        self.answers = 0

    def work(self):
        if not self.uploads.ask():
            # There may be no table yet.
            self.stop.wait(RETRY_SECONDS)
            return
        target = self.chance.choice(self.targets)
        with target.connect("readers") as client:
            expected = self.uploads.ask()
            self.uploads.check(expected, all_uploaded(client), f"{self.name}@{target.name}")
            self.answers += 1


def all_uploaded(client):
    """Upload and number of all rows."""
    table = select(client, f'SELECT "upload", "row" FROM {TABLE}')
    return list(zip(*table.select(["upload", "row"]).to_pydict().values(), strict=True))
