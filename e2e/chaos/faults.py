"""The faults of a run, chosen by its seed."""

import random
import time

from disk import KINDS
from processes import BINARY, OLDER_BINARY

# A fault inside a process waits this long for a call that it can break, and may wait in vain:
# nobody writes, or the process just starts. After so many times in vain it does not work at all.
OCCASION_SECONDS = 4.0
TIMES_IN_VAIN = 3
LASTING = ("full", "store error")
CLOCK_SECONDS = (-86_000, -3600, -2, 2, 3600, 86_000)
PAUSE_SECONDS = (0.2, 3.0)
UPGRADE_SECONDS = 5.0
BETWEEN_SECONDS = (0.1, 1.2)


def idle(runs):
    """Kinds of faults that were switched on often in these runs and never once happened."""
    sums = {}
    for run in runs:
        for kind, counts in run.occasions().items():
            sums[kind] = tuple(map(sum, zip(sums.get(kind, (0, 0)), counts, strict=True)))
    return [kind for kind, (on, done) in sums.items() if on >= TIMES_IN_VAIN and not done]


class Faults:
    """Breaks something, waits, mends it, and again. The same seed chooses the same."""

    def __init__(self, seed, processes, history, flushes):
        self.chance = random.Random(f"faults {seed}")
        self.processes, self.history, self.flushes = processes, history, flushes
        self.counts = {}
        # Which faults inside a process were switched on; what they did the switches have counted.
        self.switched = {}

    def run(self, seconds, stop):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.wait(self.chance.uniform(*BETWEEN_SECONDS)):
            kinds = ["kill", "kill", "kill two", "pause", "terminate"]
            if self.processes.links:
                kinds += ["cut", "stall"]
            kinds += ["full", "sync error", "kill in sync", "clock"]
            if self.flushes:
                kinds += ["store error", "kill in store"]
            if OLDER_BINARY:
                kinds += ["upgrade"] * 6
                if any(process.binary == BINARY for process in self.processes.all):
                    kinds.append("way back")
            kind = self.chance.choice(kinds)
            if kind in KINDS:
                self.switch(kind, stop)
                continue
            self.counts[kind] = self.counts.get(kind, 0) + 1
            getattr(self, kind.replace(" ", "_"))(stop)

    def occasions(self):
        """How often each kind inside a process was switched on, and how often it happened."""
        return {
            kind: (times, sum(process.switches.count(kind) for process in self.processes.all))
            for kind, times in self.switched.items()
        }

    def tell(self, text):
        self.history.note(f"fault {text}")

    def victim(self):
        return self.chance.choice(self.processes.all)

    def kill(self, _stop):
        victim = self.victim()
        self.tell(f"kill {victim.name}")
        victim.kill()

    def kill_two(self, _stop):
        count = min(2, len(self.processes.all))
        for victim in self.chance.sample(self.processes.all, count):
            self.tell(f"kill {victim.name}")
            victim.kill()

    def terminate(self, _stop):
        victim = self.victim()
        self.tell(f"terminate {victim.name}")
        victim.terminate()

    def upgrade(self, stop):
        """The next role gets the new release; when all have it, all go back."""
        chosen = self.processes.next_to_upgrade()
        if not chosen:
            self.way_back(stop)
            return
        self.exchange(chosen, BINARY)
        # The next role waits for this one.
        end = time.monotonic() + UPGRADE_SECONDS
        while time.monotonic() < end and not stop.wait(0.05):
            if all(process.port() or process.internal_port() for process in chosen):
                break

    def way_back(self, _stop):
        """All processes get the release before, whatever they run."""
        self.exchange(self.processes.all, OLDER_BINARY)

    def exchange(self, processes, binary):
        end = self.chance.choice(["kill", "terminate"])
        release = "newer" if binary == BINARY else "older"
        for process in processes:
            self.tell(f"{end} {process.name}, it starts with the {release} release")
            process.binary = binary
            getattr(process, end)()

    def pause(self, stop):
        victim = self.victim()
        self.tell(f"pause {victim.name}")
        victim.pause()
        stop.wait(self.chance.uniform(*PAUSE_SECONDS))
        victim.resume()
        self.tell(f"resume {victim.name}")

    def cut(self, stop):
        self.link("cut", stop)

    def stall(self, stop):
        self.link("stall", stop)

    def link(self, what, stop):
        link = self.chance.choice(self.processes.links)
        self.tell(f"{what} {link.name}")
        getattr(link, what)()
        stop.wait(self.chance.uniform(*PAUSE_SECONDS))
        link.heal()
        self.tell(f"heal {link.name}")

    def switch(self, kind, stop):
        """A fault inside a process: for a while, or once, when the next call gives occasion."""
        if kind == "clock":
            victims = self.processes.all
        elif kind in ("store error", "kill in store"):
            victims = self.processes.of("catalog", "standalone")
        else:
            victims = self.processes.of("ingester", "standalone")
        victim = self.chance.choice(victims)
        value = self.chance.choice(CLOCK_SECONDS) if kind == "clock" else 1
        self.tell(f"{kind} at {victim.name}")
        self.switched[kind] = self.switched.get(kind, 0) + 1
        before = victim.switches.count(kind)
        victim.switches.set(kind, value)
        end = time.monotonic() + OCCASION_SECONDS
        while victim.switches.count(kind) == before and time.monotonic() < end:
            if stop.wait(0.02):
                break
        if kind in LASTING:
            stop.wait(self.chance.uniform(*PAUSE_SECONDS))
        # A clock stays where it was put until the end.
        if kind != "clock":
            victim.switches.set(kind, 0)
        times = victim.switches.count(kind) - before
        self.tell(f"{kind} at {victim.name} over, {times} times")
        if times:
            self.counts[kind] = self.counts.get(kind, 0) + 1
