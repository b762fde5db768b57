"""A cut of the power forgets what was written since the last sync that did not lie."""

import errno
import os
import subprocess
import sys

import pytest
from disk import Switches, changed_names, replaced

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
    for file in (one, other):
        file.write_bytes(b"")
    script = "import os, sys; one, other = [os.open(f, os.O_WRONLY) for f in sys.argv[1:]]"
    script += "; os.write(one, b'one'); os.write(other, b'other'); os.fsync(one)"
    environment = os.environ | switches.environment()
    subprocess.run([sys.executable, "-c", script, one, other], env=environment, check=True)
    switches.forget_unsynced()
    assert (one.read_bytes(), other.read_bytes()) == (b"one", b"")


# Changes names as the log does; "sync" is one of the folder.
NAMER = """
import os, sys
folder = sys.argv[1]
path = lambda name: os.path.join(folder, name)
for step in sys.argv[2:]:
    what, _, names = step.partition(" ")
    names = [path(name) for name in names.split()]
    if what == "write":
        file = os.open(names[0], os.O_CREAT | os.O_WRONLY)
        os.write(file, os.path.basename(names[0]).encode())
        os.fsync(file)
        os.close(file)
    if what == "rename":
        os.rename(*names)
    if what == "remove":
        os.unlink(names[0])
    if what == "sync":
        file = os.open(folder, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
"""


def names_left(tmp_path, kind, *steps):
    """Names and contents before and after these steps and a cut of the power; what happened."""
    folder, switches = tmp_path / "wal", Switches(tmp_path / "switches")
    folder.mkdir()
    for name in ("1.wal", "span", "catalog.sqlite", "other"):
        (folder / name).write_text("old")
    switches.set(kind, 1)
    environment = os.environ | switches.environment()
    child = [sys.executable, "-c", NAMER, folder, *steps]
    subprocess.run(child, env=environment, check=True)
    switches.forget_unsynced()
    assert {path.name for path in tmp_path.iterdir()} == {"wal", "switches"}
    left = {path.name: path.read_text() for path in folder.iterdir()}
    before = {"1.wal": "old", "span": "old", "catalog.sqlite": "old", "other": "old"}
    return before, left, switches.count(kind)


REPLACED_SPAN = ("write span.new", "rename span.new span")


@pytest.mark.parametrize(
    "steps",
    [
        REPLACED_SPAN,
        ("write 2.wal",),
        ("remove 1.wal",),
        ("remove catalog.sqlite",),
        ("rename 1.wal spare-1", "rename spare-1 2.wal"),
        ("write 2.wal", "rename 2.wal 1.wal", "remove 1.wal", *REPLACED_SPAN, "remove span"),
    ],
)
def test_names_that_changed_without_a_sync_of_their_folder_are_as_before(tmp_path, steps):
    before, left, _ = names_left(tmp_path, "power cut", *steps)
    assert left == before


@pytest.mark.parametrize("kind", ["power cut", "catalog sync lies"])
def test_a_sync_of_their_folder_keeps_names_of_the_log(tmp_path, kind):
    steps = ("write 2.wal", *REPLACED_SPAN, "remove 1.wal", "sync", "write label")
    before, left, _ = names_left(tmp_path, kind, *steps)
    label = {} if kind == "power cut" else {"label": "label"}
    del before["1.wal"]
    assert left == before | {"2.wal": "2.wal", "span": "span.new"} | label


@pytest.mark.parametrize("kind", ["sync lies", "directory lies"])
def test_syncs_of_a_folder_that_lie_keep_no_name_of_the_log(tmp_path, kind):
    steps = ("write 2.wal", "remove other", "remove catalog.sqlite", *REPLACED_SPAN, "sync", "sync")
    before, left, happened = names_left(tmp_path, kind, *steps)
    del before["other"], before["catalog.sqlite"]
    # The lies of the first kind are those of its files.
    assert (left, happened) == (before, 2)


def test_a_file_whose_rename_is_durable_lacks_what_was_not_synced_of_it(tmp_path):
    switches, span = Switches(tmp_path / "switches"), tmp_path / "span"
    switches.set("power cut", 1)
    script = """
import os, sys
span, folder = sys.argv[1:]
file = os.open(span + ".new", os.O_CREAT | os.O_WRONLY)
os.write(file, b"content")
os.rename(span + ".new", span)
os.fsync(os.open(folder, os.O_RDONLY))
"""
    environment = os.environ | switches.environment()
    child = [sys.executable, "-c", script, span, tmp_path]
    subprocess.run(child, env=environment, check=True)
    assert span.read_bytes() == b"content"
    switches.forget_unsynced()
    assert span.read_bytes() == b""


@pytest.mark.parametrize("name", ["1.wal", "span.new", "label.new", "spare-1.wal"])
def test_a_full_disk_has_no_room_for_any_file_of_the_log(tmp_path, name):
    switches, file = Switches(tmp_path / "switches"), tmp_path / name
    file.write_bytes(b"")
    switches.set("full", 1)
    child = [sys.executable, "-c", CALL, file, "write"]
    done = subprocess.run(child, env=os.environ | switches.environment(), check=False)
    assert (done.returncode, switches.count("full")) == (errno.ENOSPC, 1)


def test_a_note_that_a_kill_cut_off_is_of_no_write(tmp_path):
    switches = Switches(tmp_path / "switches")
    switches.forget_unsynced()
    assert replaced(b"\x00" * 31) == []
    assert changed_names(b"create\0/1.wal\0\0\0remove\0/2.w") == [("create", "/1.wal", "", "")]


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
