"""A write that is refused for now says when to come back; who comes back then is let in."""

import contextlib

import numpy
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Trailers, put, retry_delay, running, select, wait_until

ROW_BYTES = 1024
# Refused long before that many batches.
MANY = 600

# What is refused while nothing can be put into files: what pyarrow makes of the code of gRPC, after
# how many seconds to come back, rows of a batch and the settings that bring it about.
REFUSALS = {
    # Unavailable: no more room in memory, for so many small batches that what tells where the log
    # has them fills it.
    "OVERLOADED": (
        flight.FlightUnavailableError,
        1,
        1,
        {
            "ingest": {"flush_bytes": "64KiB", "buffer_bytes": "64KiB"},
            "server": {"max_message_bytes": "64KiB"},
        },
    ),
    # Unavailable: rows are overdue for files.
    "PERSIST_LAG": (
        flight.FlightUnavailableError,
        10,
        256,
        {"ingest": {"flush_interval": "100ms", "persist_lag": "300ms"}},
    ),
    # Resource exhausted: no more room in the log.
    "DISK_FULL": (
        pa.ArrowException,
        1,
        256,
        {"ingest": {"flush_bytes": "1MiB", "wal_bytes": "4MiB"}},
    ),
}


@contextlib.contextmanager
def store_away(server):
    """The object store can't be used during the block: a file is where its folder was."""
    objects, kept = server.data / "objects", server.data / "kept"
    objects.rename(kept)
    objects.touch()
    try:
        yield
    finally:
        objects.unlink()
        kept.rename(objects)


def batch(number, rows):
    """Rows that can't be compressed."""
    values = numpy.random.default_rng(number)
    noise = [values.bytes(ROW_BYTES) for _ in range(rows)]
    numbers = numpy.full(rows, number)
    return pa.record_batch({"number": numbers, "noise": pa.array(noise, pa.binary())})


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refused_write_that_waits_as_it_is_told_gets_through(new_server, code):
    """`google.rpc.RetryInfo` comes over a real connection, and is true."""
    kind, delay, rows, settings = REFUSALS[code]
    server = new_server({"server": {"max_message_bytes": "1MiB"}} | settings)
    server.expect_log("flush|can't|refus|store|room|overdue|full|not a directory")
    trailers = Trailers()

    def write(number):
        """Whether a batch was acknowledged; else it was refused with this code."""
        try:
            put(client, "d", "t", [batch(number, rows)])
        except kind as error:
            assert trailers.last["x-fc-code"] == code, error
            return False
        return True

    with running(server), server.client(middleware=[trailers]) as client:
        with store_away(server):
            number = 0
            while write(number):
                number += 1
                assert number < MANY, "nothing is refused"
            assert retry_delay(trailers) == delay
            assert not write(number), "there is room, and nothing made it"
            assert retry_delay(trailers) == delay
        wait_until(lambda: write(number), "the repeat is let in", 60, pause=delay)
        found = select(client, "d", "SELECT number, count(*) AS n FROM t GROUP BY 1 ORDER BY 1")
        # What was refused was not stored.
        assert found.to_pylist() == [{"number": n, "n": rows} for n in range(number + 1)]
