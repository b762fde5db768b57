"""What `make run` does, with ports and data of its own."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from harness import BINARY, clean_environment, wait_until

ROOT = pathlib.Path(__file__).parents[2]
READY = "Ctrl-C stops it."


@pytest.fixture
def quickstart(tmp_path):
    """Starts the script; gives the process and a function that returns what it has printed."""
    started = []

    def start():
        output = tmp_path / f"output-{len(started)}.txt"
        with output.open("wb") as out:
            process = subprocess.Popen(
                ["bash", ROOT / "examples" / "quickstart.sh"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell that runs the tests in the background has it ignored, and so would bash.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
                env=clean_environment()
                | {
                    "FLIGHTCLUSTER_BIN": BINARY,
                    "FLIGHTCLUSTER_DATA": str(tmp_path / "data"),
                    "FLIGHTCLUSTER_LISTEN": "127.0.0.1:0",
                    "FLIGHTCLUSTER_ADMIN_LISTEN": "127.0.0.1:0",
                },
            )
        started.append(process)
        wait_until(
            lambda: READY in output.read_text() or process.poll() is not None, "it serves", 60
        )
        return process, output.read_text

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def stop(process):
    process.send_signal(signal.SIGINT)
    return process.wait(30)


def blocks(text):
    """The Python lines it prints, by their heading."""
    found = re.findall(r"^Python, (.+?) \(.*?\):\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def test_the_data_set_is_loaded_once_and_the_printed_lines_work(quickstart):
    """Issue section 2: a query result, lines to copy, data found again, Ctrl-C ends with 0."""
    process, output = quickstart()
    text = output()
    assert "loaded 26115 rows into demo.weather" in text
    assert re.search(r"EWR +\| +8703", text), text
    printed = blocks(text)
    assert set(printed) == {"Arrow Flight", "ADBC"}
    for code in printed.values():
        result = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "origin: string" in result.stdout
    assert stop(process) == 0

    process, output = quickstart()
    assert "is there already with 26115 rows" in output()
    assert stop(process) == 0
