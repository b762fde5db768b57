"""Faults of disk and clock inside a process: disk.c, compiled once and loaded into each process."""

import atexit
import functools
import mmap
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile

KINDS = (
    "full",
    "sync error",
    "store error",
    "kill in store",
    "kill in sync",
    "clock",
    "held sync",
    "sync lies",
    "read error",
    "slow store",
    "catalog full",
    "catalog sync error",
    "kill in catalog",
    "catalog sync lies",
    "power cut",
    "directory lies",
)
COUNTS_FROM = 16
LOADED = 32
SLOT = struct.Struct("=q")
BYTES = 33 * SLOT.size
# What a write replaced that is not synced: position, size of the file, bytes, length of the path.
REPLACED = struct.Struct("=qqqq")


@functools.cache
def library():
    """The compiled disk.c; the compiler is the one that building the product needs anyway."""
    source = pathlib.Path(__file__).with_name("disk.c")
    # For this user only, and until the end of the run.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-disk-"))
    atexit.register(shutil.rmtree, folder)
    target = folder / "disk.so"
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread"]
    subprocess.run([compiler, *flags, "-o", target, source, "-ldl"], check=True)
    return target


class Switches:
    """The shared page of one process; it outlives the process, and so do its counts."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(BYTES))
        with path.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), BYTES)

    def environment(self):
        """What the process has to be started with."""
        return {"LD_PRELOAD": str(library()), "CHAOS_SWITCHES": str(self.path)}

    def set(self, kind, value):
        SLOT.pack_into(self.page, KINDS.index(kind) * SLOT.size, value)

    def value(self, kind):
        """What it is set to."""
        return SLOT.unpack_from(self.page, KINDS.index(kind) * SLOT.size)[0]

    def count(self, kind):
        """How often it happened."""
        return SLOT.unpack_from(self.page, (COUNTS_FROM + KINDS.index(kind)) * SLOT.size)[0]

    def loaded(self):
        """Whether a process has the library; one that can not load it runs without faults."""
        return SLOT.unpack_from(self.page, LOADED * SLOT.size)[0] > 0

    def off(self):
        for kind in KINDS:
            self.set(kind, 0)

    def forget_unsynced(self):
        """What a disk does when its machine stops: what was written since the last sync is undone.

        Of one that lied about syncs that is what was written since the last that did not lie. The
        same goes for what came, went or got another name in a folder.
        """
        # First the names: only then a file whose bytes are put back has the one it had.
        for path in self.beside("names-*"):
            for what, name, other, kept in reversed(changed_names(path.read_bytes())):
                put_back(what, name, other, kept)
            path.unlink()
        for path in self.beside("unsynced-*"):
            notes, number = replaced(path.read_bytes()), int(path.name.rpartition("-")[2])
            # It may have got another name, durably. A segment not needed any more is gone.
            for file in with_number(number, {file.parent for file, *_ in notes}):
                with file.open("r+b") as written:
                    for _, position, size, before in reversed(notes):
                        written.seek(position)
                        written.write(before)
                        written.truncate(size)
            path.unlink()
        for path in self.beside("kept-*"):
            path.unlink()

    def beside(self, pattern):
        """What disk.c left beside the switches."""
        return list(self.path.parent.glob(f"{self.path.name}.{pattern}"))


def with_number(number, folders):
    """The files with this inode; whoever wrote them has ended."""
    files = [file for folder in folders if folder.exists() for file in folder.iterdir()]
    return [file for file in files if file.lstat().st_ino == number]


def changed_names(notes):
    """The notes of disk.c: what was done, to which file, from which name, what was there before.

    One that a kill cut off is left out, as a disk may do.
    """
    fields = [os.fsdecode(field) for field in notes.split(b"\0")[:-1]]
    whole = len(fields) // 4 * 4
    return [tuple(fields[at : at + 4]) for at in range(0, whole, 4)]


def put_back(what, name, other, kept):
    """Undoes one change of a directory."""
    if what == "create":
        pathlib.Path(name).unlink(missing_ok=True)
    if what == "rename" and os.path.exists(name):
        os.rename(name, other)
    if kept:
        os.rename(kept, name)


def replaced(notes):
    """The notes of disk.c: file, position, size, bytes; one that a kill cut off is of no write."""
    found, at = [], 0
    while at + REPLACED.size <= len(notes):
        position, size, count, length = REPLACED.unpack_from(notes, at)
        begin = at + REPLACED.size + length
        at = begin + count
        if at <= len(notes):
            file = pathlib.Path(os.fsdecode(notes[begin - length : begin]))
            found.append((file, position, size, notes[begin:at]))
    return found
