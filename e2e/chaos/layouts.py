"""A catalog of an earlier release, whose layout a process brings up to date while it is killed."""

import pathlib
import re
import signal
import sqlite3
import time

from processes import START_SECONDS

MIGRATIONS = pathlib.Path(__file__).parents[2] / "dataplane/catalog/src/sql"
# One seed of so many begins with such a catalog.
ONE_IN = 4
# Kills in the middle of it, and the writes of the database that a process is let make before.
KILLS = 10
WRITES = 60


def begins_old(seed):
    return seed % ONE_IN == 2


def files():
    """The migrations in their order: version, name, statements."""
    paths = sorted((MIGRATIONS / "migrations").glob("*.sql"))
    parts = [(path, *path.stem.split("_", 1)) for path in paths]
    return [(int(version), name, path.read_text()) for path, version, name in parts]


def records():
    """Of layouts that say so: the oldest program that can use it, and its tables."""
    text, _, _ = (MIGRATIONS / "migrations.rs").read_text().partition("#[cfg(test)]")
    found = re.findall(
        r"version: (\d+),\s+name: \"\w+\",.*?oldest: (\d+),\s+new_tables: &\[(.*?)\]", text, re.S
    )
    return {int(version): (int(oldest), tables) for version, oldest, tables in found}


def create(file, version):
    """What a release made that knew the layouts up to `version`, with nothing in it."""
    file.parent.mkdir(parents=True)
    known = records()
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL,"
        " applied_at_millis BIGINT NOT NULL)"
    )
    for number, name, statements in files()[:version]:
        database.executescript(statements.replace("{bytes}", "BLOB"))
        database.execute("INSERT INTO migrations VALUES (?, ?, 0)", (number, name))
        if number in known:
            oldest, tables = known[number]
            tables = " ".join(re.findall(r"\w+", tables))
            database.execute("INSERT INTO layouts VALUES (?, ?, ?)", (number, oldest, tables))
    database.commit()
    database.close()


def version_of(file):
    """The newest layout that is recorded."""
    database = sqlite3.connect(file)
    (version,) = database.execute("SELECT max(version) FROM migrations").fetchone()
    database.close()
    return version


def kill_in_migration(process, chance):
    """Lets a process bring an old catalog up to date and kills it, a few times.

    Returns the layouts that were there at the begin and after each kill.
    """
    file = process.data / "catalog" / "catalog.sqlite"
    create(file, chance.choice([len(files()) - 1, chance.randrange(1, len(files()))]))
    found = [version_of(file)]
    for _ in range(KILLS):
        process.switches.set("kill in catalog", chance.randint(1, WRITES))
        process.start()
        end = time.monotonic() + START_SECONDS
        while process.child.poll() is None and not (process.port() or process.internal_port()):
            if time.monotonic() > end:
                raise AssertionError(
                    f"{process.name} neither starts nor ends: {process.log_tail()}"
                )
            time.sleep(0.01)
        if process.child.poll() is None:
            break
        if process.child.returncode != -signal.SIGKILL:
            raise AssertionError(
                f"layout {found} can't be brought up to date: {process.log_tail()}"
            )
        # From a copy: looking at the file itself would mend it.
        found.append(version_of_copy(file))
    process.switches.set("kill in catalog", 0)
    process.kill()
    return found


def version_of_copy(file):
    copy = file.with_name("copy.sqlite")
    for end in ("", "-wal"):
        part = file.with_name(file.name + end)
        if part.exists():
            copy.with_name(copy.name + end).write_bytes(part.read_bytes())
    version = version_of(copy)
    for path in copy.parent.glob("copy.sqlite*"):
        path.unlink()
    return version
