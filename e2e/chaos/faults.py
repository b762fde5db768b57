"""The faults of a run, chosen by its seed, or those of a run before once more."""

import dataclasses
import random
import time

from disk import KINDS
from processes import BINARY, OLDER_BINARY

# A fault inside a process waits this long for a call that it can break, and may wait in vain:
# nobody writes, or the process just starts. After so many times in vain it does not work at all.
OCCASION_SECONDS = 4.0
TIMES_IN_VAIN = 3
LASTING = ("full", "store error", "read error", "slow store", "catalog full", "catalog sync error")
CLOCK_SECONDS = (-86_000, -3600, -2, 2, 3600, 86_000)
PAUSE_SECONDS = (0.2, 3.0)
# An ingester that stood still for 8 s (dataplane/ingest/src/current.rs) asks before it goes on, and
# calls between processes have given up by then. The run takes that much longer.
STOOD_STILL_SECONDS = 8.0
LONG_PAUSE_SECONDS = (9.0, 12.0)
LONG_PAUSES = 1 / 4
# Each seed of so many begins with one, so that runs of a few seeds have some.
BEGINS_LONG = 4
UPGRADE_SECONDS = 5.0
BETWEEN_SECONDS = (0.1, 1.2)
# Of cuts, the part that takes two links at once.
DOUBLE_CUTS = 1 / 3
# One in so many faults is of the store or the catalog, beside what the seed chose before.
STORAGE_FAULTS = 1 / 5
SLOW_MILLISECONDS = (5, 30, 150)
# Of what happens to the database's disk, the part that is a failing sync.
CATALOG_SYNCS = 1 / 2
# One in so many faults is one of a writer's connection, beside all that, and one of a reader's.
CLIENT_FAULTS = 1 / 8
# Long enough for batches that are under way, too short for clients to find nothing else.
CLIENT_SECONDS = (0.1, 0.6)
# One in so many faults is one of a server that the product uses, where there are such.
SERVER_FAULTS = 1 / 3
# Of what happens to one, the part that is a kill.
SERVER_KILLS = 2 / 3
# How long it is away.
SERVER_SECONDS = (0.0, 3.0)
# One in so many faults is one of requests to the object store, beside all that.
REQUEST_FAULTS = 1 / 5
# So many of them fail, for so long.
FAILING_REQUESTS = 0.4
REQUEST_SECONDS = (0.5, 3.0)
# Syncs before the power of a process is cut, which forgets what was written after the last of them:
# all of these, if they were lies. Of the catalog so many that there are flushes among the commits.
SYNCS = {"sync lies": 3, "catalog sync lies": 20, "power cut": 3, "directory lies": 4}
# One in so many faults is a cut of the power, beside all that.
POWER_CUTS = 1 / 10
# One in so many faults is aimed at a moment, beside all that: what comes, and in which.
AIMED_FAULTS = 1 / 6
AIMED = [f"{end} in {what}" for end in ("kill", "terminate") for what in ("compaction", "upload")]
# How long after the begin of the moment.
AIMED_SECONDS = (0.0, 0.03)
# There may be little to compact for a whole run.
AIMED_IN_VAIN = 12


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault, with all that chance decided about it, so that it can be made again."""

    # Seconds since the first of the run could begin.
    at: float
    kind: str
    # Names of processes or links; of what is aimed at a moment what is done then, by whomever.
    where: tuple
    # How long it lasts, where that is chosen.
    seconds: float = 0.0
    # Of a clock how far it is put; of an upgrade how the processes end; of requests the seed.
    value: object = 1

    def __str__(self):
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        value = f" ({self.value})" if self.value != 1 else ""
        return f"{self.at:8.3f} s  {self.kind}{value} at {', '.join(self.where)}{lasts}"


def idle(runs):
    """Kinds of faults that were to happen in these runs, often, and never once did."""
    sums = {}
    for run in runs:
        for kind, counts in run.occasions().items():
            sums[kind] = tuple(map(sum, zip(sums.get(kind, (0, 0)), counts, strict=True)))
    kinds = [kind for kind, (on, done) in sums.items() if on >= patience(kind) and not done]
    # Nothing can be in the way of the first fault of a run.
    begun = any(run.begins_long and run.made for run in runs)
    outlived = sum(run.counts.get("long pause", 0) for run in runs)
    return kinds + (["long pause"] if begun and not outlived else [])


def patience(kind):
    return AIMED_IN_VAIN if kind in AIMED else TIMES_IN_VAIN


class Faults:
    """Breaks something, waits, mends it, and again. The same seed chooses the same.

    `plan` are the faults of a run before, to be made once more, when they were made then.
    """

    def __init__(self, seed, processes, history, flushes, moments, plan=None):
        self.chance = random.Random(f"faults {seed}")
        # Apart, so that a seed still chooses what it chose before there were these.
        self.kinds_chance = random.Random(f"kinds of faults {seed}")
        self.syncs_chance = random.Random(f"syncs of the catalog {seed}")
        self.clients_chance = random.Random(f"connections of writers {seed}")
        self.readers_chance = random.Random(f"connections of readers {seed}")
        self.servers_chance = random.Random(f"servers {seed}")
        self.requests_chance = random.Random(f"failing requests to the store {seed}")
        self.power_chance = random.Random(f"power {seed}")
        self.aimed_chance = random.Random(f"aimed {seed}")
        self.processes, self.history, self.flushes = processes, history, flushes
        self.moments = moments
        # Who has the files and the database on a disk that faults are made in.
        self.holders = processes.of("catalog", "standalone")
        self.plan = plan
        self.begins_long = plan is None and seed % BEGINS_LONG == 1
        self.counts = {}
        # All that were made.
        self.made = []
        # Which faults inside a process were switched on; what they did the switches have counted.
        self.switched = {}

    def run(self, seconds, stop):
        self.began = time.monotonic()
        self.seconds = seconds
        if self.plan is None:
            while self.left() > 0 and not stop.wait(self.chance.uniform(*BETWEEN_SECONDS)):
                self.make(self.draw(), stop)
            return
        for fault in self.plan:
            if stop.wait(max(0.0, fault.at - self.since_began())):
                return
            self.make(fault, stop)
        stop.wait(max(0.0, self.left()))

    def since_began(self):
        return time.monotonic() - self.began

    def left(self):
        return self.seconds - self.since_began()

    def make(self, fault, stop):
        self.made.append(fault)
        if fault.kind in SYNCS:
            self.lose_power(fault, stop)
            return
        if fault.kind in KINDS:
            self.switch(fault, stop)
            return
        if fault.kind in AIMED:
            self.aim(fault, stop)
            return
        if fault.kind not in ("long pause", "fail requests"):
            self.count(fault.kind)
        getattr(self, fault.kind.replace(" ", "_"))(fault, stop)

    def count(self, kind):
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def draw(self):
        """The next fault."""
        kinds = ["kill", "kill", "kill two", "pause", "terminate"]
        if self.processes.links:
            kinds += ["cut", "stall"]
        kinds += ["full", "sync error", "kill in sync", "clock"]
        if self.flushes and self.holders:
            kinds += ["store error", "kill in store"]
        if OLDER_BINARY:
            kinds += ["upgrade"] * 6
            if any(process.binary == BINARY for process in self.processes.all):
                kinds.append("way back")
        if self.begins_long and not self.made:
            return self.draw_pause(first=True)
        if self.clients_chance.random() < CLIENT_FAULTS:
            return self.draw_client("writers", self.clients_chance)
        if self.readers_chance.random() < CLIENT_FAULTS:
            return self.draw_client("readers", self.readers_chance)
        if self.power_chance.random() < POWER_CUTS:
            return self.draw_power_cut()
        if self.aimed_chance.random() < AIMED_FAULTS:
            return self.draw_aimed()
        stores = [each for each in self.processes.servers if each.name == "store"]
        if stores and self.requests_chance.random() < REQUEST_FAULTS:
            return self.draw_requests(stores)
        if self.processes.servers and self.servers_chance.random() < SERVER_FAULTS:
            return self.draw_server()
        if self.holders and self.kinds_chance.random() < STORAGE_FAULTS:
            return self.draw_storage()
        kind = self.chance.choice(kinds)
        if kind in KINDS:
            return self.draw_switch(kind)
        if kind == "pause":
            return self.draw_pause()
        if kind in ("cut", "stall"):
            return self.draw_link(kind)
        if kind in ("upgrade", "way back"):
            return self.draw_upgrade(kind)
        if kind == "kill two":
            count = min(2, len(self.processes.all))
            return self.fault(kind, self.chance.sample(self.processes.all, count))
        return self.fault(kind, [self.chance.choice(self.processes.all)])

    def fault(self, kind, where, **more):
        return Fault(self.since_began(), kind, tuple(each.name for each in where), **more)

    def draw_pause(self, first=False):
        chance = self.kinds_chance if first else self.chance
        victim, seconds = chance.choice(self.processes.all), chance.uniform(*PAUSE_SECONDS)
        if first or self.kinds_chance.random() < LONG_PAUSES:
            seconds = self.kinds_chance.uniform(*LONG_PAUSE_SECONDS)
            return self.fault("long pause", [victim], seconds=seconds)
        return self.fault("pause", [victim], seconds=seconds)

    def draw_link(self, kind):
        links = [self.chance.choice(self.processes.links)]
        seconds = self.chance.uniform(*PAUSE_SECONDS)
        if kind == "cut" and self.kinds_chance.random() < DOUBLE_CUTS:
            others = [link for link in self.processes.links if link not in links]
            links.append(self.kinds_chance.choice(others))
            kind = "cut two"
        return self.fault(kind, links, seconds=seconds)

    def draw_client(self, who, chance):
        """The way of writers or of readers to one process."""
        loses = {"writers": "lose answers", "readers": "lose results"}[who]
        kind = chance.choice([f"cut {who}", loses])
        way = chance.choice(self.processes.ways[who])
        return self.fault(kind, [way], seconds=chance.uniform(*CLIENT_SECONDS))

    def draw_power_cut(self):
        """Of a process that has a log or the database of the catalog."""
        holders = self.processes.of("catalog", "ingester", "standalone")
        return self.fault("power cut", [self.power_chance.choice(holders)])

    def draw_aimed(self):
        """A kill or an end of whoever is in the middle of something."""
        # Without files there is nothing to compact.
        kinds = [kind for kind in AIMED if self.flushes or "compaction" not in kind]
        kind = self.aimed_chance.choice(kinds)
        seconds = self.aimed_chance.uniform(*AIMED_SECONDS)
        return Fault(self.since_began(), kind, (kind.rpartition(" ")[2],), seconds=seconds)

    def draw_server(self):
        """Postgres or the object store is killed, or stands still."""
        server = self.servers_chance.choice(self.processes.servers)
        what = "kill" if self.servers_chance.random() < SERVER_KILLS else "pause"
        seconds = self.servers_chance.uniform(*SERVER_SECONDS)
        return self.fault(f"{what} {server.name}", [server], seconds=seconds)

    def draw_requests(self, stores):
        """Requests to the object store fail as they do at a cloud; which ones has a seed, too."""
        seed = self.requests_chance.randrange(10**6)
        seconds = self.requests_chance.uniform(*REQUEST_SECONDS)
        return self.fault("fail requests", stores, seconds=seconds, value=seed)

    def draw_upgrade(self, kind):
        """The next role gets the new release; when all have it, all go back."""
        chosen = self.processes.next_to_upgrade() if kind == "upgrade" else []
        kind = "upgrade" if chosen else "way back"
        end = self.chance.choice(["kill", "terminate"])
        return self.fault(kind, chosen or self.processes.all, value=end)

    def draw_switch(self, kind):
        """A fault inside a process: for a while, or once, when the next call gives occasion."""
        if kind == "clock":
            victims = self.processes.all
        elif kind in ("store error", "kill in store"):
            victims = self.holders
        else:
            victims = self.processes.of("ingester", "standalone")
        victim = self.chance.choice(victims)
        value = self.chance.choice(CLOCK_SECONDS) if kind == "clock" else 1
        seconds = self.chance.uniform(*PAUSE_SECONDS) if kind in LASTING else 0.0
        return self.fault(kind, [victim], seconds=seconds, value=value)

    def draw_storage(self):
        """Files that can't be read or are slow, and a database whose disk is full or fails."""
        kinds = ["catalog full"]
        if self.flushes:
            kinds += ["read error", "slow store"]
        kind = self.kinds_chance.choice(kinds)
        if kind == "catalog full" and self.syncs_chance.random() < CATALOG_SYNCS:
            kind = "catalog sync error"
        # The catalog's process has the embedded store too.
        victim = self.kinds_chance.choice(self.holders)
        value = self.kinds_chance.choice(SLOW_MILLISECONDS) if kind == "slow store" else 1
        seconds = self.kinds_chance.uniform(*PAUSE_SECONDS) if kind in LASTING else 0.0
        return self.fault(kind, [victim], seconds=seconds, value=value)

    def occasions(self):
        """How often each kind that waits for calls was switched on, and how often it happened."""
        return {kind: (times, self.happened(kind)) for kind, times in self.switched.items()}

    def happened(self, kind):
        if kind not in KINDS:
            return self.counts.get(kind, 0)
        return sum(process.switches.count(kind) for process in self.processes.all)

    def tell(self, text):
        self.history.note(f"fault {text}")

    def victims(self, fault):
        return [each for each in self.processes.all if each.name in fault.where]

    def kill(self, fault, _stop):
        for victim in self.victims(fault):
            self.tell(f"kill {victim.name}")
            victim.kill()

    kill_two = kill

    def terminate(self, fault, _stop):
        for victim in self.victims(fault):
            self.tell(f"terminate {victim.name}")
            victim.terminate()

    def upgrade(self, fault, stop):
        self.exchange(fault, BINARY)
        # The next role waits for this one.
        end = time.monotonic() + UPGRADE_SECONDS
        while time.monotonic() < end and not stop.wait(0.05):
            if all(each.port() or each.internal_port() for each in self.victims(fault)):
                break

    def way_back(self, fault, _stop):
        """All processes get the release before, whatever they run."""
        self.exchange(fault, OLDER_BINARY)

    def exchange(self, fault, binary):
        release = "newer" if binary == BINARY else "older"
        for process in self.victims(fault):
            self.tell(f"{fault.value} {process.name}, it starts with the {release} release")
            process.binary = binary
            getattr(process, fault.value)()

    def pause(self, fault, stop):
        """Stops a process for a while; returns how long it stood still, if it still runs."""
        (victim,) = self.victims(fault)
        self.tell(f"pause {victim.name}")
        child, began = victim.child, time.monotonic()
        victim.pause()
        stop.wait(fault.seconds)
        stood_still = time.monotonic() - began
        victim.resume()
        self.tell(f"resume {victim.name}")
        return stood_still if victim.child is child and child.poll() is None else 0.0

    def long_pause(self, fault, stop):
        self.seconds += fault.seconds
        if self.pause(fault, stop) > STOOD_STILL_SECONDS:
            self.count("long pause")

    def kill_server(self, fault, stop):
        """Its start again is a recovery after a crash."""
        (server,) = self.servers(fault)
        self.tell(f"kill {server.name}")
        server.kill()
        stop.wait(fault.seconds)
        server.start()
        self.tell(f"{server.name} serves again")

    kill_postgres = kill_store = kill_server

    def pause_server(self, fault, stop):
        (server,) = self.servers(fault)
        self.tell(f"pause {server.name}")
        server.pause()
        stop.wait(fault.seconds)
        server.resume()
        self.tell(f"resume {server.name}")

    pause_postgres = pause_store = pause_server

    def fail_requests(self, fault, stop):
        (server,) = self.servers(fault)
        self.tell(f"requests to {server.name} fail, seed {fault.value}")
        self.switched[fault.kind] = self.switched.get(fault.kind, 0) + 1
        server.fail_requests(fault.value, FAILING_REQUESTS)
        self.connect_again(server)
        stop.wait(fault.seconds)
        failed = server.end_failures()
        # A request that waits for an answer would go on to do so.
        self.connect_again(server)
        self.tell(f"requests to {server.name} failed: {failed}")
        if failed:
            self.count(fault.kind)

    def connect_again(self, server):
        """Connections to a server end, and new ones are made."""
        for link in self.processes.links:
            if link.name.endswith(f"-{server.name}"):
                link.cut()
                link.heal()

    def servers(self, fault):
        return [each for each in self.processes.servers if each.name in fault.where]

    def cut(self, fault, stop):
        self.links(fault, "cut", stop)

    cut_two = cut

    cut_writers = cut_readers = cut

    def lose_answers(self, fault, stop):
        """Rows arrive and are stored, their acknowledgements are on the way, and then it is cut."""
        self.links(fault, "lose_answers", stop, and_then="cut")

    lose_results = lose_answers

    def stall(self, fault, stop):
        self.links(fault, "stall", stop)

    def links(self, fault, what, stop, and_then=None):
        links = [link for link in self.processes.all_links() if link.name in fault.where]
        for link in links:
            self.tell(f"{what} {link.name}")
            getattr(link, what)()
        stop.wait(fault.seconds)
        for link in links:
            if and_then:
                getattr(link, and_then)()
            link.heal()
            self.tell(f"heal {link.name}")

    def switch(self, fault, stop):
        (victim,) = self.victims(fault)
        kind = fault.kind
        self.tell(f"{kind} at {victim.name}")
        self.switched[kind] = self.switched.get(kind, 0) + 1
        before = self.switch_on(victim, fault, stop)
        if kind in LASTING:
            stop.wait(fault.seconds)
        # A clock stays where it was put until the end.
        if kind != "clock":
            victim.switches.set(kind, 0)
        times = victim.switches.count(kind) - before
        self.tell(f"{kind} at {victim.name} over, {times} times")
        if times:
            self.count(kind)

    def switch_on(self, victim, fault, stop, times=1):
        """Waits until it happened; returns how often it had before."""
        before = victim.switches.count(fault.kind)
        victim.switches.set(fault.kind, fault.value)
        end = time.monotonic() + OCCASION_SECONDS
        while victim.switches.count(fault.kind) < before + times and time.monotonic() < end:
            if stop.wait(0.02):
                break
        return before

    def aim(self, fault, stop):
        """Waits for the moment, and a little longer, and ends the process if it still is in it."""
        (what,) = fault.where
        self.tell(f"{fault.kind} is waited for")
        self.switched[fault.kind] = self.switched.get(fault.kind, 0) + 1
        end = time.monotonic() + OCCASION_SECONDS
        while time.monotonic() < end and not stop.is_set():
            if self.moments.under_way(what):
                stop.wait(fault.seconds)
                victim = self.moments.under_way(what)
                if victim:
                    getattr(victim, fault.kind.partition(" ")[0])()
                    self.tell(f"{fault.kind} at {victim.name}")
                    self.count(fault.kind)
                    return
            stop.wait(0.001)

    def lose_power(self, fault, stop):
        """After some syncs a kill that takes what was written since the last one that was none.

        With a disk that lies that is all since the first of them.
        """
        (victim,) = self.victims(fault)
        self.tell(f"{fault.kind} at {victim.name}")
        self.switched[fault.kind] = self.switched.get(fault.kind, 0) + 1
        before = self.switch_on(victim, fault, stop, SYNCS[fault.kind])
        # Nobody starts it in between.
        with victim.lock:
            victim.kill()
            victim.switches.set(fault.kind, 0)
        times = victim.switches.count(fault.kind) - before
        self.tell(f"power of {victim.name} is cut after {times} syncs")
        if times:
            self.count(fault.kind)


class Lies(Faults):
    """What a run has to find: syncs of the log that lie, and nothing else."""

    kind, roles = "sync lies", ("ingester", "standalone")
    # What a row that is gone, and what stood on it, can look like.
    finds = ("lost", "unseen", "missing", "outdated", "back")

    def draw(self):
        return self.fault(self.kind, [self.chance.choice(self.processes.of(*self.roles))])


class CatalogLies(Lies):
    """The same with syncs of the catalog's database."""

    kind, roles = "catalog sync lies", ("catalog", "standalone")
    # Batches that it has forgotten are stored again.
    finds = (*Lies.finds, "doubled")


class DirectoryLies(Lies):
    """The same with syncs of the log's folder: what is in its files stays, their names do not."""

    kind = "directory lies"
