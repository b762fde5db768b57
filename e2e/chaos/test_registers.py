"""The checker of keys bites, and does not accuse a good answer."""

import pytest
from history import History, Violation
from registers import KEYS, Registers


@pytest.fixture
def registers():
    """Of key 0 the values 1 and 2 are acknowledged, 3 is not; of key 1 the value 4 is not."""
    registers = Registers(History())
    for key, answered in [(0, True), (0, True), (0, False), (1, False)]:
        values = registers.begin([key])
        if answered:
            registers.end(values)
    return registers


@pytest.mark.parametrize("answer", [[(0, 2)], [(0, 3)], [(0, 2), (1, 4)]])
def test_a_write_that_was_never_answered_may_be_there_or_not(registers, answer):
    registers.check(registers.ask(), answer, {}, "reader")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([(0, 1)], "outdated"),
        ([], "missing"),
        ([(0, 2), (0, 3)], "several"),
        ([(0, 4)], "invented"),
    ],
)
def test_an_answer_that_breaks_a_promise_is_found(registers, answer, kind):
    with pytest.raises(Violation) as caught:
        registers.check(registers.ask(), answer, {}, "reader")
    assert caught.value.kind == kind


def test_a_write_acknowledged_after_the_question_may_be_missing():
    registers = Registers(History())
    asked = registers.ask()
    registers.end(registers.begin(range(KEYS)))
    registers.check(asked, [], {}, "reader")


def test_a_value_that_gave_way_does_not_come_back_for_a_reader(registers):
    seen = {}
    registers.check(registers.ask(), [(0, 3)], seen, "reader")
    registers.check(registers.ask(), [(0, 2)], seen, "reader")
    with pytest.raises(Violation) as caught:
        registers.check(registers.ask(), [(0, 3)], seen, "reader")
    assert caught.value.kind == "back"
