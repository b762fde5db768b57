"""What a client must expect of a service in trouble, and what is a defect."""

import pytest
from workload import is_trouble


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
