"""The faults of a run, chosen by its seed."""

import random
import time

PAUSE_SECONDS = (0.2, 3.0)
BETWEEN_SECONDS = (0.1, 1.2)


class Faults:
    """Breaks something, waits, mends it, and again. The same seed chooses the same."""

    def __init__(self, seed, processes, history):
        self.chance = random.Random(f"faults {seed}")
        self.processes, self.history = processes, history
        self.counts = {}

    def run(self, seconds, stop):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.wait(self.chance.uniform(*BETWEEN_SECONDS)):
            kinds = ["kill", "kill", "kill two", "pause", "terminate"]
            if self.processes.links:
                kinds += ["cut", "stall"]
            kind = self.chance.choice(kinds)
            self.counts[kind] = self.counts.get(kind, 0) + 1
            getattr(self, kind.replace(" ", "_"))(stop)

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
