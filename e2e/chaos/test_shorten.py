"""The shortest list of faults is found, within bounds, with a made-up run."""

import pytest
from shorten import shortest


def always(_runs):
    return True


@pytest.mark.parametrize("needed", [{0}, {11}, {3, 4}, {0, 5, 11}, set(), set(range(12))])
def test_what_is_needed_to_fail_is_left(needed):
    tried = []

    def fails(faults):
        tried.append(faults)
        return needed <= set(faults)

    best, runs = shortest(range(12), fails, always)
    assert runs == len(tried)
    if needed == set(range(12)):
        # Not even all of them were run again: that they fail is known.
        assert best is None
    else:
        assert best == sorted(needed)


def test_halves_come_first():
    tried = []
    shortest(range(8), lambda faults: tried.append(faults), lambda runs: runs < 2)
    assert tried == [[4, 5, 6, 7], [0, 1, 2, 3]]


def test_what_never_fails_again_is_said_to_be_so():
    assert shortest(range(8), lambda faults: False, lambda runs: runs < 5) == (None, 5)


def test_the_best_so_far_is_kept_when_there_is_no_time_left():
    best, runs = shortest(range(8), lambda faults: 6 in faults, lambda runs: runs < 1)
    assert (best, runs) == ([4, 5, 6, 7], 1)


def test_a_run_that_fails_without_any_fault_is_found():
    assert shortest(["kill"], lambda faults: True, always) == ([], 1)
