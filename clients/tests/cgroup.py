"""A control group with a memory limit: made by a test for its server, removed after it."""

import contextlib
import os
import pathlib

import pytest

ROOT = pathlib.Path("/sys/fs/cgroup")
SMALL_POD_BYTES = 512 << 20


class Group:
    """A group below the root of its hierarchy; `folder` is in version 1 or 2."""

    def __init__(self, folder, limit_file, peak_file):
        self.folder, self.limit_file, self.peak_file = folder, limit_file, peak_file

    def prefix(self):
        """The words before a command that is to run in the group."""
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, self.folder]

    def killed(self):
        """How many processes the kernel has ended here for want of memory."""
        name = (
            "memory.oom_control" if self.limit_file.startswith("memory.limit") else "memory.events"
        )
        lines = (self.folder / name).read_text().splitlines()
        counts = dict(line.split() for line in lines)
        return int(counts["oom_kill"])


def _unified():
    """The folder of version 2, if it has the memory controller."""
    controllers = ROOT / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        return None
    (ROOT / "cgroup.subtree_control").write_text("+memory")
    return ROOT


@contextlib.contextmanager
def memory_group(limit_bytes):
    """Makes the group; OSError where that is not allowed."""
    name = f"flightcluster-test-{os.getpid()}"
    unified = _unified()
    if unified:
        group = Group(unified / name, "memory.max", "memory.peak")
    else:
        group = Group(ROOT / "memory" / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    group.folder.mkdir()
    try:
        (group.folder / group.limit_file).write_text(str(limit_bytes))
        yield group
    finally:
        group.folder.rmdir()


def is_missing(error):
    """Ends a test for want of a group. In CI as root it fails: nobody would notice."""
    text = f"no control group with a memory limit can be made here: {error}"
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(
            f"{text}; in CI this has to be tested: give the job a writable {ROOT} with the memory "
            "controller, as a privileged container has, or run the tests as another user than root",
            pytrace=False,
        )
    pytest.skip(f"NOT TESTED, {text}")
