"""The checker of uploads bites, and does not accuse a good answer."""

import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from history import History, Violation
from uploads import Uploader, Uploads


@pytest.fixture
def uploads():
    """Upload 0 is finished, 1 was asked to finish, 2 was not; row 3 of each was never answered."""
    uploads = Uploads(History())
    for _ in range(3):
        number = uploads.begin()
        uploads.send(number, [1, 2, 3])
        uploads.acknowledge(number, [1, 2])
    uploads.finishing(0)
    uploads.finished(0)
    uploads.finishing(1)
    return uploads


WHOLE = [(0, 1), (0, 2)]


@pytest.mark.parametrize("more", [[], [(0, 3)], [(1, 1), (1, 2)]])
def test_an_upload_that_was_asked_to_finish_may_be_there_or_not(uploads, more):
    uploads.check(uploads.ask(), WHOLE + more, "reader")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([], "lost"),
        ([(0, 1)], "torn"),
        ([*WHOLE, (1, 2)], "torn"),
        ([*WHOLE, (2, 1), (2, 2)], "unfinished"),
        ([*WHOLE, (0, 9)], "invented"),
        ([*WHOLE, (0, 1)], "doubled"),
    ],
)
def test_an_answer_that_breaks_a_promise_is_found(uploads, answer, kind):
    with pytest.raises(Violation) as caught:
        uploads.check(uploads.ask(), answer, "reader")
    assert caught.value.kind == kind


def test_an_upload_that_was_seen_stays(uploads):
    uploads.check(uploads.ask(), [*WHOLE, (1, 1), (1, 2)], "reader")
    with pytest.raises(Violation) as caught:
        uploads.check(uploads.ask(), WHOLE, "reader")
    assert caught.value.kind == "lost"


CUT = flight.FlightUnavailableError("the connection was cut")
FINISHED = pa.ArrowInvalid("upload 1 is finished; begin a new one")
ABORTED = pa.ArrowInvalid("upload 1 is aborted; begin a new one")


def ended(uploads, begins_with_abort, changes, *answers):
    """What is known of upload 1 after calls with these answers, None for a good one."""
    uploader = Uploader(0, [], uploads, History(), threading.Event(), "seed")
    uploader.stop.wait = lambda _: None
    numbers = [0.0 if begins_with_abort else 1.0] + [0.0 if each else 1.0 for each in changes]
    uploader.chance.random = iter(numbers).__next__
    left, calls = list(answers), []

    def act(name, **_):
        calls.append(name.removesuffix("-upload"))
        if error := left.pop(0):
            raise error

    uploader.act = act
    uploader.end(1, "id")
    assert not left
    return calls, (uploads.all[1].may_appear, uploads.all[1].must_appear)


@pytest.mark.parametrize(
    ("begins_with_abort", "changes", "answers", "calls", "known"),
    [
        (False, [], [None], ["finish"], (True, True)),
        (True, [], [None], ["abort"], (False, False)),
        (False, [False], [CUT, None], ["finish", "finish"], (True, True)),
        (True, [False], [CUT, None], ["abort", "abort"], (False, False)),
        # Nobody knows whether it took effect, and the answer to the other one tells.
        (False, [True], [CUT, None], ["finish", "abort"], (False, False)),
        (False, [True], [CUT, FINISHED], ["finish", "abort"], (True, True)),
        (True, [True], [CUT, None], ["abort", "finish"], (True, True)),
        (True, [True], [CUT, ABORTED], ["abort", "finish"], (False, False)),
    ],
)
def test_the_first_answer_decides_whether_an_upload_appears(
    uploads, begins_with_abort, changes, answers, calls, known
):
    uploads.ended(1)
    assert ended(uploads, begins_with_abort, changes, *answers) == (calls, known)


@pytest.mark.parametrize(("begins_with_abort", "error"), [(False, ABORTED), (True, FINISHED)])
def test_an_upload_that_ended_as_nobody_asked_is_a_defect(uploads, begins_with_abort, error):
    with pytest.raises(pa.ArrowInvalid):
        ended(uploads, begins_with_abort, [], error)
