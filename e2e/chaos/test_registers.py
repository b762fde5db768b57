"""The checker of keys bites, and does not accuse a good answer."""

import contextlib

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


def written(registers, key):
    """A value that is acknowledged."""
    values = registers.begin([key])
    registers.end(values)
    return values[key]


def deleted(registers, keys, beyond=0):
    registers.end_deletion(registers.begin_deletion(keys, beyond))


def kind_of(registers, answer):
    """The promise that an answer to a question that is asked now breaks."""
    try:
        registers.check(registers.ask(), answer, {}, "reader")
    except Violation as violation:
        return violation.kind
    return None


@pytest.fixture
def nothing():
    return Registers(History())


def test_a_key_that_was_deleted_is_absent_until_it_is_written_again(nothing):
    first = written(nothing, 0)
    deleted(nothing, [0])
    assert kind_of(nothing, []) is None
    assert kind_of(nothing, [(0, first)]) == "deleted"
    second = written(nothing, 0)
    assert kind_of(nothing, []) == "missing"
    assert kind_of(nothing, [(0, first)]) == "outdated"
    assert kind_of(nothing, [(0, second)]) is None


def test_a_deletion_that_does_not_bring_the_older_value_back(nothing):
    older, newer = written(nothing, 0), written(nothing, 0)
    deleted(nothing, [0])
    assert kind_of(nothing, [(0, older)]) == "outdated"
    assert kind_of(nothing, [(0, newer)]) == "deleted"


def test_a_deletion_takes_no_key_it_does_not_meet(nothing):
    values = [(key, written(nothing, key)) for key in (0, 1)]
    deleted(nothing, [0], beyond=-2)
    deleted(nothing, [2])
    assert kind_of(nothing, values) is None
    assert kind_of(nothing, values[1:]) == "missing"
    # The newest value decides: the older one, which it meets, is overwritten.
    newest = written(nothing, 0)
    deleted(nothing, [0], beyond=-1)
    assert kind_of(nothing, [values[1], (0, newest)]) is None
    assert kind_of(nothing, [values[1]]) == "missing"


def test_a_write_and_a_deletion_at_the_same_time_come_in_any_order(nothing):
    values = nothing.begin([0])
    deletion = nothing.begin_deletion([0], 0)
    nothing.end(values)
    nothing.end_deletion(deletion)
    assert kind_of(nothing, list(values.items())) is None
    assert kind_of(nothing, []) is None
    # A write that began while the deletion ran, and that it meets.
    deletion = nothing.begin_deletion([0], 5)
    values = nothing.begin([0])
    nothing.end_deletion(deletion)
    assert kind_of(nothing, []) is None
    nothing.end(values)
    assert kind_of(nothing, []) is None
    assert kind_of(nothing, list(values.items())) is None
    # One that it does not meet, though it takes what was there before.
    deletion = nothing.begin_deletion([0], 0)
    value = written(nothing, 0)
    nothing.end_deletion(deletion)
    assert kind_of(nothing, []) == "missing"
    assert kind_of(nothing, [(0, value)]) is None


def test_a_deletion_that_was_never_answered_took_place_or_not(nothing):
    first = written(nothing, 0)
    nothing.begin_deletion([0], 0)
    assert kind_of(nothing, [(0, first)]) is None
    assert kind_of(nothing, []) is None
    # It may come late; but it does not meet what was written since.
    second = written(nothing, 0)
    assert kind_of(nothing, []) == "missing"
    assert kind_of(nothing, [(0, second)]) is None


def test_a_write_that_was_never_answered_may_come_after_a_deletion(nothing):
    (value,) = nothing.begin([0]).values()
    deleted(nothing, [0])
    assert kind_of(nothing, [(0, value)]) is None
    assert kind_of(nothing, []) is None


def test_a_deletion_acknowledged_after_the_question_may_show_or_not(nothing):
    value = written(nothing, 0)
    asked = nothing.ask()
    deleted(nothing, [0])
    for answer in ([], [(0, value)]):
        nothing.check(asked, answer, {}, "reader")


def test_a_value_that_was_absent_does_not_come_back_for_a_reader(nothing):
    value = written(nothing, 0)
    nothing.begin_deletion([0], 0)
    seen = {}
    for answer in ([], [(0, value)], [], []):
        nothing.check(nothing.ask(), answer, seen, "reader")
    with pytest.raises(Violation) as caught:
        nothing.check(nothing.ask(), [(0, value)], seen, "reader")
    assert caught.value.kind == "back"


def test_only_what_orphans_held_is_read_in_an_older_state():
    """Of key 0 the backup has a value; the next two are flushed together after it."""
    registers = Registers(History())
    values = [written(registers, 0)]
    since = registers.ask()
    values += [written(registers, 0) for _ in range(2)]
    registers.set_back(since, lost={(0, values[2])}, kept={(0, values[0])})
    for value in values:
        registers.check(registers.ask(), [(0, value)], {}, "reader")
    for answer, kind in (([], "missing"), ([(0, 9)], "invented")):
        with pytest.raises(Violation) as caught:
            registers.check(registers.ask(), answer, {}, "reader")
        assert caught.value.kind == kind
    values.append(written(registers, 0))
    with pytest.raises(Violation) as caught:
        registers.check(registers.ask(), [(0, values[2])], {}, "reader")
    assert caught.value.kind == "outdated"


@pytest.mark.parametrize(("is_before", "kind"), [(True, "deleted"), (False, None)])
def test_a_deletion_after_the_backup_is_undone_and_one_before_it_is_not(is_before, kind):
    registers = Registers(History())
    value = written(registers, 0)
    deletion = registers.begin_deletion([0], 0)
    since = registers.ask()
    registers.end_deletion(deletion)
    if is_before:
        since = registers.ask()
    registers.set_back(since, lost=set(), kept=set())
    registers.check(registers.ask(), [], {}, "reader")
    with pytest.raises(Violation) if kind else contextlib.nullcontext() as caught:
        registers.check(registers.ask(), [(0, value)], {}, "reader")
    assert kind is None or caught.value.kind == kind
