"""Moments that a fault can be aimed at: a process compacts, or ends an upload, just now."""

import contextlib
import sqlite3
import subprocess
import time

from layouts import catalog_of

# A lease that was given back is over at that time. Statements that delete rows lease the same job.
LEASES = (
    "SELECT holder FROM leases"
    " WHERE job = 'rewrite' AND holder NOT LIKE 'delete-%' AND until_millis > {now}"
)
POSTGRES_NOW = "extract(epoch FROM clock_timestamp()) * 1000"


class Moments:
    """Of one run. `under_way` tells the process that is in the middle of something, if any is."""

    def __init__(self, processes, uploads):
        self.processes, self.uploads = processes, uploads
        # Who has the catalog in a file; else it is in Postgres.
        self.holders = processes.of("catalog", "standalone")

    def under_way(self, what):
        return {"compaction": self.compaction, "upload": self.upload}[what]()

    def compaction(self):
        """By its lease in the catalog: rewriting files is all that is done under it."""
        holders = self.leases_in_file() if self.holders else self.leases_in_postgres()
        if len(self.processes.all) == 1:
            return self.processes.all[0] if holders else None
        return next((each for each in self.processes.all if each.name in holders), None)

    def upload(self):
        """By the client: this one was asked to finish or abort an upload, and has not answered."""
        return self.uploads.ending

    def leases_in_file(self):
        (holder,) = self.holders
        file = catalog_of(holder)
        # The wall clock of that process, wherever it was put.
        now = int((time.time() + holder.switches.value("clock")) * 1000)
        # Opened for each look: if it outlived a kill, the next start would recover nothing.
        with contextlib.suppress(sqlite3.Error):
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                return [name for (name,) in database.execute(LEASES.format(now=now))]
        return []

    def leases_in_postgres(self):
        (postgres,) = [each.postgres for each in self.processes.servers if each.name == "postgres"]
        # Nobody, while it does not run.
        with contextlib.suppress(subprocess.CalledProcessError):
            return postgres.ask(LEASES.format(now=POSTGRES_NOW)).splitlines()
        return []
