"""An ingester that stood still while another process took its place."""

import json
import pathlib
import shutil
import sys
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import Process, started_cluster

DATABASE = "d"
NUMBERS = pa.schema([("n", pa.int64())])
# Soon enough that the former process wants to flush what it holds as soon as it goes on.
SETTINGS = {"ingest": {"flush_interval": "3s"}, "server": {"drain_window": "100ms"}}
# A process that did nothing for longer than this asks the catalog before it answers anybody
# (PAUSED in dataplane/ingest/src/current.rs).
STOOD_STILL_SECONDS = 8


@pytest.fixture
def processes(tmp_path):
    """A catalog, one ingester and a querier."""
    with started_cluster(tmp_path, SETTINGS, ingesters=1, queriers=1) as processes:
        yield processes


def batch(*numbers):
    return pa.record_batch([pa.array(numbers, pa.int64())], schema=NUMBERS)


def begin(client):
    return client.do_put(flight.FlightDescriptor.for_path(DATABASE, "t"), NUMBERS)


def ask(querier, sql):
    with querier.connect() as client:
        return select(client, DATABASE, sql)


def numbers(querier):
    return ask(querier, "SELECT n FROM t ORDER BY n")["n"].to_pylist()


def rows_in_files(querier):
    sql = "SELECT coalesce(sum(rows), 0) AS rows FROM system.files WHERE table_name = 't'"
    return ask(querier, sql)["rows"][0].as_py()


def stands_still(process):
    """Whether SIGSTOP has reached every thread; until then one may still answer."""
    stats = pathlib.Path(f"/proc/{process.child.pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)


def replacement_of(processes, former, folder):
    """A second process of the same name on the same volume, as seen from a machine that has it now.

    The former one keeps its lock, on a volume that nobody else sees any more.
    """
    config = json.loads(json.dumps(former.config))
    config["internal"].pop("advertise_url")
    replacement = Process(folder / "elsewhere", former.name, former.role, config)
    shutil.copytree(former.data, replacement.data)
    return processes.add(replacement)


def test_a_paused_ingester_that_was_replaced_acknowledges_and_publishes_nothing(
    processes, tmp_path
):
    """Issue section 2: fencing by the epoch, with a paused, then resumed, stale ingester."""
    (stale,), (querier,) = processes.of("ingester"), processes.of("querier")
    with stale.connect() as client:
        writer, reader = begin(client)
        writer.write_batch(batch(0, 1, 2))
        assert json.loads(reader.read().to_pybytes())["durable"] is True
        stale.pause()
        wait_until(lambda: stands_still(stale), "all its threads have stopped")
        paused = time.monotonic()
        # On its way while the process stands still.
        writer.write_batch(batch(100, 101))
        replacement = replacement_of(processes, stale, tmp_path)
        replacement.start()
        replacement.wait_until_ready()
        with replacement.connect() as other:
            again, answers = begin(other)
            with again:
                again.write_batch(batch(3, 4))
                assert json.loads(answers.read().to_pybytes())["durable"] is True
                again.done_writing()
        assert numbers(querier) == [0, 1, 2, 3, 4]
        stood_still = paused + STOOD_STILL_SECONDS + 0.5
        wait_until(lambda: time.monotonic() > stood_still, "it stood still long enough")
        stale.resume()
        with pytest.raises((pa.ArrowException, EOFError)):
            answer = reader.read()
            assert answer is None, f"acknowledged after it was replaced: {answer.to_pybytes()}"
            writer.close()
    assert stale.child.wait(30) != 0, "it goes on"
    log = stale.log_path.read_text()
    assert '"category":"fenced"' in log, log[-3000:]
    assert not [line for line in log.splitlines() if "panicked" in line]
    # Each row once, also when all of them are in files: none of those is the former process's.
    assert numbers(querier) == [0, 1, 2, 3, 4]
    wait_until(lambda: rows_in_files(querier) == 5, "all rows are in files", 30)
    assert numbers(querier) == [0, 1, 2, 3, 4]
    for process in (querier, replacement, *processes.of("catalog")):
        process.stop()
