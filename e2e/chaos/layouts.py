"""A catalog of an earlier layout, with tables, files and rows in logs, that is brought up to date.

The process that does it is killed in the middle of it. What the catalog holds was written through
the layout of today, and is put into tables of the earlier one: every row of every table it had, in
the columns it had. So this covers what migrations do to tables and columns that are there; it does
not cover values that only an earlier release wrote, nor layouts from before tables could have a
primary key, whose rows the histories need.
"""

import contextlib
import pathlib
import re
import signal
import sqlite3
import time

from processes import START_SECONDS

MIGRATIONS = pathlib.Path(__file__).parents[2] / "dataplane/catalog/src/sql"
# One seed of so many begins with such a catalog.
ONE_IN = 4
# The first layout with an order of the rows of tables with a primary key.
OLDEST = 8
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
    file.parent.mkdir(parents=True, exist_ok=True)
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


def set_back(file, version):
    """Makes it a catalog of an earlier layout with all it holds; returns the tables and files."""
    former = file.with_name("former.sqlite")
    # It was closed, or its process killed: then the rest of it is in its log.
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = DELETE").fetchone()
    file.rename(former)
    create(file, version)
    database = sqlite3.connect(file)
    database.execute("ATTACH ? AS former", (str(former),))
    counters = [kind for (kind,) in database.execute("SELECT kind FROM counters")]
    for table in tables_of(database):
        if table in ("migrations", "layouts"):
            continue
        names = [name for _, name, *_ in database.execute(f"PRAGMA main.table_info({table})")]
        columns = ", ".join(f'"{name}"' for name in names)
        database.execute(f"DELETE FROM main.{table}")
        database.execute(f"INSERT INTO main.{table} SELECT {columns} FROM former.{table}")
    # Later layouts add theirs.
    marks = ", ".join("?" * len(counters))
    database.execute(f"DELETE FROM main.counters WHERE kind NOT IN ({marks})", counters)
    database.commit()
    held = [
        database.execute(f"SELECT count(*) FROM main.{table} WHERE end_snapshot IS NULL").fetchone()
        for table in ("tables", "files")
    ]
    database.close()
    former.unlink()
    return [count for (count,) in held]


def tables_of(database):
    found = database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
    return [name for (name,) in found]


def version_of(file):
    """The newest layout that is recorded."""
    database = sqlite3.connect(file)
    (version,) = database.execute("SELECT max(version) FROM migrations").fetchone()
    database.close()
    return version


def catalog_of(process):
    return process.data / "catalog" / "catalog.sqlite"


def earlier_layout(process, chance):
    """Any that histories can begin with, often the last but one."""
    newest = version_of(catalog_of(process))
    return chance.choice([newest - 1, chance.randrange(OLDEST, newest)])


def kill_in_migration(process, chance):
    """Lets a process bring an old catalog up to date and kills it, a few times.

    Returns the layouts that were there at the begin and after each kill.
    """
    file = catalog_of(process)
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
