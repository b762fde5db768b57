"""What is chosen, how often it happened, and that faults can be made once more."""

import threading
from types import SimpleNamespace

import pytest
from faults import AIMED, STOOD_STILL_SECONDS, Fault, Faults, idle
from history import History


class Child:
    def __init__(self, ended=False):
        self.ended = ended

    def poll(self):
        return 0 if self.ended else None


class Process:
    """Keeps what is done to it."""

    def __init__(self, name):
        self.name, self.role = name, "standalone"
        self.child, self.done = Child(), []

    def kill(self):
        self.done.append("kill")

    def terminate(self):
        self.done.append("terminate")

    def pause(self):
        self.done.append("pause")

    def resume(self):
        self.done.append("resume")


class Way:
    """A link to a process, that keeps what is done to it."""

    def __init__(self, name):
        self.name, self.done = name, []

    def cut(self):
        self.done.append("cut")

    def lose_answers(self):
        self.done.append("lose answers")

    def heal(self):
        self.done.append("heal")


class Nothing:
    """Moments that never come."""

    def under_way(self, _):
        return None


def faults_of(seed, plan=None, servers=()):
    one, two = Process("one"), Process("two")
    ways = {who: [Way(f"{who}-one"), Way(f"{who}-two")] for who in ("writers", "readers")}
    processes = SimpleNamespace(
        all=[one, two],
        links=[],
        ways=ways,
        servers=servers,
        of=lambda *_: [one, two],
        all_links=lambda: sum(ways.values(), []),
    )
    faults = Faults(seed, processes, History(), True, Nothing(), plan)
    return faults, one, two


def drawn(seed, count):
    """The faults of a seed, without making them."""
    faults, _, _ = faults_of(seed)
    faults.since_began = lambda: 0.0
    found = []
    for _ in range(count):
        fault = faults.draw()
        faults.made.append(fault)
        found.append(fault)
    return found


def test_a_seed_chooses_the_same_again():
    assert drawn(7, 50) == drawn(7, 50) != drawn(8, 50)


def test_a_quarter_of_the_pauses_outlives_what_counts_as_standing_still():
    all_faults = [fault for seed in range(200) for fault in drawn(4 * seed, 50)]
    long = [fault.seconds for fault in all_faults if fault.kind == "long pause"]
    short = [fault.seconds for fault in all_faults if fault.kind == "pause"]
    assert 0.2 < len(long) / (len(long) + len(short)) < 0.3
    assert min(long) > STOOD_STILL_SECONDS > max(short)


def test_every_fourth_seed_begins_with_a_long_pause():
    first = [drawn(seed, 1)[0].kind == "long pause" for seed in range(12)]
    assert [seed for seed, begins in enumerate(first) if begins][:3] == [1, 5, 9]


def test_faults_of_the_storage_come_beside_what_a_seed_chose_before(monkeypatch):
    new = {"read error", "slow store", "catalog full", "catalog sync error"}
    # Those of clients come by their own chances, at every choice.
    monkeypatch.setattr("faults.CLIENT_FAULTS", 0)
    monkeypatch.setattr("faults.POWER_CUTS", 0)
    monkeypatch.setattr("faults.AIMED_FAULTS", 0)
    with_them = drawn(4, 200)
    assert new <= {fault.kind for fault in with_them}
    monkeypatch.setattr("faults.STORAGE_FAULTS", 0)
    monkeypatch.setattr("faults.LONG_PAUSES", 0)
    before = [(fault.kind, fault.where) for fault in drawn(4, 100)]
    rest = [fault for fault in with_them if fault.kind not in new]
    rest = [(fault.kind.removeprefix("long "), fault.where) for fault in rest]
    assert rest[:100] == before


def run_of(counts, occasions=None, begins_long=False):
    return SimpleNamespace(
        counts=counts, occasions=lambda: occasions or {}, begins_long=begins_long, made=["a fault"]
    )


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([run_of({}, {"full": (2, 0)}), run_of({}, {"full": (1, 0)})], ["full"]),
        ([run_of({}, {"full": (2, 0)}), run_of({}, {"full": (1, 1)})], []),
        ([run_of({}, {"full": (2, 0)})], []),
        ([run_of({}, begins_long=True), run_of({})], ["long pause"]),
        ([run_of({}, begins_long=True), run_of({"long pause": 1})], []),
        ([run_of({}), run_of({})], []),
        ([run_of({}, {"kill in upload": (11, 0)})], []),
        (
            [run_of({}, {"kill in upload": (11, 0)}), run_of({}, {"kill in upload": (1, 0)})],
            ["kill in upload"],
        ),
    ],
)
def test_what_never_happened_in_all_runs_together_is_noticed(runs, found):
    assert idle(runs) == found


def test_the_faults_of_a_plan_are_made_and_no_others():
    plan = [Fault(0.0, "kill", ("two",)), Fault(0.0, "kill two", ("one", "two"))]
    faults, one, two = faults_of(1, plan)
    faults.run(0.0, threading.Event())
    assert (one.done, two.done) == (["kill"], ["kill", "kill"])
    assert (faults.made, faults.counts) == (plan, {"kill": 1, "kill two": 1})


def test_a_pause_that_was_cut_short_or_of_a_process_that_ended_did_not_outlive_anything():
    stop = threading.Event()
    stop.set()
    faults, one, _ = faults_of(1)
    faults.seconds = 0.0
    fault = Fault(0.0, "long pause", ("one",), seconds=9.0)
    faults.make(fault, stop)
    assert faults.counts == {}
    # The run takes as much longer.
    assert (one.done, faults.seconds) == (["pause", "resume"], 9.0)
    one.child = Child(ended=True)
    assert faults.pause(fault, stop) == 0.0


class Server:
    """Keeps what is done to it."""

    def __init__(self, name):
        self.name, self.done = name, []

    def kill(self):
        self.done.append("kill")

    def start(self):
        self.done.append("start")

    def pause(self):
        self.done.append("pause")

    def resume(self):
        self.done.append("resume")


def test_servers_are_killed_and_paused_and_serve_again():
    servers = [Server("postgres"), Server("store")]
    faults, *_ = faults_of(2, servers=servers)
    faults.since_began = lambda: 0.0
    drawn = [faults.draw() for _ in range(400)]
    kinds = {fault.kind for fault in drawn if fault.where[0] in ("postgres", "store")}
    assert "fail requests" in kinds
    kinds.remove("fail requests")
    assert kinds == {"kill postgres", "kill store", "pause postgres", "pause store"}
    stop = threading.Event()
    stop.set()
    for kind in sorted(kinds):
        faults.make(Fault(0.0, kind, (kind.split()[1],), seconds=9.0), stop)
    assert [server.done for server in servers] == [["kill", "start", "pause", "resume"]] * 2
    assert faults.counts == dict.fromkeys(kinds, 1)


@pytest.mark.parametrize(
    ("who", "loses"), [("writers", "lose answers"), ("readers", "lose results")]
)
def test_connections_of_writers_and_of_readers_are_cut_apart(who, loses):
    faults, *_ = faults_of(2)
    faults.since_began = lambda: 0.0
    ways = faults.processes.ways[who]
    names = {way.name for way in ways}
    of_them = [fault for fault in (faults.draw() for _ in range(400)) if set(fault.where) & names]
    assert {fault.kind for fault in of_them} == {f"cut {who}", loses}
    assert {fault.where for fault in of_them} == {(name,) for name in names}
    stop = threading.Event()
    stop.set()
    for kind in (f"cut {who}", loses):
        faults.make(Fault(0.0, kind, (ways[0].name,), seconds=9.0), stop)
    assert ways[0].done == ["cut", "heal", "lose answers", "cut", "heal"]
    assert all(not way.done for way in faults.processes.all_links() if way is not ways[0])


def test_a_cluster_without_a_disk_for_files_and_catalog_has_no_faults_of_it():
    faults, *_ = faults_of(2, servers=[Server("postgres")])
    faults.since_began, faults.holders = lambda: 0.0, []
    of_the_disk = {"store error", "kill in store", "read error", "slow store"}
    of_the_disk |= {"catalog full", "catalog sync error"}
    assert not of_the_disk & {faults.draw().kind for _ in range(400)}


class Disk:
    """Switches of a process that syncs three times as soon as it may."""

    def __init__(self):
        self.done, self.syncs = [], 0

    def set(self, kind, value):
        self.done.append((kind, value))
        self.syncs += 3 * value

    def count(self, _):
        return self.syncs


@pytest.mark.parametrize("idles", [False, True])
def test_a_cut_of_the_power_comes_after_some_syncs_and_is_over_with_it(idles):
    faults, one, _ = faults_of(1)
    one.lock, one.switches = threading.Lock(), Disk()
    if idles:
        one.switches.count = lambda _: 0
    stop = threading.Event()
    stop.set()
    faults.make(Fault(0.0, "power cut", ("one",)), stop)
    assert one.done == ["kill"]
    assert one.switches.done == [("power cut", 1), ("power cut", 0)]
    assert faults.counts == ({} if idles else {"power cut": 1})


class Comes:
    """A moment of a process that is over after some looks at it."""

    def __init__(self, process, looks):
        self.process, self.looks, self.asked = process, looks, []

    def under_way(self, what):
        self.asked.append(what)
        return self.process if len(self.asked) in self.looks else None


@pytest.mark.parametrize("end", ["kill", "terminate"])
@pytest.mark.parametrize("what", ["compaction", "upload"])
@pytest.mark.parametrize(
    ("looks", "happens"), [((3, 4), True), ((3, 5), False), ((2, 5, 6), True), ((), False)]
)
def test_who_is_in_the_middle_of_something_is_ended_if_it_still_is_a_little_later(
    monkeypatch, end, what, looks, happens
):
    monkeypatch.setattr("faults.OCCASION_SECONDS", 0.2)
    faults, one, two = faults_of(1)
    faults.moments = Comes(two, looks)
    kind = f"{end} in {what}"
    faults.make(Fault(0.0, kind, (what,), seconds=0.001), threading.Event())
    assert (one.done, two.done) == ([], [end] if happens else [])
    assert set(faults.moments.asked) == {what}
    assert faults.counts == ({kind: 1} if happens else {})
    assert faults.occasions() == {kind: (1, int(happens))}


def test_a_run_without_files_aims_at_no_compaction():
    aimed = [fault for seed in range(20) for fault in drawn(seed, 50) if fault.kind in AIMED]
    assert {fault.kind for fault in aimed} == set(AIMED)
    faults, *_ = faults_of(2)
    faults.since_began, faults.flushes = lambda: 0.0, False
    kinds = {faults.draw().kind for _ in range(400)}
    assert kinds & set(AIMED) == {"kill in upload", "terminate in upload"}


@pytest.mark.parametrize("failed", [{}, {"stalled": 1}])
def test_requests_to_the_store_fail_on_new_connections_and_count_when_they_did(failed):
    done = []
    store = Server("store")
    store.fail_requests = lambda seed, share: done.append(("fail", seed))
    store.end_failures = lambda: done.append("end") or failed
    faults, *_ = faults_of(2, servers=[store])
    links = [Way("ingester-0-store"), Way("ingester-0-postgres")]
    faults.processes.links += links
    links[0].cut = lambda: done.append("cut")
    stop = threading.Event()
    stop.set()
    faults.make(Fault(0.0, "fail requests", ("store",), seconds=9.0, value=7), stop)
    assert done == [("fail", 7), "cut", "end", "cut"]
    assert (links[0].done, links[1].done) == (["heal", "heal"], [])
    assert faults.counts == ({"fail requests": 1} if failed else {})
    assert faults.occasions() == {"fail requests": (1, len(failed))}
