"""How the processes of a run may end."""

import pytest
from processes import NO_TIME, Process

SCRIPT = """#!/bin/sh
trap 'echo "$WORDS"; exit $CODE' TERM
echo 1 > "$PORTS"
while :; do sleep 0.05; done
"""


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Starts a process and stops it; it says these words before it ends with this code."""
    process = Process(tmp_path, "p", "standalone", {})
    process.binary = tmp_path / "script"
    process.binary.write_text(SCRIPT)
    process.binary.chmod(0o700)
    ready = tmp_path / "ready"
    monkeypatch.setenv("PORTS", str(ready))

    def stop(words, code):
        ready.unlink(missing_ok=True)
        monkeypatch.setenv("WORDS", words)
        monkeypatch.setenv("CODE", str(code))
        process.start()
        while not ready.exists():
            assert process.child.poll() is None, process.log_tail()
        process.stop()

    yield stop
    process.abandon()


def test_a_stop_may_only_want_for_time(stopped):
    stopped("", 0)
    stopped(NO_TIME, 1)
    # Not excused by what it said before it was started again.
    for words, code in [("the catalog is gone", 1), (NO_TIME, 101)]:
        with pytest.raises(AssertionError, match=f"ended with {code}"):
            stopped(words, code)
