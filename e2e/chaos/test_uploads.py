"""The checker of uploads bites, and does not accuse a good answer."""

import pytest
from history import History, Violation
from uploads import Uploads


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
