"""Who is in the middle of something is told by the catalog's leases, and by the client's calls."""

import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pyarrow.flight as flight
import pytest
from disk import Switches
from history import History
from layouts import create, files
from moments import Moments
from uploads import Uploader, Uploads

NOW = int(time.time() * 1000)
SOON, DAY = NOW + 60_000, 86_400_000
LEASES = [
    ("rewrite", 1, "ingester-1", SOON),
    # Was given back.
    ("rewrite", 2, "ingester-0", NOW),
    # A statement, and other work.
    ("rewrite", 3, "delete-1f", SOON),
    ("orphan_scan", 0, "ingester-2", SOON),
]


class Catalog:
    """A process with a catalog of the newest layout."""

    def __init__(self, folder, name="catalog"):
        self.name, self.data = name, folder
        self.switches = Switches(folder / "switches")
        self.file = folder / "catalog" / "catalog.sqlite"
        create(self.file, len(files()))

    def lease(self, rows):
        database = sqlite3.connect(self.file)
        database.execute("DELETE FROM leases")
        database.executemany("INSERT INTO leases VALUES (?, ?, ?, ?)", rows)
        database.commit()
        database.close()


def moments_of(holder, *others, servers=()):
    everybody = [holder, *others] if holder else list(others)
    processes = SimpleNamespace(
        all=everybody, servers=list(servers), of=lambda *_: [holder] if holder else []
    )
    return Moments(processes, Uploads(History()))


INGESTERS = [SimpleNamespace(name=f"ingester-{number}") for number in range(3)]


def test_of_a_cluster_the_holder_of_a_lease_that_lasts_compacts(tmp_path):
    catalog = Catalog(tmp_path)
    moments = moments_of(catalog, *INGESTERS)
    assert moments.under_way("compaction") is None
    catalog.lease(LEASES)
    assert moments.under_way("compaction") is INGESTERS[1]
    catalog.lease(LEASES[1:])
    assert moments.under_way("compaction") is None


def test_a_standalone_server_is_the_one_whatever_its_name_there(tmp_path):
    catalog = Catalog(tmp_path)
    moments = moments_of(catalog)
    catalog.lease([("rewrite", 1, "this-machine", SOON)])
    assert moments.under_way("compaction") is catalog
    catalog.lease(LEASES[1:])
    assert moments.under_way("compaction") is None


@pytest.mark.parametrize("ahead", [-DAY, DAY])
def test_leases_last_by_the_clock_of_the_catalog(tmp_path, ahead):
    catalog = Catalog(tmp_path)
    moments = moments_of(catalog, *INGESTERS)
    catalog.lease([(job, table, name, until + ahead) for job, table, name, until in LEASES])
    assert moments.under_way("compaction") is not INGESTERS[1]
    catalog.switches.set("clock", ahead // 1000)
    assert moments.under_way("compaction") is INGESTERS[1]


def test_looking_leaves_the_catalog_as_it_is(tmp_path):
    catalog = Catalog(tmp_path)
    moments = moments_of(catalog, *INGESTERS)
    # Somebody has it open, and is killed then: its log is all there is of the lease.
    script = (
        f"import os, sqlite3; d = sqlite3.connect({str(catalog.file)!r});"
        f"d.execute(\"INSERT INTO leases VALUES ('rewrite', 1, 'ingester-1', {SOON})\");"
        "d.commit(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    log = catalog.file.with_name("catalog.sqlite-wal")
    before = log.read_bytes(), catalog.file.read_bytes()
    moments.under_way("compaction")
    assert len(before[0]) > 0
    assert (log.read_bytes(), catalog.file.read_bytes()) == before


def test_in_postgres_its_own_clock_counts_and_a_dead_one_knows_nobody():
    asked = []

    def ask(sql):
        asked.append(sql)
        return "ingester-2\ningester-9"

    server = SimpleNamespace(name="postgres", postgres=SimpleNamespace(ask=ask))
    moments = moments_of(None, *INGESTERS, servers=[server])
    assert moments.under_way("compaction") is INGESTERS[2]
    assert "clock_timestamp()" in asked[0]

    def refuse(_):
        raise subprocess.CalledProcessError(2, "psql")

    server.postgres.ask = refuse
    assert moments.under_way("compaction") is None


@pytest.mark.parametrize("name", ["finish-upload", "abort-upload", "start-upload"])
def test_an_upload_is_under_way_while_its_end_is_not_answered(name):
    moments = moments_of(None)
    seen = []

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def do_action(self, *_):
            seen.append(moments.under_way("upload"))
            raise flight.FlightUnavailableError("killed")

    target = SimpleNamespace(connect=lambda _: Client())
    uploader = Uploader(0, [target], moments.uploads, History(), None, "seed")
    with pytest.raises(flight.FlightUnavailableError):
        uploader.act(name, upload="u")
    assert seen == [None if name == "start-upload" else target]
    assert moments.under_way("upload") is None
