"""Minutes of writes in a small pod leave no more memory behind than they should."""

import os
import shutil
import threading
import time

import numpy
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from cgroup import SMALL_POD_BYTES
from harness import put, running, select, wait_until

SECONDS = int(os.environ.get("SOAK_SECONDS", "12"))
WRITERS = 4
TABLES = 2
ROWS = 16_384
# Between two batches of a MiB of one writer: minutes of it fit on a disk.
PAUSE_SECONDS = 0.25
# Flushed rows stay in memory for a while, then there is compaction.
IDLE_SECONDS = 90
# Of what there was at the start.
MOST = 1.2


def batch(chance, number):
    first = number * ROWS
    times = pa.array(numpy.arange(first, first + ROWS), pa.timestamp("us"))
    hosts = pa.array(numpy.char.mod("host-%d", chance.integers(0, 50, ROWS)))
    values = {f"value_{n}": chance.random(ROWS) for n in range(6)}
    return pa.record_batch({"time": times, "host": hosts, **values})


class Writer(threading.Thread):
    """Sends a batch, waits for its acknowledgement, pauses."""

    def __init__(self, server, number, until):
        super().__init__(daemon=True)
        self.server, self.number, self.until = server, number, until
        self.table = f"t{number % TABLES}"
        self.acknowledged = 0
        self.start()

    def run(self):
        chance = numpy.random.default_rng(self.number)
        descriptor = flight.FlightDescriptor.for_path("d", self.table)
        with self.server.client() as client:
            writer, answers = client.do_put(descriptor, batch(chance, 0).schema)
            with writer:
                while time.monotonic() < self.until:
                    writer.write_batch(batch(chance, self.acknowledged * WRITERS + self.number))
                    answers.read()
                    self.acknowledged += 1
                    time.sleep(PAUSE_SECONDS)
                writer.done_writing()


@pytest.mark.timeout(SECONDS + IDLE_SECONDS + 120)
def test_a_soak_of_writes_leaves_no_memory_behind(new_server, small_pod):
    """S4-43: in a pod of 512 MiB nothing is killed, and idle it has at most a fifth more than at
    its start, when it had served a write and a query."""
    server = new_server({"upkeep": {"interval": "1s", "gc_grace": "10s"}})
    server.prefix = small_pod.prefix()
    try:
        with running(server), server.client() as client:
            put(client, "d", "first", [pa.record_batch({"n": [1]})])
            select(client, "d", "SELECT count(*) AS n FROM first")
            start = server.memory_bytes("VmRSS")
            until = time.monotonic() + SECONDS
            writers = [Writer(server, number, until) for number in range(WRITERS)]
            # Pages of the program that the kernel takes away for want of room are not given back.
            mapped = 0
            while any(writer.is_alive() for writer in writers):
                assert time.monotonic() < until + 60, "a writer hangs"
                mapped = max(mapped, server.memory_bytes("RssFile"))
                time.sleep(0.5)

            def idle():
                return server.memory_bytes("RssAnon") + max(mapped, server.memory_bytes("RssFile"))

            wait_until(lambda: idle() <= MOST * start, "memory is given back", IDLE_SECONDS, 0.5)
            peak = server.memory_bytes("VmHWM")
            print(f"RSS {start >> 20} MiB at the start, up to {peak >> 20}, then {idle() >> 20}")
            assert small_pod.killed() == 0
            assert peak < SMALL_POD_BYTES
            for table in range(TABLES):
                counted = select(client, "d", f"SELECT count(*) AS n FROM t{table}")["n"][0].as_py()
                sent = sum(w.acknowledged for w in writers if w.table == f"t{table}")
                assert counted == sent * ROWS > 0
    finally:
        # Some gigabytes, which pytest would keep.
        shutil.rmtree(server.data, ignore_errors=True)
