"""What a client must expect of a service in trouble, and what is a defect."""

import threading

import pytest
from workload import Recess, is_trouble


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("the ticket expired 3599000 ms ago; run the query again [TICKET_EXPIRED]", True),
        ("the ticket expired 12 ms ago; run the query again [TICKET_EXPIRED]", False),
        ("IOError: Connection reset by peer", True),
        ("table not found: chaos.public.events [TABLE_NOT_FOUND]", False),
    ],
)
def test_only_a_clock_that_was_set_ahead_excuses_an_expired_ticket(message, expected):
    assert is_trouble(Exception(message)) is expected


def test_a_recess_waits_for_work_that_has_begun_and_lets_none_begin():
    recess = Recess()
    with recess.working(), pytest.raises(AssertionError, match="1 workers"):
        recess.begin(0)
    recess.begin(0)
    begun = threading.Event()

    def work():
        with recess.working():
            begun.set()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert not begun.is_set()
    recess.end()
    assert begun.wait(60)
    worker.join(60)
