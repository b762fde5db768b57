"""A cut of the power forgets what was written since the last sync that did not lie."""

import errno
import os
import subprocess
import sys

import pytest
from disk import Switches, replaced

# Writes as the log or SQLite does, and says what it has done; a line that comes back lets it go on.
WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
how, at = sys.argv[2], 0
for text in sys.argv[3:]:
    if text == "sync":
        os.fdatasync(file)
    elif text == "wait":
        print("waits", flush=True)
        sys.stdin.readline()
    elif how == "pwrite":
        at += os.pwrite(file, text.encode(), at)
    else:
        os.writev(file, [text[:1].encode(), text[1:].encode()])
"""


def left_of(tmp_path, kind, name, how, *steps):
    """What a file has that was `0123456789`; a switch is on from the first "wait" to the second."""
    log, switches = tmp_path / name, Switches(tmp_path / "switches")
    log.write_bytes(b"0123456789")
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, log, how, *steps],
        env=os.environ | switches.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for value in (1, 0):
        child.stdout.readline()
        switches.set(kind, value)
        child.stdin.write("\n")
        child.stdin.flush()
    child.communicate()
    assert child.returncode == 0
    before = log.read_bytes()
    switches.forget_unsynced()
    return before, log.read_bytes(), switches.count(kind)


LYING = [("sync lies", "1.wal"), ("catalog sync lies", "catalog.sqlite-wal")]


@pytest.mark.parametrize("how", ["write", "pwrite"])
@pytest.mark.parametrize(("kind", "name"), LYING)
def test_what_is_written_while_syncs_lie_is_forgotten(tmp_path, kind, name, how):
    steps = ["ab", "sync", "wait", "cd", "sync", "efghijklm", "sync", "wait"]
    left = left_of(tmp_path, kind, name, how, *steps)
    assert left == (b"abcdefghijklm", b"ab23456789", 2)


@pytest.mark.parametrize(("kind", "name"), LYING)
def test_a_sync_that_does_not_lie_keeps_what_was_written_before_it(tmp_path, kind, name):
    steps = ["wait", "ab", "sync", "wait", "cd", "sync"]
    left = left_of(tmp_path, kind, name, "write", *steps)
    assert left == (b"abcd456789", b"abcd456789", 1)


@pytest.mark.parametrize(("kind", "name"), LYING)
def test_syncs_of_other_files_do_not_lie(tmp_path, kind, name):
    (other,) = {each for _, each in LYING} - {name}
    steps = ["wait", "ab", "sync", "cd", "wait"]
    left = left_of(tmp_path, kind, other, "pwrite", *steps)
    assert left == (b"abcd456789", b"abcd456789", 0)


@pytest.mark.parametrize("name", [name for _, name in LYING])
def test_when_the_power_is_cut_what_was_not_synced_is_forgotten(tmp_path, name):
    steps = ["wait", "ab", "sync", "cd", "sync", "efghijklm", "wait"]
    left = left_of(tmp_path, "power cut", name, "pwrite", *steps)
    assert left == (b"abcdefghijklm", b"abcd456789", 2)


def test_a_sync_of_one_file_is_none_of_another(tmp_path):
    switches = Switches(tmp_path / "switches")
    switches.set("power cut", 1)
    one, other = tmp_path / "1.wal", tmp_path / "catalog.sqlite"
    script = (
        "import os, sys; one, other = [os.open(f, os.O_CREAT | os.O_WRONLY) for f in sys.argv[1:]]"
    )
    script += "; os.write(one, b'one'); os.write(other, b'other'); os.fsync(one)"
    environment = os.environ | switches.environment()
    subprocess.run([sys.executable, "-c", script, one, other], env=environment, check=True)
    switches.forget_unsynced()
    assert (one.read_bytes(), other.read_bytes()) == (b"one", b"")


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
