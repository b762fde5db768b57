"""Acknowledged rows and the death of the process."""

import json
import random
import shutil
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import put, run_cli, running, select, wait_until

ROUNDS = 12
WRITERS = 3
# Small enough that the process also dies in the middle of flushes, commits and truncations.
RESTLESS = {
    "ingest": {
        "flush_interval": "150ms",
        "flush_bytes": "64KiB",
        "wal_segment_bytes": "64KiB",
        "flushed_grace": "2s",
    }
}


class Writer(threading.Thread):
    """Puts numbered batches until the connection breaks; remembers which were acknowledged."""

    def __init__(self, server, number, first):
        super().__init__(daemon=True)
        self.server = server
        self.number = number
        self.next = first
        self.acknowledged = []
        self.unexpected = None

    def run(self):
        descriptor = flight.FlightDescriptor.for_path("d", "events")
        chance = random.Random(f"{self.number}-{self.next}")
        try:
            with self.server.client() as client:
                schema = pa.schema([("writer", pa.int64()), ("id", pa.int64())])
                writer, reader = client.do_put(descriptor, schema)
                while True:
                    ids = range(self.next, self.next + chance.randint(1, 50))
                    columns = {"writer": [self.number] * len(ids), "id": ids}
                    self.next = ids.stop
                    writer.write_batch(pa.record_batch(columns, schema=schema))
                    answer = reader.read()
                    if answer is None:
                        return  # the server was killed; the writer would tell when it is closed
                    answer = json.loads(answer.to_pybytes())
                    assert answer["rows"] == len(ids) and answer["durable"] is True
                    self.acknowledged += ids
        except flight.FlightError:
            pass  # the server was killed
        except Exception as error:  # whatever else it is, the test has to show it
            self.unexpected = error


def got_on(writers, goal):
    """Whether every writer has rows acknowledged, and all together more than `goal`."""
    done = [len(writer.acknowledged) for writer in writers]
    return all(done) and sum(done) > goal


def counts(server):
    """{(writer, id): how often it is there}."""
    with server.client() as client:
        sql = "SELECT writer, id, count(*) AS n FROM events GROUP BY writer, id"
        rows = select(client, "d", sql).to_pylist()
    return {(row["writer"], row["id"]): row["n"] for row in rows}


def test_kill_9_during_do_put_loses_no_acknowledged_row_and_doubles_none(new_server):
    """Issue section 5, style invariants 1 and 2: many short rounds on one data folder."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = new_server(RESTLESS)
    acknowledged = set()
    first = [0] * WRITERS
    for _ in range(ROUNDS):
        server.start()
        writers = [Writer(server, number, first[number]) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        goal = chance.randint(1, 60) * 25
        wait_until(lambda w=writers, g=goal: got_on(w, g), "the writers got on", seconds=60)
        # A moment anywhere between two flushes.
        time.sleep(chance.random() * 0.2)
        server.kill()
        for writer in writers:
            writer.join(20)
            assert not writer.is_alive(), "a writer hangs although the server is dead"
            if writer.unexpected:
                raise writer.unexpected
            acknowledged |= {(writer.number, each) for each in writer.acknowledged}
            first[writer.number] = writer.next
    server.start()
    found = counts(server)
    missing = sorted(acknowledged - found.keys())
    doubled = sorted(row for row, n in found.items() if n != 1)
    assert not missing, f"{len(missing)} of {len(acknowledged)} lost, first {missing[:5]}"
    assert not doubled, f"{len(doubled)} rows doubled, first {doubled[:5]}"
    # The same again once everything is in files.
    server.stop()
    server.start()
    assert counts(server) == found
    server.stop()


def test_rows_are_there_after_kill_9_without_any_flush(new_server):
    """Style invariant 1: the write-ahead log alone brings them back."""
    server = new_server({"ingest": {"flush_interval": "1h"}})
    server.start()
    with server.client() as client:
        put(client, "d", "t", pa.table({"id": list(range(1000))}).to_batches(max_chunksize=100))
    server.kill()
    server.start()
    with server.client() as client:
        answer = select(client, "d", "SELECT count(*) AS n, sum(id) AS s FROM t")
    assert answer.to_pylist() == [{"n": 1000, "s": 499_500}]
    server.stop()


def test_a_second_kill_during_replay_changes_nothing(new_server):
    """Replay is repeatable: it may die itself."""
    server = new_server({"ingest": {"flush_interval": "1h"}})
    server.start()
    with server.client() as client:
        batches = pa.table({"id": list(range(50_000))}).to_batches(max_chunksize=50)
        put(client, "d", "t", batches)
    server.kill()
    for wait in (0.0, 0.02, 0.05, 0.1):
        process = start_without_waiting(server)
        time.sleep(wait)
        process.kill()
        process.wait(10)
    server.start()
    with server.client() as client:
        answer = select(client, "d", "SELECT count(*) AS n, count(DISTINCT id) AS d FROM t")
    assert answer.to_pylist() == [{"n": 50_000, "d": 50_000}]
    server.stop()


def start_without_waiting(server):
    import subprocess

    from harness import BINARY, clean_environment

    command = [BINARY, "standalone", "--config", server.config_file, "--data-dir", server.data]
    command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    return subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )


def test_readers_never_see_a_row_twice_or_lose_one_while_files_take_over(new_server):
    """Design 4.4, the hand-off: counts only grow while rows move from the buffer into files."""
    with running(new_server(RESTLESS)) as server:
        writer = Writer(server, 0, 0)
        writer.start()
        seen = 0
        with server.client() as client:
            wait_until(lambda: writer.acknowledged, "the first batch")
            end = time.monotonic() + 6
            while time.monotonic() < end:
                least = len(writer.acknowledged)
                sql = "SELECT count(*) AS n, count(DISTINCT id) AS d, max(id) AS top FROM events"
                row = select(client, "d", sql).to_pylist()[0]
                assert row["n"] == row["d"] == row["top"] + 1, f"not each row once: {row}"
                assert row["n"] >= max(least, seen), f"{row} after {least} and {seen}"
                seen = row["n"]
        assert seen > 1000
        server.kill()
        writer.join(20)
        server.start()


@pytest.mark.parametrize("statement", ["DROP TABLE t", "CREATE TABLE t2 AS SELECT * FROM t"])
def test_what_a_statement_did_is_there_after_kill_9(new_server, statement):
    """A statement that was answered is durable like a row."""
    server = new_server()
    server.start()
    with server.client() as client:
        put(client, "d", "t", pa.table({"id": [1, 2, 3]}))
        select(client, "d", statement)
    server.kill()
    server.start()
    with server.client() as client:
        sql = "SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'public'"
        tables = set(select(client, "d", sql)["t"].to_pylist())
        assert tables == ({"t", "t2"} if "t2" in statement else set())
        if "t2" in statement:
            assert select(client, "d", "SELECT sum(id) AS s FROM t2")["s"].to_pylist() == [6]
    server.stop()


def test_a_server_whose_log_is_gone_does_not_start_and_its_return_brings_the_rows_back(new_server):
    """The volume of the write-ahead log was exchanged: nothing acknowledged is lost silently."""
    server = new_server()
    rows = pa.table({"id": [1, 2, 3]})
    with running(server), server.client() as client:
        put(client, "d", "t", rows)
        server.kill()
    wal, kept = server.data / "wal", server.folder / "kept"
    wal.rename(kept)

    with pytest.raises(AssertionError, match="exited with 1"):
        server.start()
    log = server.log_text()
    assert "the one it wrote to is missing" in log
    assert "flightcluster catalog retire standalone --accept-loss" in log
    # Its last line is for people, the next process's are JSON.
    server.log_path.unlink()

    shutil.rmtree(wal)
    kept.rename(wal)
    with running(server), server.client() as client:
        assert select(client, "d", "SELECT id FROM t ORDER BY id").column("id").to_pylist() == [
            1,
            2,
            3,
        ]


def test_a_segment_that_is_missing_at_either_end_is_named_and_its_return_brings_the_rows_back(
    new_server,
):
    """Without it the rest looks like a whole log: shorter, or truncated."""
    # Nothing is in files, so every segment has rows that are nowhere else.
    never = {"flush_interval": "1h", "flush_bytes": "1GiB", "wal_segment_bytes": "64KiB"}
    server = new_server({"ingest": never})
    chance = random.Random(1)
    with running(server), server.client() as client:
        for number in range(6):
            blob = pa.array([chance.randbytes(40_000)])
            put(client, "d", "t", pa.table({"id": [number], "blob": blob}))
        server.kill()
    segments = sorted((server.data / "wal").glob("*.wal"))
    assert len(segments) >= 6
    kept = server.folder / "kept"
    for segment in (segments[0], segments[-1]):
        segment.rename(kept)
        with pytest.raises(AssertionError, match="exited with 1"):
            server.start()
        log = server.log_text()
        assert f"{segment.name} is missing although the log was not done with it" in log
        assert "put the file back" in log
        # Its last line is for people, the next process's are JSON.
        server.log_path.unlink()
        kept.rename(segment)
    with running(server), server.client() as client:
        ids = select(client, "d", "SELECT id FROM t ORDER BY id").column("id").to_pylist()
        assert ids == list(range(6))


def test_a_server_whose_log_is_gone_for_good_goes_on_when_the_loss_is_accepted(new_server):
    server = new_server()
    with running(server), server.client() as client:
        put(client, "d", "t", pa.table({"id": [1]}))
        server.kill()
    shutil.rmtree(server.data / "wal")
    retire = ["catalog", "retire", "standalone", "--data-dir", server.data]
    assert run_cli(*retire).returncode == 1
    assert run_cli(*retire, "--accept-loss").returncode == 0
    with running(server), server.client() as client:
        assert select(client, "d", "SELECT id FROM t").num_rows == 0
        put(client, "d", "t", pa.table({"id": [2]}))
        assert select(client, "d", "SELECT id FROM t").column("id").to_pylist() == [2]
