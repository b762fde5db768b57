"""What is forgotten when syncs lied is what was written since the last one that did not."""

import errno
import os
import subprocess
import sys

import pytest
from disk import Switches, replaced

# Writes as the log does, and says what it has done; each line that comes back lets it go on.
WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
for text in sys.argv[2:]:
    if text == "sync":
        os.fdatasync(file)
    elif text == "wait":
        print("waits", flush=True)
        sys.stdin.readline()
    else:
        os.writev(file, [text[:1].encode(), text[1:].encode()])
"""


def left_of(tmp_path, *steps):
    """What a log has that was `0123456789`; syncs lie from the first "wait" to the second."""
    log, switches = tmp_path / "1.wal", Switches(tmp_path / "switches")
    log.write_bytes(b"0123456789")
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, log, *steps],
        env=os.environ | switches.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for value in (1, 0):
        child.stdout.readline()
        switches.set("sync lies", value)
        child.stdin.write("\n")
        child.stdin.flush()
    child.communicate()
    assert child.returncode == 0
    before = log.read_bytes()
    switches.forget_unsynced()
    return before, log.read_bytes(), switches.count("sync lies")


def test_what_is_written_while_syncs_lie_is_forgotten(tmp_path):
    steps = ["ab", "sync", "wait", "cd", "sync", "efghijklm", "sync", "wait"]
    assert left_of(tmp_path, *steps) == (b"abcdefghijklm", b"ab23456789", 2)


def test_a_sync_that_does_not_lie_keeps_what_was_written_before_it(tmp_path):
    steps = ["wait", "ab", "sync", "wait", "cd", "sync"]
    assert left_of(tmp_path, *steps) == (b"abcd456789", b"abcd456789", 1)


def test_a_note_that_a_kill_cut_off_is_of_no_write(tmp_path):
    switches = Switches(tmp_path / "switches")
    switches.forget_unsynced()
    assert replaced(b"\x00" * 31) == []


# Does one thing with a file of 10 bytes.
CALL = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
try:
    calls = {
        "read": lambda: os.read(file, 10),
        "pread": lambda: os.pread(file, 10, 0),
        "write": lambda: os.write(file, b"0123456789"),
        "pwrite": lambda: os.pwrite(file, b"0123456789", 0),
        "fsync": lambda: os.fsync(file),
        "fdatasync": lambda: os.fdatasync(file),
    }
    calls[sys.argv[2]]()
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.mark.parametrize("call", ["read", "pread", "write", "pwrite", "fsync", "fdatasync"])
@pytest.mark.parametrize(
    ("kind", "name", "fails", "error"),
    [
        ("read error", "1.parquet", ("read", "pread"), errno.EIO),
        ("read error", "1.wal", (), 0),
        ("slow store", "1.parquet", (), 0),
        ("catalog full", "catalog.sqlite-wal", ("write", "pwrite"), errno.ENOSPC),
        ("catalog full", "1.parquet", (), 0),
        ("catalog sync error", "catalog.sqlite-wal", ("fsync", "fdatasync"), errno.EIO),
        ("catalog sync error", "1.wal", (), 0),
    ],
)
def test_a_fault_meets_its_files_and_calls_and_no_others(tmp_path, kind, name, fails, error, call):
    switches, file = Switches(tmp_path / "switches"), tmp_path / name
    file.write_bytes(b"0123456789")
    switches.set(kind, 1)
    environment = os.environ | switches.environment()
    done = subprocess.run(
        [sys.executable, "-c", CALL, file, call], env=environment, timeout=60, check=False
    )
    assert done.returncode == (error if call in fails else 0)
    assert switches.count(kind) == (call in fails or (kind == "slow store" and "sync" not in call))
