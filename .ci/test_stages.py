"""The runner of the stages cannot call a failure a success: its own tests, with made-up stages."""

import contextlib
import io
import os
import pathlib
import select
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import stages
from stages import Outcome, Stage, StageFailed

CARGO_OUTPUT = """
running 3 tests
test wal::a_good_one ... ok
test wal::a_bad_one ... FAILED
test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
     Running tests/other.rs
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
"""

JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="no"/></testcase>
<testcase classname="a" name="broken"><error message="no"/></testcase>
<testcase classname="a" name="left out"><skipped/></testcase>
</testsuite></testsuites>"""


def good(log):
    """Passes twice."""
    return Outcome(passed=2)


def empty(log):
    """Runs nothing."""
    return Outcome()


def broken(log):
    """Cannot run."""
    raise StageFailed("a program is missing")


def command(log):
    """Runs a program that fails."""
    log.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])


class Runner(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        before = stages.LOGS
        stages.LOGS = pathlib.Path(folder.name)
        self.addCleanup(setattr, stages, "LOGS", before)

    def run_stages(self, *made_up):
        """(exit code, what was printed) of these stages."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = stages.run_all(made_up)
        return code, out.getvalue()

    def last_line(self, text):
        return text.rstrip("\n").splitlines()[-1]

    def test_only_passing_stages_are_a_success(self):
        code, text = self.run_stages(Stage("one", good), Stage("two", good))
        self.assertEqual((code, self.last_line(text)), (0, "4 passed, 0 failed"))

    def test_a_stage_that_ran_nothing_is_a_failure(self):
        code, text = self.run_stages(Stage("one", good), Stage("none", empty))
        self.assertEqual((code, self.last_line(text)), (1, "2 passed, 1 failed"))

    def test_a_broken_stage_does_not_stop_the_others(self):
        code, text = self.run_stages(Stage("bad", broken), Stage("one", good))
        self.assertEqual((code, self.last_line(text)), (1, "2 passed, 1 failed"))

    def test_a_stage_without_what_it_needs_is_a_failure(self):
        stage = Stage("one", good, ("bad",))
        code, text = self.run_stages(Stage("bad", broken), stage)
        self.assertEqual((code, self.last_line(text)), (1, "0 passed, 2 failed"))
        self.assertIn("needs bad", text)

    def test_a_stage_that_waits_runs_beside_the_next(self):
        reached = threading.Event()

        def waiting(log):
            """Ends only when another stage has run."""
            return Outcome(passed=int(reached.wait(10)))

        def reaching(log):
            """What the other one waits for."""
            reached.set()
            return Outcome(passed=1)

        made_up = Stage("waiting", waiting, waits=True), Stage("reaching", reaching)
        self.assertEqual(self.run_stages(*made_up)[0], 0)

    def test_a_stage_that_is_to_be_alone_begins_when_the_others_have_ended(self):
        ended = threading.Event()

        def waiting(log):
            """Takes a while."""
            time.sleep(0.3)
            ended.set()
            return Outcome(passed=1)

        def alone(log):
            """Looks for others."""
            return Outcome(passed=1, failed=int(not ended.is_set()))

        made_up = Stage("waiting", waiting, waits=True), Stage("alone", alone, alone=True)
        self.assertEqual(self.run_stages(*made_up)[0], 0)

    def test_a_failure_beside_the_others_is_a_failure(self):
        made_up = Stage("bad", broken, waits=True), Stage("one", good, ("bad",))
        code, text = self.run_stages(*made_up, Stage("two", good))
        self.assertEqual((code, self.last_line(text)), (1, "2 passed, 2 failed"))
        self.assertIn("needs bad", text)

    def test_an_interrupt_ends_what_runs_beside(self):
        started = threading.Event()

        def waiting(log):
            """Runs a program that takes too long."""
            started.set()
            log.run(["sleep", "60"])

        def interrupted(log):
            """Somebody ends the run."""
            started.wait(10)
            raise KeyboardInterrupt

        begun = time.monotonic()
        with mock.patch.object(stages, "COMMANDS", stages.Commands()) as commands:
            with self.assertRaises(KeyboardInterrupt):
                self.run_stages(Stage("w", waiting, waits=True), Stage("i", interrupted))
            self.assertFalse(commands.running)
        self.assertLess(time.monotonic() - begun, 30)

    def test_a_program_that_fails_fails_its_stage_and_is_shown(self):
        code, text = self.run_stages(Stage("program", command))
        self.assertEqual(code, 1)
        self.assertIn("the reason", text)
        self.assertIn("exited with 3", text)

    def test_what_a_failed_program_started_ends_with_it(self):
        held = stages.LOGS / "held-open"
        os.mkfifo(held)
        reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        os.set_blocking(reader, True)
        child = (
            f"import signal, time; held = open({str(held)!r}, 'w'); "
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
        )
        program = (
            "import subprocess, sys; "
            f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); "
            "child.stdout.readline(); raise SystemExit(3)"
        )

        def starting(log):
            """Runs a program that fails and leaves another."""
            log.run([sys.executable, "-c", program])

        with mock.patch.object(stages, "END_SECONDS", 1):
            self.assertEqual(self.run_stages(Stage("program", starting))[0], 1)
        # At its end, since nobody has it open.
        self.assertTrue(select.select([reader], [], [], 10)[0])


class Reading(unittest.TestCase):
    def test_the_results_of_all_test_binaries_are_added(self):
        outcome = stages.read_cargo_tests(CARGO_OUTPUT, 101)
        self.assertEqual((outcome.passed, outcome.failed, outcome.skipped), (6, 1, 1))
        self.assertEqual(outcome.failures, ["wal::a_bad_one"])

    def test_what_both_kinds_of_histories_came_to_is_found_wherever_it_stands(self):
        said = "test every_history ... histories of keys, fixed: 1 seeds\nok\nhistories, fresh: 9"
        found = stages.HISTORIES_RESULT.findall(said)
        self.assertEqual(found, ["histories of keys, fixed: 1 seeds", "histories, fresh: 9"])

    def test_a_failed_run_without_a_failed_test_is_a_failure(self):
        outcome = stages.read_cargo_tests("error: could not compile", 101)
        self.assertEqual((outcome.passed, outcome.failed), (0, 1))

    def test_a_junit_report_is_counted(self):
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.xml"
            report.write_text(JUNIT)
            outcome = stages.read_junit(report, 1)
        self.assertEqual((outcome.passed, outcome.failed, outcome.skipped), (1, 2, 1))

    def test_a_missing_report_is_a_failure(self):
        outcome = stages.read_junit(pathlib.Path("/nonexistent"), 4)
        self.assertEqual((outcome.passed, outcome.failed), (0, 1))


if __name__ == "__main__":
    unittest.main()
