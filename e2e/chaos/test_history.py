"""The checker bites: every kind of broken promise is found, and a good history is not accused."""

import numpy as np
import pytest
from history import History, Violation, key, value_of


def rows(*sequences, writer=1):
    return np.array([key(writer, sequence) for sequence in sequences], dtype=np.int64)


@pytest.fixture
def history():
    """Rows 0 to 2 are acknowledged, 3 and 4 were sent and never answered, 5 was refused."""
    history = History()
    history.send(rows(0, 1, 2), "a")
    history.acknowledge(rows(0, 1, 2), "a")
    history.send(rows(3, 4), "a")
    history.send(rows(5), "a")
    history.refuse(rows(5), "a", "full")
    return history


def answer(history, keys, expected=None, values=None):
    values = value_of(keys) if values is None else values
    history.check(expected or history.ask(), keys, values, "reader")


@pytest.mark.parametrize("found", [(0, 1, 2), (2, 0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
def test_a_row_that_was_never_answered_may_be_there_or_not(history, found):
    answer(history, rows(*found))


@pytest.mark.parametrize("found", [(), (0, 1), (1, 2, 3, 4)])
def test_a_lost_row_is_found(history, found):
    with pytest.raises(Violation) as caught:
        answer(history, rows(*found))
    assert caught.value.kind == "lost"


def test_a_row_acknowledged_after_the_question_may_be_missing(history):
    expected = history.ask()
    history.acknowledge(rows(3), "a")
    answer(history, rows(0, 1, 2), expected)
    with pytest.raises(Violation, match="lost"):
        answer(history, rows(0, 1, 2))


def test_a_row_that_is_seen_stays(history):
    answer(history, rows(0, 1, 2, 4))
    with pytest.raises(Violation) as caught:
        answer(history, rows(0, 1, 2))
    assert caught.value.kind == "unseen"


def test_an_answer_that_began_before_another_ended_may_be_older(history):
    expected = history.ask()
    answer(history, rows(0, 1, 2, 4))
    answer(history, rows(0, 1, 2), expected)


def test_a_doubled_row_is_found(history):
    with pytest.raises(Violation) as caught:
        answer(history, rows(0, 1, 2, 1))
    assert caught.value.kind == "doubled"


@pytest.mark.parametrize("stranger", [rows(6), rows(0, writer=2), rows(5)])
def test_a_row_nobody_stored_is_found(history, stranger):
    with pytest.raises(Violation) as caught:
        answer(history, np.concatenate([rows(0, 1, 2), stranger]))
    assert caught.value.kind == "invented"


def test_a_row_with_the_value_of_another_is_found(history):
    keys = rows(0, 1, 2)
    with pytest.raises(Violation) as caught:
        answer(history, keys, values=value_of(keys)[::-1])
    assert caught.value.kind == "altered"


def test_the_story_has_the_life_of_the_row_and_the_faults_around_it(history):
    history.note("fault kill a")
    with pytest.raises(Violation) as caught:
        answer(history, rows(0, 2))
    story = str(caught.value)
    assert "sent w1:0-2" in story
    assert "acknowledged w1:0-2" in story
    assert "fault kill a" in story
    assert "w1:3-4" not in story


def test_only_excused_rows_may_be_missing_until_they_are_seen_again(history):
    whole = rows(0, 1, 2, 3)
    answer(history, whole)
    history.excuse(rows(1, 3, 4))
    # An answer to a repeat does not say that they are there.
    history.acknowledge(rows(3, 4), "a")
    answer(history, rows(0, 2))
    answer(history, rows(0, 1, 2))
    for found in ((0, 2), (1, 2)):
        with pytest.raises(Violation) as caught:
            answer(history, rows(*found))
        assert caught.value.kind == "lost"


def test_after_the_excuses_all_that_was_ever_known_has_to_be_there(history):
    answer(history, rows(0, 1, 2, 3))
    history.excuse(rows(1, 3))
    history.end_excuses()
    answer(history, rows(0, 1, 2, 3))
    for found, kind in (((0, 2, 3), "lost"), ((0, 1, 2), "unseen")):
        with pytest.raises(Violation) as caught:
            answer(history, rows(*found))
        assert caught.value.kind == kind
