"""A catalog of an earlier release is what that release made."""

import pytest
from layouts import create, files, records, version_of


@pytest.mark.parametrize("version", range(1, len(files()) + 1))
def test_a_catalog_of_each_layout_can_be_made(tmp_path, version):
    file = tmp_path / "catalog" / "catalog.sqlite"
    create(file, version)
    assert version_of(file) == version


def test_layouts_that_older_programs_can_use_say_so():
    assert records()[15] == (15, '"layouts"')
    # Since then every layout does.
    assert sorted(records()) == list(range(15, len(files()) + 1))
