"""The catalog of real servers: backed up, lost, restored, checked; and in Postgres."""

import shutil
import threading

import pyarrow as pa
import pyarrow.flight as flight
from harness import Server, put, run_cli, running, select, wait_until
from postgres import Postgres


def rows(first, count):
    return pa.table({"id": pa.array(range(first, first + count), pa.int64())})


def ids(client, table="t"):
    return select(client, "d", f"SELECT id FROM {table} ORDER BY id")["id"].to_pylist()


def catalog(command, server, *more):
    return run_cli("catalog", command, *more, "--data-dir", server.data)


def objects(server):
    return sorted((server.data / "objects").rglob("*.parquet"))


def fill_and_stop(server, first=0):
    """Writes rows; a stop in order makes a file of them."""
    with running(server), server.client() as client:
        put(client, "d", "t", rows(first, 10))


def test_a_lost_catalog_is_restored_from_its_backup(new_server):
    """Issue 4 section 2: restore into an empty catalog, orphans reported."""
    server = new_server()
    fill_and_stop(server)
    done = catalog("backup", server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("_flightcluster_catalog/"), done.stdout
    fill_and_stop(server, first=10)
    assert len(objects(server)) == 2

    refused = catalog("restore", server)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr and "new data directory" in refused.stderr

    # The disk of the catalog and of the log is gone; the objects are elsewhere.
    shutil.rmtree(server.data / "catalog")
    shutil.rmtree(server.data / "wal")
    assert "there is no catalog" in catalog("check", server).stderr
    done = catalog("restore", server)
    assert done.returncode == 0, done.stderr
    checked = catalog("check", server)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 objects with" in checked.stdout and "are in no catalog" in checked.stdout
    assert len(objects(server)) == 2, "what is newer than the backup is not deleted"
    with running(server), server.client() as client:
        assert ids(client) == list(range(10))
        put(client, "d", "t", rows(100, 5))
        assert ids(client) == [*range(10), *range(100, 105)]


def test_a_check_finds_lost_and_cut_files(new_server):
    server = new_server()
    fill_and_stop(server)
    assert catalog("check", server).returncode == 0
    [file] = objects(server)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    cut = catalog("check", server)
    assert (
        cut.returncode == 1
        and f"({len(content) - 1} bytes instead of {len(content)})" in cut.stdout
    )
    file.unlink()
    lost = catalog("check", server)
    assert lost.returncode == 1 and "the rows in it are lost" in lost.stdout
    assert file.name in lost.stdout


def test_backups_are_taken_by_themselves_and_old_ones_go(new_server):
    backup = {"interval": "200ms", "keep_count": 3}
    server = new_server({"catalog": {"backup": backup}})
    folder = server.data / "objects" / "_flightcluster_catalog"

    def names():
        return sorted(file.name for file in folder.glob("*.jsonl.zst"))

    with running(server), server.client() as client:
        put(client, "d", "t", rows(0, 10))
        first = wait_until(names, "there is a backup")
        wait_until(lambda: first[0] not in names(), "the oldest backup is gone")
        assert 1 <= len(names()) <= 4
        assert server.metric("catalog_backup_newest_timestamp_seconds") > 1_000_000_000
        assert server.metric("catalog_backup_failures_total") == 0


def test_a_backup_of_a_file_moves_into_postgres_and_back(new_server):
    server = new_server()
    fill_and_stop(server)
    assert catalog("backup", server).returncode == 0
    with Postgres() as postgres:
        there = ["--set", f"catalog.postgres_url_file={postgres.url_file}"]
        moved = catalog("restore", server, *there)
        assert moved.returncode == 0, moved.stderr
        assert catalog("check", server, *there).returncode == 0
        shutil.rmtree(server.data / "catalog")
        shutil.rmtree(server.data / "wal")
        server.config = {"catalog": {"postgres_url_file": str(postgres.url_file)}}
        with running(server), server.client() as client:
            assert ids(client) == list(range(10))
        assert not (server.data / "catalog").exists()
        assert catalog("backup", server, *there).returncode == 0
    back = catalog("restore", server)
    assert back.returncode == 0, back.stderr
    server.config = {}
    shutil.rmtree(server.data / "wal")
    with running(server), server.client() as client:
        assert ids(client) == list(range(10))


class Writer(threading.Thread):
    """Puts numbered rows until it is stopped; remembers which were acknowledged."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.acknowledged = []
        self.done = threading.Event()

    def run(self):
        number = 0
        with self.server.client() as client:
            while not self.done.is_set():
                try:
                    put(client, "d", "t", rows(number, 5))
                    self.acknowledged += range(number, number + 5)
                except flight.FlightUnavailableError:
                    pass  # a table is looked up in the catalog
                number += 5


def test_a_cluster_on_postgres_loses_nothing_when_postgres_is_killed(tmp_path):
    """Issue 4 section 2: ingester and querier straight on Postgres, and by a catalog process."""
    shared = {"object_store": {"kind": "local", "path": str(tmp_path / "objects")}}
    with Postgres() as postgres:
        straight = {"postgres_url_file": str(postgres.url_file), "request_timeout": "5s"}
        ingest = {"flush_interval": "200ms"}

        def member(role, catalog):
            config = {"storage": shared, "catalog": catalog, "ingest": ingest}
            server = Server(tmp_path / f"{role}-{len(catalog)}", config, role=role)
            # What the death of the database makes servers say.
            server.expect_log("catalog|flush|pool|postgres|sqlx")
            return server

        ingester, querier = member("ingester", straight), member("querier", straight)
        process = member("catalog", straight)
        with running(process), running(ingester), running(querier):
            url = f"http://127.0.0.1:{process.ports['internal_port']}"
            by_process = member("querier", {"url": url, "request_timeout": "5s", "backup": {}})
            with running(by_process):
                writer = Writer(ingester)
                writer.start()
                for goal in (100, 300, 500):
                    wait_until(lambda g=goal: len(writer.acknowledged) > g, "rows", 60)
                    postgres.kill()
                    postgres.start()
                goal = len(writer.acknowledged) + 100
                wait_until(lambda: len(writer.acknowledged) > goal, "rows go on", 60)
                writer.done.set()
                writer.join(60)
                for reader in (querier, by_process):
                    with reader.client() as client:
                        found = ids(client)
                        assert len(found) == len(set(found)), "a row is doubled"
                        assert set(writer.acknowledged) <= set(found), "a row is lost"
