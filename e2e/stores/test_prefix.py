"""Clusters that share a bucket: none sees, deletes, backs up or restores what is another's.

The prefixes could be taken for each other: none at all, so that the others are inside of it, and
one that begins with the letters of another.
"""

import concurrent.futures
import contextlib
import shutil

import pytest
from harness import Server, put, run_cli, wait_until
from kinds import BUCKET, settings
from table import DATABASE, batch, everything, files, in_files

PREFIXES = (None, "lake", "lakes")
BUSY = {
    "interval": "100ms",
    "compaction_min_files": 2,
    "gc_grace": "1s",
    "orphan_grace": "1s",
    "orphan_interval": "200ms",
}


class Cluster:
    """One with `prefix`, whose rows are as many as no other one has."""

    def __init__(self, folder, store, number, prefix):
        self.store, self.prefix = store, prefix
        self.count = 100 * (number + 1)
        folder = folder / f"cluster-{number}"
        more = {"prefix": prefix} if prefix else {}
        config = settings(store, folder, **more)
        config["upkeep"] = BUSY
        # The same names and numbers in each: the paths below the prefixes differ in nothing else.
        self.server = Server(folder / "server", config)
        self.server.expect_log("an object the catalog does not know")

    def fill(self):
        with self.server.client() as client:
            for first in (0, self.count):
                put(client, DATABASE, "t", [batch(first, self.count)])
                end = first + self.count
                wait_until(lambda n=end: in_files(client) == n, "the rows are in a file")
            wait_until(lambda: len(files(client)) == 1, "the files are made one")
        wait_until(lambda: self.stored() == self.live(), "the old files are gone")

    def live(self):
        with self.server.client() as client:
            return set(files(client))

    def stored(self):
        """Paths of its data files in the bucket, below its prefix."""
        head = f"{self.prefix}/" if self.prefix else ""
        keys = self.store.server.objects(BUCKET)
        paths = (key.removeprefix(head) for key in keys if key.startswith(head))
        return {path for path in paths if path.endswith(".parquet") and path.count("/") == 2}

    def is_whole(self):
        with self.server.client() as client:
            assert everything(client) == list(range(2 * self.count))
        assert self.stored() == self.live()
        orphans = "flightcluster_orphan_objects"
        wait_until(lambda: self.server.metric(orphans) == 0, "it knows what it sees")

    def forget(self):
        """A new catalog: whatever it sees in the bucket is nobody's, and is deleted soon."""
        self.server.stop()
        shutil.rmtree(self.server.data)
        # Not for longer: with so short a grace it could take what is being written for an orphan.
        self.server.config["upkeep"] = BUSY | {"delete_orphans": True}
        self.server.start()
        wait_until(lambda: not self.stored(), "its own orphans are deleted")
        self.server.stop()
        self.server.config["upkeep"] = BUSY
        self.server.start()

    def start(self):
        self.server.start()

    def stop(self):
        self.server.stop()

    def back_up(self):
        self.server.stop()
        self.catalog("backup")

    def restore(self):
        shutil.rmtree(self.server.data)
        self.catalog("restore")
        self.catalog("check")
        self.server.start()

    def catalog(self, command):
        server = self.server
        arguments = ["--config", server.config_file, "--data-dir", server.data]
        done = run_cli("catalog", command, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


# The prefix is put before the paths of every kind by the same code.
@pytest.mark.parametrize("kind", ["s3"])
def test_clusters_that_share_a_bucket_do_not_meet(tmp_path, store):
    clusters = [Cluster(tmp_path, store, *each) for each in enumerate(PREFIXES)]
    with contextlib.ExitStack() as end:
        pool = end.enter_context(concurrent.futures.ThreadPoolExecutor())

        def all_of_them(do):
            return list(pool.map(do, clusters))

        for cluster in clusters:
            end.callback(cluster.server.kill)
        all_of_them(Cluster.start)
        all_of_them(Cluster.fill)
        all_of_them(Cluster.is_whole)
        all_of_them(Cluster.back_up)
        all_of_them(Cluster.restore)
        all_of_them(Cluster.is_whole)
        for cluster in clusters:
            cluster.forget()
            cluster.fill()
            all_of_them(Cluster.is_whole)
        all_of_them(Cluster.stop)
