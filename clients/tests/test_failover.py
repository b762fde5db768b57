"""A cluster on Postgres while another Postgres server takes the place of its own."""

import contextlib
import pathlib
import sys
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Server, put, run_cli, running, select, wait_until
from postgres import Postgres, Standby

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from links import Network

DATABASE = "d"
ROWS = 5


class Writer(threading.Thread):
    """Puts numbered rows until it is stopped; remembers which were acknowledged."""

    def __init__(self, server, first):
        super().__init__(daemon=True)
        self.server, self.first = server, first
        self.acknowledged = []
        self.done = threading.Event()

    def run(self):
        number = self.first
        with self.server.client() as client:
            while not self.done.wait(0.01):
                values = range(number, number + ROWS)
                with contextlib.suppress(flight.FlightUnavailableError):
                    put(client, DATABASE, "t", pa.table({"id": pa.array(values, pa.int64())}))
                    self.acknowledged += values
                number += ROWS


class Cluster:
    """An ingester and a querier on the Postgres server behind a link, which may be moved."""

    def __init__(self, folder, network, primary):
        self.at = primary
        self.link = network.link("postgres", lambda: self.at.port)
        url = folder / "url"
        url.write_text(f"postgres://postgres@127.0.0.1:{self.link.port}/postgres")
        catalog = {"postgres_url_file": str(url), "request_timeout": "5s"}
        key = folder / "signing.key"
        key.write_bytes(bytes(range(32)))

        def member(role):
            config = {
                "storage": {"object_store": {"kind": "local", "path": str(folder / "objects")}},
                "catalog": catalog,
                "ingest": {"flush_interval": "200ms"},
                "server": {"node_name": f"{role}-0", "signing_key_file": str(key)},
            }
            server = Server(folder / role, config, role=role)
            # What the change of the database makes servers say.
            server.expect_log("catalog|flush|pool|postgres|sqlx|lease|upkeep")
            return server

        self.ingester, self.querier = member("ingester"), member("querier")

    def ids(self):
        with self.querier.client() as client:
            return select(client, DATABASE, "SELECT id FROM t ORDER BY id")["id"].to_pylist()

    def flushes(self):
        return self.ingester.metric("flush_rows_total")


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


@pytest.mark.parametrize("end", ["killed", "vanished"])
def test_a_standby_takes_over_without_a_lost_or_doubled_row(tmp_path, network, end):
    """A machine that vanishes leaves connections on which nothing is ever heard again."""
    with (
        Postgres(f"synchronous_standby_names={Standby.NAME}", network=True) as primary,
        Standby(primary.port) as standby,
    ):
        cluster = Cluster(tmp_path, network, primary)
        with running(cluster.ingester), running(cluster.querier):
            writers = [Writer(cluster.ingester, first) for first in (0, 1_000_000)]
            for writer in writers:
                writer.start()
            wait_until(lambda: all(len(w.acknowledged) > 100 for w in writers), "rows", 60)
            wait_until(lambda: cluster.flushes() > 100, "rows are in files", 60)
            if end == "vanished":
                cluster.link.strand()
            began = time.monotonic()
            primary.kill()
            standby.promote()
            cluster.at = standby
            promoted = time.monotonic()
            known = [len(writer.acknowledged) for writer in writers]

            def answers():
                with contextlib.suppress(flight.FlightUnavailableError):
                    return cluster.ids()

            wait_until(answers, "queries are answered", 60)
            queries = time.monotonic()
            flushed = cluster.flushes()
            wait_until(lambda: cluster.flushes() > flushed, "rows are flushed", 60)
            print(
                f"{end}: promoted after {promoted - began:.1f} s; after that queries in "
                f"{queries - promoted:.1f} s, flushes in {time.monotonic() - promoted:.1f} s"
            )
            wait_until(
                lambda: all(
                    len(w.acknowledged) > k + 50 for w, k in zip(writers, known, strict=True)
                ),
                "writers go on",
                60,
            )
            for writer in writers:
                writer.done.set()
                writer.join(60)
            found = cluster.ids()
            assert len(found) == len(set(found)), "a row is doubled"
            for writer in writers:
                assert set(writer.acknowledged) <= set(found), "a row is lost"
            assert "lost commits" not in cluster.ingester.log_text() + cluster.querier.log_text()


def test_a_standby_that_lacks_flushes_is_noticed_and_nothing_is_short_in_silence(tmp_path, network):
    """An asynchronous standby takes over without what it was not told yet."""
    with Postgres(network=True) as primary:
        replication = network.link("replication", lambda: primary.port)
        with Standby(replication.port) as standby:
            cluster = Cluster(tmp_path, network, primary)
            ingester = cluster.ingester
            cluster.querier.expect_log("taking a new snapshot")
            with running(cluster.querier):
                try:
                    ingester.start()
                    with ingester.client() as client:
                        rows = pa.table({"id": pa.array(range(10), pa.int64())})
                        put(client, DATABASE, "t", rows)
                        wait_until(lambda: cluster.flushes() >= 10, "rows are in a file")
                        caught_up = (
                            "SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication"
                        )
                        wait_until(lambda: primary.ask(caught_up) == "t", "the standby has them")
                        replication.stall()
                        rows = pa.table({"id": pa.array(range(10, 20), pa.int64())})
                        put(client, DATABASE, "t", rows)
                        wait_until(lambda: cluster.flushes() >= 20, "rows are in a file")
                    assert cluster.ids() == list(range(20))
                    primary.kill()
                    standby.promote()
                    cluster.at = standby
                    assert ingester.wait() == 1
                finally:
                    if ingester.process.poll() is None:
                        ingester.kill()
                assert "lost commits that were answered" in ingester.log_text()
                with pytest.raises(flight.FlightUnavailableError, match="ingester-0"):
                    cluster.ids()
                ingester.launch()
                assert ingester.wait() == 1
                assert "the catalog is older than the write-ahead log" in ingester.log_text()
                retire = ["retire", "ingester-0", "--accept-loss"]
                done = run_cli("catalog", *retire, "--config", ingester.config_file)
                assert done.returncode == 0, done.stderr
                # The line of a process that can't start is for people.
                ingester.log_path.unlink()
                with running(ingester):
                    # The log still has what the catalog has forgotten.
                    assert cluster.ids() == list(range(20))
