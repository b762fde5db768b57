"""The benchmark is only run by hand: it must at least find what it borrows from the tests."""

import pathlib
import subprocess
import sys


def test_the_benchmark_starts():
    program = pathlib.Path(__file__).with_name("bench.py")
    started = subprocess.run(
        [sys.executable, program, "--help"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stderr
    assert "--rounds" in started.stdout
