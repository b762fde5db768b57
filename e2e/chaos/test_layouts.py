"""A catalog of an earlier release is what that release made."""

import contextlib
import sqlite3

import pytest
from layouts import OLDEST, create, files, records, set_back, version_of


@pytest.mark.parametrize("version", range(1, len(files()) + 1))
def test_a_catalog_of_each_layout_can_be_made(tmp_path, version):
    file = tmp_path / "catalog" / "catalog.sqlite"
    create(file, version)
    assert version_of(file) == version


def test_layouts_that_older_programs_can_use_say_so():
    assert records()[15] == (15, '"layouts"')
    # Since then every layout does.
    assert sorted(records()) == list(range(15, len(files()) + 1))


@pytest.mark.parametrize("version", range(OLDEST, len(files())))
def test_a_catalog_that_is_set_back_holds_what_it_held(tmp_path, version):
    file = tmp_path / "catalog" / "catalog.sqlite"
    create(file, len(files()))
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("INSERT INTO snapshots VALUES (5, 0, 'flush')")
        database.execute("INSERT INTO databases VALUES (1, 'd', 0, 5, '{}')")
        tables = "(id, database_id, schema_name, name, schema_version, options, created_at_millis,"
        tables += " begin_snapshot, end_snapshot)"
        database.execute(
            f"INSERT INTO tables {tables}"
            " VALUES (1, 1, 's', 't', 1, '{}', 0, 5, NULL), (2, 1, 's', 'u', 1, '{}', 0, 5, 5)"
        )
        ingesters = "(id, name, url, epoch, state, changed_at_millis, log_id)"
        database.execute(
            f"INSERT INTO ingesters {ingesters} VALUES (1, 'i', '', 7, 'active', 0, 'a log')"
        )
        database.execute("UPDATE counters SET value = 9 WHERE kind IN ('order', 'snapshot')")
        database.commit()
    assert set_back(file, version) == [1, 0]
    assert version_of(file) == version
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT name, end_snapshot FROM tables ORDER BY id").fetchall() == [
            ("t", None),
            ("u", 5),
        ]
        assert database.execute("SELECT epoch, log_id FROM ingesters").fetchall() == [(7, "a log")]
        counters = dict(database.execute("SELECT kind, value FROM counters"))
    assert (counters["order"], counters["snapshot"]) == (9, 9)
    # What a later layout counts, its migration begins.
    assert ("oldest_snapshot" in counters) == (version >= 9)
