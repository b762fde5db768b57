"""A catalog whose data is lost and comes back from a backup, by the commands of the documentation.

The backup is one of the last moment, when all processes have ended: whatever was acknowledged is in
it, in files or in logs. Or it is older: rows were acknowledged, flushed and compacted after it.
Then the operator does what docs/operations.md says, step by step, and the rows that may be missing
until step 7 are known exactly: those of files that were flushed after the backup, by an ingester
whose log has dropped a segment with rows of the file. Everything else is in files of the backup or
comes back with the logs. At the end of the run, when all clients have repeated what they have to
repeat, the operator puts them into the table again, and nothing may be missing any more.

No uploads of several streams are under way meanwhile: what one leaves in a log belongs to a table
that the backup lacks, and the ingester with such a log gets a new volume in the end, which a run
has no time for.
"""

import contextlib
import math
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import registers
import workload
from layouts import catalog_of
from processes import BINARY, START_SECONDS
from workload import DATABASE, TROUBLE, all_rows, batch_of

# One seed of so many begins with it, none of those that begin with a migration.
ONE_IN = 4
COMMAND_SECONDS = 60
# What an ingester says whose log relied on what only the lost catalog knew.
REFUSAL = "the catalog is older than the write-ahead log"
# Where the header of a segment has its first sequence number and the id of the ingester.
SEGMENT = struct.Struct("<24xQQ")


def begins_restored(seed):
    return seed % ONE_IN == 0


def begins_older(seed, topology):
    """Whether the backup is an older one: with one topology of each of these seeds."""
    return begins_restored(seed) and (seed // ONE_IN + (topology == "cluster")) % 2 == 0


def lose_and_restore(process):
    """Ends with a catalog made of the backup, in place of the one that is gone."""
    run(process, "backup")
    shutil.rmtree(process.data / "catalog")
    run(process, "restore")
    # Fails when a live file is missing.
    run(process, "check")


class OlderBackup:
    """A backup, the loss of the catalog some time after it, and what the operator does then."""

    def __init__(self, processes, history, of_keys):
        self.processes, self.history, self.registers = processes, history, of_keys
        (self.process,) = processes.of("catalog", "standalone")
        # Rows that only orphans hold, and who refused to start because of such.
        self.rows, self.refused, self.brought = np.empty(0, dtype=np.int64), [], 0

    def take(self):
        """The backup, while all processes run and everybody works."""
        self.since = self.registers.ask()
        # Files that have to be in it, and its name.
        self.before = set(self.of_catalog("SELECT path FROM files"))
        self.name, _, _ = run(self.process, "backup").partition(":")
        self.history.note("fault the catalog is backed up")

    def lose_and_restore(self):
        """Steps 2 to 4: the catalog is gone, and is made of the backup."""
        shutil.rmtree(self.process.data / "catalog")
        run(self.process, "restore", "--from", self.name)
        checked = run(self.process, "check")
        files, orphans = self.files()
        (count,) = re.findall(r"^(\d+) objects with", checked, re.M) or ["0"]
        if int(count) != len(orphans):
            raise AssertionError(f"{len(orphans)} orphans, and catalog check says: {checked}")
        self.excuse(files, orphans)

    def files(self):
        """Files of the restored catalog, and those that are in no catalog: path and table."""
        names = dict(self.of_catalog("SELECT id, name FROM tables WHERE end_snapshot IS NULL"))
        of_files = self.of_catalog("SELECT path, table_id, end_snapshot FROM files")
        self.names = dict(self.of_catalog("SELECT id, name FROM ingesters"))
        store = self.process.data / "objects"
        live = [(store / path, names.get(table)) for path, table, end in of_files if end is None]
        known = {path for path, _, _ in of_files}
        # Of tables that were dropped.
        known.update(path for (path,) in self.of_catalog("SELECT path FROM gc_queue"))
        stored = store.rglob("*.parquet")
        unknown = [path for path in stored if str(path.relative_to(store)) not in known]
        return live, [(path, names.get(int(path.parent.name))) for path in unknown]

    def of_catalog(self, question):
        """What the database of the catalog has, which may be in use."""
        with contextlib.closing(sqlite3.connect(catalog_of(self.process))) as database:
            return database.execute(question).fetchall()

    def excuse(self, live, orphans):
        """Notes which rows are gone with the lost catalog; no other ones may be missing."""
        begins = self.logs()
        gone, self.losers = [], set()
        for path, table in orphans:
            notes = parquet.read_metadata(path).metadata
            # One made of others has no ingester; its rows are in these, which stay a while.
            ingester = notes.get(b"flightcluster.ingester_id")
            is_older = (str(path.relative_to(self.process.data / "objects")),) in self.before
            if ingester is None or is_older:
                continue
            begin = begins.get(int(ingester), math.inf)
            if int(notes[b"flightcluster.first_sequence"]) < begin:
                gone.append((path, table))
                self.losers.add(self.names[int(ingester)])
        kept = keys_in(live, workload.TABLE, ["id"])
        lost = keys_in(gone, workload.TABLE, ["id"]) - kept
        self.rows = np.array(sorted(key for (key,) in lost), dtype=np.int64)
        columns = ["id", "value"]
        kept = keys_in(live, registers.TABLE, columns)
        self.registers.set_back(self.since, keys_in(gone, registers.TABLE, columns) - kept, kept)
        self.history.excuse(self.rows)
        self.history.note(f"fault {len(self.rows)} rows are in orphans of {sorted(self.losers)}")

    def logs(self):
        """The first sequence number that the log of each ingester has, by its id."""
        begins = {}
        for process in self.processes.of("ingester", "standalone"):
            for segment in sorted((process.data / "wal").glob("*.wal"), reverse=True):
                header = segment.read_bytes()[: SEGMENT.size]
                # A kill may leave one that was not begun.
                if len(header) == SEGMENT.size:
                    first, ingester = SEGMENT.unpack(header)
                    begins[ingester] = first
        return begins

    def start(self, check):
        """Steps 5 and 6: everything starts; who refuses is readmitted and starts again.

        `check` asks a querier for all rows in between: it has no answer, or a whole one.
        """
        takers = self.processes.of("ingester", "standalone")
        lengths = {each.name: each.log_path.stat().st_size for each in takers}
        for process in self.processes.all:
            process.start()
        for process in self.processes.all:
            if process not in takers:
                process.wait_until_ready()
        self.refused = [each for each in takers if refuses(each, lengths[each.name])]
        names = {each.name for each in self.refused}
        self.history.note(f"fault {sorted(names)} refuse to start")
        if not names >= self.losers:
            raise AssertionError(f"{self.losers} lost rows, and only {names} refuse to start")
        queriers = self.processes.of("querier")
        # Where the catalog is reached: by any other process, or in the same folder.
        for process in self.refused:
            run(queriers[0] if queriers else process, "readmit", process.name)
        # Refused or readmitted: until it is back its rows are waited for.
        if names and queriers:
            with contextlib.suppress(*TROUBLE), queriers[0].connect() as client:
                check(all_rows(client), queriers[0].name)
        for process in self.refused:
            process.start()
            process.wait_until_ready()
        self.processes.begin_supervising()

    def bring_back(self, querier, found):
        """Step 7: what is in orphans and was not found in the table is put there."""
        rows = np.setdiff1d(self.rows, found)
        self.brought = len(rows)
        if self.brought:
            file = self.process.folder / "orphans.parquet"
            parquet.write_table(pa.Table.from_batches([batch_of(rows)]), file)
            where = ["--uri", f"grpc://127.0.0.1:{querier.port()}", "--database", DATABASE]
            call([BINARY, "put", *where, "--table", workload.TABLE, file])
        self.history.note(f"fault {self.brought} rows of orphans are put into the table")
        self.history.end_excuses()

    def summary(self):
        return (
            f", {len(self.refused)} refused to start with the older catalog, {len(self.rows)} rows"
            f" were in orphans only, {self.brought} of them were put back"
        )


def refuses(process, since):
    """Whether a process that starts ends with the refusal; otherwise it gets ready."""
    end = time.monotonic() + START_SECONDS
    while process.child.poll() is None:
        if process.port() or process.internal_port():
            return False
        if time.monotonic() > end:
            raise AssertionError(f"{process.name} neither starts nor ends: {process.log_tail()}")
        time.sleep(0.02)
    if REFUSAL not in process.log_path.read_bytes()[since:].decode(errors="replace"):
        raise AssertionError(f"{process.name} ended: {process.log_tail()}")
    process.abandon()
    return True


def keys_in(files, table, columns):
    """The rows of the files of a table, as tuples of these columns."""
    found = set()
    for path, of in files:
        if of == table:
            values = parquet.read_table(path, columns=columns).to_pydict()
            found.update(zip(*(values[column] for column in columns), strict=True))
    return found


def run(process, command, *more):
    words = [process.binary, "catalog", command, *more]
    return call([*words, "--config", process.folder / "config.yaml", "--data-dir", process.data])


def call(words):
    """What a command prints; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("FLIGHTCLUSTER_")},
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, words))} fails: {done.stdout}{done.stderr}")
    return done.stdout
