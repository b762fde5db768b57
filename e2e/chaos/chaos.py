#!/usr/bin/env python3
"""The history checker: real processes, real clients, faults from a seed, every answer checked.

    chaos.py [--seed N] [--seeds COUNT] [--seconds S] [--topology standalone|cluster|postgres|both]
             [--no-shorten] [--lies log|directory|catalog]

Each seed starts a standalone server, a cluster (a catalog, three ingesters, two queriers) or one on
Postgres and an S3 server instead of a catalog process, on free ports of the loopback interface. It
lets writers and readers work for S seconds while processes are killed (also in the middle of a
sync, of storing a file, of a compaction or of the end of an upload), paused and ended, connections
stalled and cut (also those of writers, while their acknowledgements are on the way, and of
readers), disks full, slow or failing (of the log, of the files, of the catalog), power cut, which
undoes what log and catalog did not sync (also names in their folders), Postgres and the S3 server
killed and paused, requests to the latter failed one by one, and clocks wrong, mends everything, and
asks for all rows once more, also after a restart of every process. What counts as broken is in
history.py.
Every fourth seed begins with a catalog (not one in Postgres) that is set back to an earlier layout,
with all that is in it, and whose migration is killed (layouts.py); another fourth with one that is
lost and restored from a backup, of the last moment or an older one (restores.py).

FLIGHTCLUSTER_BIN is the binary, VERSITYGW the S3 server of the topology `postgres`; `both` is
standalone and cluster. With FLIGHTCLUSTER_OLDER_BIN, that of the release before, processes begin
with it, and are upgraded role by role and set back in the middle of everything. Prints a line for
each seed and `N passed, N failed` at the end; a seed that failed leaves its folder (logs, data) and
prints where, and the story of a row. It is run a few times more with fewer and fewer of its faults,
for about two minutes, and the fewest that failed again are printed (not with --no-shorten). Faults
are counted when they happened; a kind that was switched on several times and never did anything
counts as failed.

With --lies log the disk says that the log is synced when it is not, and forgets the rest at a kill;
with --lies directory only the syncs of the log's folder are lies, as if the product left them out,
and files that were made, renamed or removed are not; with --lies catalog those of the catalog's
database are. That breaks the first promise of the product, so a seed has to fail: the checker finds
it.
"""

import argparse
import itertools
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

from attempts import TwiceWriter
from faults import STOOD_STILL_SECONDS, CatalogLies, DirectoryLies, Faults, Lies, idle
from history import History
from layouts import begins_old, catalog_of, earlier_layout, kill_in_migration, set_back
from links import Network
from moments import Moments
from processes import TOPOLOGIES
from registers import (
    KEYS,
    RegisterDeleter,
    RegisterReader,
    Registers,
    RegisterWriter,
    all_values,
    delete_keys,
)
from restores import REFUSAL, OlderBackup, begins_older, begins_restored, lose_and_restore
from shorten import shortest
from uploads import Uploader, UploadReader, Uploads, all_uploaded
from workload import TROUBLE, Reader, Recess, Writer, all_rows, compactions, live_files

# Small, so that a run of seconds has many flushes, commits, segments and expired rows in memory.
SETTINGS = {
    "flush_interval": ["150ms", "400ms", "1s", "1h"],
    "flush_bytes": ["16KiB", "64KiB", "128MiB"],
    "wal_segment_bytes": ["64KiB", "256KiB"],
    "flushed_grace": ["200ms", "2s", "10s"],
    "group_commit_window": ["0s", "2ms", "20ms"],
}
# Files are rewritten and objects deleted all the time, by several processes at once.
UPKEEP = {
    "interval": ["50ms", "200ms", "1s"],
    "compaction_min_files": [2, 3, 5],
    "compaction_max_files": [5, 64],
    "gc_grace": ["5s", "15s"],
    "orphan_interval": ["1s", "10s"],
    "run_in": ["ingester", "querier"],
    # Shorter than a pause: others take up the work of a process that stands still.
    "lease": ["2s", "6s", "2m"],
}
# One in so many runs has little memory: the rows that a failing store leaves go to the log.
SHORT_OF_MEMORY = 1 / 3
SMALL = {"buffer_bytes": "64KiB", "flush_bytes": "16KiB"}
SMALL_MESSAGE = "64KiB"
LEFT_MEMORY = "leave memory and are read from the log"
FINISH_SECONDS = 60
# How long clients work before a catalog is set back to an earlier layout.
BEFORE_MIGRATION = (1.0, 2.5)
# And how long they go on after a backup that is to be an older one.
AFTER_BACKUP = (1.0, 2.5)
# Then files that are replaced have to stay as long as backups are apart, as the documentation says.
GRACE_AFTER_BACKUP = "1m"
# For shorter histories: so many runs, and no new one after so long.
SHORTER_RUNS = 8
SHORTER_SECONDS = 90


def settings_of(chance):
    ingest = {name: chance.choice(values) for name, values in SETTINGS.items()}
    return {
        "ingest": ingest,
        "upkeep": {name: chance.choice(values) for name, values in UPKEEP.items()},
        "server": {"drain_window": "100ms", "shutdown_timeout": "5s"},
        "catalog": {"request_timeout": "3s"},
    }


class Run:
    """One seed."""

    def __init__(self, seed, topology, seconds, folder, faults=Faults, plan=None):
        self.seed, self.topology, self.seconds = seed, topology, seconds
        self.chance = random.Random(f"run {seed}")
        self.settings = settings_of(self.chance)
        begins_of_older = topology != "postgres" and begins_older(seed, topology)
        if begins_of_older:
            self.settings["upkeep"]["gc_grace"] = GRACE_AFTER_BACKUP
        elif random.Random(f"memory {seed}").random() < SHORT_OF_MEMORY:
            # Not above: what is written back of orphans comes in larger messages.
            self.settings["ingest"] |= SMALL
            self.settings["server"]["max_message_bytes"] = SMALL_MESSAGE
        self.history = History()
        self.registers = Registers(self.history)
        self.uploads = Uploads(self.history)
        self.network = Network()
        self.processes = TOPOLOGIES[topology](folder, self.settings, self.network)
        self.stop = threading.Event()
        ingest = self.settings["ingest"]
        flushes = ingest["flush_interval"] != "1h" or ingest["flush_bytes"] != "128MiB"
        moments = Moments(self.processes, self.uploads)
        self.faults = faults(seed, self.processes, self.history, flushes, moments, plan)
        self.writers, self.readers = [], []
        self.register_changers, self.register_readers = [], []
        self.uploaders, self.twice_writers = [], []
        self.compactions = 0
        self.older = None
        if begins_of_older:
            self.older = OlderBackup(self.processes, self.history, self.registers)
        self.recess, self.uploads_recess = Recess(), Recess()
        # What the catalog held whose migration was killed.
        self.migrated = ""

    def make_workers(self):
        ingesters = self.processes.of("ingester", "standalone")
        queriers = self.processes.of("querier", "standalone")
        for number in range(4):
            is_producer = number % 2 == 1
            # Queriers forward.
            targets = {2: queriers, 3: ingesters + queriers}.get(number, ingesters)
            common = (self.history, self.stop, f"writer {self.seed} {number}")
            self.writers.append(Writer(number, targets, is_producer, *common))
        for number, has_name in ((4, True), (5, False)):
            common = (self.history, self.stop, f"twice {self.seed} {number}")
            targets = ingesters + queriers
            self.twice_writers.append(TwiceWriter(number, targets, has_name, *common))
        for number in range(2):
            common = (self.history, self.stop, f"reader {self.seed} {number}")
            self.readers.append(Reader(number, queriers, *common))
            # One writes through ingesters, the other through any process.
            targets = [ingesters, ingesters + queriers][number]
            common = (self.history, self.stop, f"register {self.seed} {number}")
            self.register_changers.append(RegisterWriter(number, targets, self.registers, *common))
            common = (self.history, self.stop, f"register reader {self.seed} {number}")
            self.register_readers.append(RegisterReader(number, queriers, self.registers, *common))

        common = (self.history, self.stop, f"register deleter {self.seed}")
        self.register_changers.append(RegisterDeleter(queriers, self.registers, *common))
        common = (self.history, self.stop, f"uploads {self.seed}")
        self.uploaders.append(Uploader(0, ingesters + queriers, self.uploads, *common))
        self.uploaders.append(UploadReader(queriers, self.uploads, *common))

    def run(self):
        self.processes.start()
        self.make_workers()
        workers = self.writers + self.readers + self.register_changers + self.register_readers
        workers += self.uploaders + self.twice_writers
        for worker in workers:
            worker.recess = self.recess
        self.uploaders[0].recess = self.uploads_recess
        for worker in workers:
            worker.start()
        # For Postgres dataplane/catalog/tests/postgres_migration.rs does this, at every statement.
        in_file = bool(self.processes.of("catalog", "standalone"))
        begins_otherwise = in_file and (begins_old(self.seed) or begins_restored(self.seed))
        if begins_otherwise or self.processes.servers:
            self.wait_for_answers()
        if begins_otherwise:
            self.begin_otherwise()
        self.faults.run(self.seconds, self.stop)
        self.processes.heal()
        # On a machine that is busy with other things there may have been too little time for both.
        self.wait_for_answers()
        self.stop.set()
        for worker in workers:
            worker.join(FINISH_SECONDS)
            if worker.defect:
                raise AssertionError(worker.defect)
            if worker.is_alive():
                raise AssertionError(f"{worker.name} hangs")
        for writer in self.writers + self.twice_writers:
            writer.finish(FINISH_SECONDS)
        if self.older:
            querier = self.processes.of("querier", "standalone")[0]
            found, _ = self.ask_until_answered(querier)
            self.older.bring_back(querier, found)
        self.check_all("after the faults")
        self.compactions = self.ask_until_answered(
            self.processes.of("querier", "standalone")[0], compactions
        )
        self.delete_some()
        self.processes.restart()
        self.check_all("after a restart of everything")
        self.processes.stop()
        lines = [line for process in self.processes.all for line in process.panics()]
        if lines:
            raise AssertionError("a process had a defect: " + lines[0])

    def wait_for_answers(self):
        """Until rows and keys were read: a recovery before that can take all of a short run."""
        end = time.monotonic() + FINISH_SECONDS
        while not (any(reader.answers for reader in self.readers) and self.registers.overwritten):
            if self.stop.wait(0.02):
                return
            if time.monotonic() > end:
                raise AssertionError("rows or keys were not read")

    def begin_otherwise(self):
        """After some work all processes end, and something is done to the catalog.

        All that was acknowledged before has to be there after it.
        """
        chance = random.Random(f"migration {self.seed}")
        (process,) = self.processes.of("catalog", "standalone")
        queriers = self.processes.of("querier", "standalone")
        seconds, ends_at_once = chance.uniform(*BEFORE_MIGRATION), chance.random() < 0.5
        self.stop.wait(seconds)
        if self.older:
            self.uploads_recess.begin(FINISH_SECONDS)
            self.older.take()
            self.stop.wait(chance.uniform(*AFTER_BACKUP))
            # Something has to be flushed after it.
            ends_at_once &= self.faults.flushes
        # Then rows are in files and in logs; without any file the end in order makes some.
        ends_at_once &= self.ask_until_answered(queriers[0], live_files) > 0
        if ends_at_once:
            self.processes.abandon()
        else:
            self.processes.stop()
        self.history.note(f"fault {'kill' if ends_at_once else 'end'} of all")
        if begins_old(self.seed):
            self.migrate(process, chance)
        elif self.older:
            self.restore_older(queriers)
            return
        else:
            self.history.note("fault the catalog is lost and restored")
            lose_and_restore(process)
            self.faults.count("catalog lost and restored")
        self.processes.start()
        for querier in queriers:
            self.check_rows(querier, "with the other catalog")
            self.check_uploads(querier, "with the other catalog")
            self.check_registers(querier, "with the other catalog")

    def restore_older(self, queriers):
        """The catalog is lost, and what comes in its place is older. Nobody works meanwhile."""
        self.recess.begin(FINISH_SECONDS)
        whole = self.history.ask()
        self.history.note("fault the catalog is lost and an older one restored")
        self.older.lose_and_restore()
        self.older.start(lambda rows, where: self.history.check(whole, *rows, f"{where} too early"))
        self.faults.count("older catalog restored")
        for reader in self.register_readers:
            reader.seen.clear()
        for querier in queriers:
            self.check_rows(querier, "with the older catalog")
            self.check_uploads(querier, "with the older catalog")
            self.check_registers(querier, "with the older catalog")
        self.end_recess()

    def end_recess(self):
        self.recess.end()
        self.uploads_recess.end()

    def migrate(self, process, chance):
        """The catalog becomes one of an earlier layout; its migration is killed, many times."""
        version = earlier_layout(process, chance)
        tables, files = set_back(catalog_of(process), version)
        rows = len(self.history.ask()[0])
        held = f"{tables} tables, {files} files, {rows} rows"
        self.history.note(f"fault the catalog gets layout {version}: {held}")
        if not (tables and files and rows):
            raise AssertionError(f"the catalog to migrate holds too little: {held}")
        found = kill_in_migration(process, chance)
        self.history.note(f"fault kills in the migration, layouts after them: {found}")
        self.migrated = f", layouts {found} of {held}"
        if any(later < earlier for earlier, later in itertools.pairwise(found)):
            raise AssertionError(f"a migration was undone: {found}")
        for _ in found[1:]:
            self.faults.count("kill in migration")

    def check_all(self, when):
        """All queriers see everything, and all of them the same."""
        answers = []
        for querier in self.processes.of("querier", "standalone"):
            keys = self.check_rows(querier, when)
            self.check_uploads(querier, when)
            answers.append((set(keys.tolist()), self.check_registers(querier, when)))
        if any(answer != answers[0] for answer in answers):
            raise AssertionError(f"queriers differ {when}")

    def check_rows(self, querier, when):
        """The numbers of the rows a querier sees, which must be all that were acknowledged."""
        expected = self.history.ask()
        keys, values = self.ask_until_answered(querier)
        self.history.check(expected, keys, values, f"{querier.name} {when}")
        return keys

    def delete_some(self):
        """Deletes half of the keys: what is in logs and replaced files must not bring them back."""
        if not self.registers.any_acknowledged():
            return
        querier = self.chance.choice(self.processes.of("querier", "standalone"))
        keys = self.chance.sample(range(KEYS), KEYS // 2)
        try:
            with querier.connect() as client:
                delete_keys(client, self.registers, keys, 0)
        except TROUBLE:
            # Then they may be there or not; the restart ends what still goes on.
            self.history.note(f"the last deletion, of {keys}, was not answered")

    def check_registers(self, querier, when):
        """The values a querier sees, which must be the last ones."""
        if not self.registers.any_acknowledged():
            return []
        asked = self.registers.ask()
        answer = self.ask_until_answered(querier, all_values)
        self.registers.check(asked, answer, {}, f"{querier.name} {when}")
        return sorted(answer)

    def check_uploads(self, querier, when):
        """The rows of uploads that a querier sees: of each that is finished all, of others none."""
        expected = self.uploads.ask()
        if expected:
            answer = self.ask_until_answered(querier, all_uploaded)
            self.uploads.check(expected, answer, f"{querier.name} {when}")

    def ask_until_answered(self, querier, question=all_rows):
        end = time.monotonic() + FINISH_SECONDS
        while True:
            try:
                with querier.connect() as client:
                    return question(client)
            except TROUBLE as error:
                if time.monotonic() > end:
                    raise AssertionError(f"{querier.name} gives no answer: {error}") from None
                time.sleep(0.1)

    def close(self):
        self.stop.set()
        self.end_recess()
        self.processes.abandon()
        self.network.close()

    def left_memory(self):
        logs = [process.log_path for process in self.processes.all if process.log_path.exists()]
        return sum(log.read_text(errors="replace").count(LEFT_MEMORY) for log in logs)

    def summary(self):
        rows = len(self.history.ask()[0])
        answers = sum(reader.answers for reader in self.readers)
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.counts.items()))
        return (
            f"{rows} rows acknowledged, {answers} answers checked, "
            f"{self.registers.acknowledged} values of keys and {self.registers.deleted} of "
            f"{len(self.registers.deletions)} deletions of them acknowledged, "
            f"{sum(reader.answers for reader in self.register_readers)} answers of them checked, "
            f"{len(self.uploads.ask())} uploads seen or finished and "
            f"{sum(worker.unclear for worker in self.uploaders[:1])} ends of them unanswered, "
            f"{sum(writer.both for writer in self.twice_writers)} pairs of attempts answered, "
            f"{sum(writer.duplicates for writer in self.twice_writers)} batches stored before, "
            f"{self.compactions} compactions remembered, "
            f"rows left memory {self.left_memory()} times{self.migrated}"
            f"{self.older.summary() if self.older else ''}, faults: {faults}"
        )


def run_once(seed, topology, seconds, **more):
    """Runs a seed; returns the run, what is wrong with it, and its folder."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    run = Run(seed, topology, seconds, folder, **more)
    problem = None
    try:
        run.run()
        if not any(reader.answers for reader in run.readers):
            problem = "no answer was checked"
        if not run.registers.overwritten:
            problem = "no key that was overwritten was read"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        run.close()
    return run, problem, folder


def run_seed(seed, topology, seconds, shorten):
    """Runs a seed; returns whether every promise was kept, and the faults."""
    began = time.monotonic()
    run, problem, folder = run_once(seed, topology, seconds)
    took = time.monotonic() - began
    verdict = "FAILED" if problem else "ok"
    print(f"seed {seed} {topology}: {verdict}; {run.summary()}; {took:.1f} s", flush=True)
    if problem:
        print(f"  {problem}\n  settings: {run.settings}\n  folder: {folder}", flush=True)
        if shorten and run.faults.made:
            print(shortened(run, problem), flush=True)
    else:
        shutil.rmtree(folder)
    return problem is None, run.faults


def shortened(run, problem):
    """Runs a seed that failed again, with fewer faults; what to say of it."""
    began = time.monotonic()
    again = {}

    def fails(faults):
        _, found, folder = run_once(run.seed, run.topology, run.seconds, plan=faults)
        shutil.rmtree(folder)
        if found is None or kind_of(found) != kind_of(problem):
            return False
        again["story"] = found
        return True

    def more(runs):
        return runs < SHORTER_RUNS and time.monotonic() - began < SHORTER_SECONDS

    made = run.faults.made
    fewest, runs = shortest(made, fails, more)
    if fewest is None:
        all_faults = "\n".join(f"    {fault}" for fault in made)
        return (
            f"  it did not happen again in {runs} tries with fewer faults; these were\n{all_faults}"
        )
    lines = "\n".join(f"    {fault}" for fault in fewest)
    few, count = len(fewest), len(made)
    return f"  {few} of its {count} faults, {runs} tries:\n{lines}\n  {again['story']}"


def kind_of(problem):
    """What was broken, without the numbers: `AssertionError: lost`."""
    return ":".join(problem.split(":")[:2])


LIES = {"log": Lies, "directory": DirectoryLies, "catalog": CatalogLies}
# What the product says that refuses to go on with what is left. Not of a log whose syncs are lies:
# rows have to be gone there.
REFUSALS = {"directory": "can't open the write-ahead log", "catalog": REFUSAL}


def finds_lies(seeds, topologies, seconds, of):
    """Whether one of these seeds finds that something is lost when syncs of log or catalog lie."""
    faults = LIES[of]
    for seed in seeds:
        for topology in topologies:
            run, problem, folder = run_once(seed, topology, seconds, faults=faults)
            shutil.rmtree(folder)
            lies = run.faults.counts.get(faults.kind, 0)
            said = (problem or "nothing is wrong").splitlines()[0]
            print(f"seed {seed} {topology}, {lies} kills after syncs that lied: {said}", flush=True)
            refused = of in REFUSALS and problem and REFUSALS[of] in problem
            if lies and problem and (kind_of(problem).endswith(faults.finds) or refused):
                return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="the first seed; default: any")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long faults go on")
    parser.add_argument("--topology", default="both", choices=[*TOPOLOGIES, "both"])
    parser.add_argument(
        "--no-shorten", action="store_true", help="do not look for fewer faults that fail too"
    )
    parser.add_argument("--lies", choices=LIES, help="syncs of it lie, and a seed has to find it")
    arguments = parser.parse_args()
    first = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    topologies = ["standalone", "cluster"] if arguments.topology == "both" else [arguments.topology]
    seeds = range(first, first + arguments.seeds)
    if arguments.lies:
        found = finds_lies(seeds, topologies, arguments.seconds, arguments.lies)
        print(f"{int(found)} passed, {int(not found)} failed")
        return 0 if found else 1
    passed, failed, faults = 0, 0, []
    for seed in seeds:
        for topology in topologies:
            kept, of_seed = run_seed(seed, topology, arguments.seconds, not arguments.no_shorten)
            passed, failed = passed + kept, failed + (not kept)
            faults.append(of_seed)
    outlived = sum(each.counts.get("long pause", 0) for each in faults)
    print(f"  {outlived} pauses of more than {STOOD_STILL_SECONDS:.0f} s")
    if idle(faults):
        print(f"  faults that never happened when they were switched on: {idle(faults)}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
