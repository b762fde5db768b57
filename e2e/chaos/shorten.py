"""Looks for fewer faults that break the same promise."""


def shortest(faults, fails, more):
    """The fewest faults found with which a run fails again, and how many runs that took.

    Leaves out halves, then smaller parts, as long as `more(runs)` says so; `fails` runs what is
    left. None when nothing of it failed again: a run is never twice the same, so that proves
    nothing.
    """
    best, left, parts, runs = None, list(faults), 2, 0
    while left:
        size = -(-len(left) // parts)
        for begin in range(0, len(left), size):
            if not more(runs):
                return best, runs
            runs += 1
            fewer = left[:begin] + left[begin + size :]
            if fails(fewer):
                best, left, parts = fewer, fewer, 2
                break
        else:
            if size == 1:
                break
            parts *= 2
    return best, runs
