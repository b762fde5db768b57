"""How the processes of a run may end."""

import pytest
from processes import NO_TIME, Process

SCRIPT = """#!/bin/sh
trap 'echo "$WORDS"; exit $CODE' TERM
echo 1 > "$PORTS"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("words", "code", "is_well"),
    [("", 0, True), (NO_TIME, 1, True), ("the catalog is gone", 1, False), (NO_TIME, 101, False)],
)
def test_a_stop_may_only_want_for_time(tmp_path, monkeypatch, words, code, is_well):
    process = Process(tmp_path, "p", "standalone", {})
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    script.chmod(0o700)
    process.binary = script
    ready = tmp_path / "ready"
    for name, value in (("WORDS", words), ("CODE", str(code)), ("PORTS", str(ready))):
        monkeypatch.setenv(name, value)
    process.start()
    try:
        while not ready.exists():
            assert process.child.poll() is None, process.log_tail()
        if is_well:
            process.stop()
        else:
            with pytest.raises(AssertionError, match=f"ended with {code}"):
                process.stop()
    finally:
        process.abandon()
