"""Which seeds begin with a lost catalog, and which rows may be gone with it."""

import struct
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from history import History
from registers import Registers
from restores import OlderBackup, begins_older, begins_restored


def test_a_seed_has_an_older_backup_in_one_topology_and_the_last_one_in_the_other():
    kinds = {
        seed: [begins_older(seed, topology) for topology in ("standalone", "cluster")]
        for seed in range(24)
        if begins_restored(seed)
    }
    assert all(sum(each) == 1 for each in kinds.values())
    assert kinds[4] == [False, True] and kinds[8] == [True, False]
    assert not any(begins_older(seed, "cluster") for seed in range(24) if not begins_restored(seed))


def log_of(folder, ingester, *firsts):
    """A log whose segments begin with these sequence numbers."""
    (folder / "wal").mkdir(parents=True)
    for number, first in enumerate(firsts):
        header = bytes(24) + struct.pack("<QQ", first, ingester)
        (folder / "wal" / f"{number:020}.wal").write_bytes(header)
    return SimpleNamespace(data=folder, role="ingester", name=f"ingester-{ingester}")


def file_of(folder, keys, ingester=None, first=None):
    notes = {"flightcluster.ingester_id": ingester, "flightcluster.first_sequence": first}
    table = pa.table({"id": pa.array(keys, pa.int64())})
    table = table.replace_schema_metadata({k: str(v) for k, v in notes.items() if v is not None})
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    parquet.write_table(table, path)
    return path, "events"


@pytest.fixture
def backup(tmp_path):
    """The logs of two ingesters begin at 100 and 7; a third one has none."""
    ingesters = [log_of(tmp_path / "1", 1, 100, 200), log_of(tmp_path / "2", 2, 7)]
    catalog = SimpleNamespace(data=tmp_path)
    processes = SimpleNamespace(of=lambda *roles: ingesters if "ingester" in roles else [catalog])
    backup = OlderBackup(processes, History(), Registers(History()))
    backup.since, backup.before = 0, {("1.parquet",)}
    backup.names = {1: "ingester-1", 2: "ingester-2", 3: "ingester-3"}
    return backup


@pytest.mark.parametrize(
    ("ingester", "first", "gone", "losers"),
    [
        (1, 99, [2, 3], {"ingester-1"}),
        (1, 100, [], set()),
        (2, 99, [], set()),
        (3, 99, [2, 3], {"ingester-3"}),
        # Made of others.
        (None, None, [], set()),
    ],
)
def test_rows_that_are_in_orphans_and_neither_in_files_nor_logs_may_be_missing(
    tmp_path, backup, ingester, first, gone, losers
):
    folder = tmp_path / "objects"
    folder.mkdir()
    live, older = file_of(folder, [1]), file_of(folder, [4], 1, 1)
    backup.excuse([live], [older, file_of(folder, [1, 2, 3], ingester, first)])
    assert (backup.rows.tolist(), backup.losers) == (gone, losers)
    assert backup.history.excused.tolist() == gone
