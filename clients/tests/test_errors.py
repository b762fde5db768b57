"""The status matrix: which failure gives which exception, text and trailers in pyarrow."""

import json
import pathlib
import re

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import OTHER, READER, WRITER
from harness import Trailers, bearer, headers, json_ticket, put, select, wait_until

ROWS = pa.table({"id": [1, 2, 3]})
# sum over 10^12 pairs: never finished, whoever asks has to give up
ENDLESS = (
    "SELECT sum(a.value * b.value) AS s FROM generate_series(1, 1000000) AS a, "
    "generate_series(1, 1000000) AS b"
)


@pytest.fixture
def trailers():
    return Trailers()


@pytest.fixture
def watched(plain, trailers):
    """A client whose received headers and trailers are in `trailers.last`."""
    with plain.client(middleware=[trailers]) as client:
        yield client


def sql(text):
    return lambda client, db: select(client, db, text)


def ticket(content):
    return lambda client, db: client.do_get(flight.Ticket(content)).read_all()


def info(descriptor):
    return lambda client, db: client.get_flight_info(descriptor(db), headers(("database", db)))


def tampered(client, db):
    good = client.get_flight_info(flight.FlightDescriptor.for_path(db, "t")).endpoints[0].ticket
    broken = bytearray(good.ticket)
    broken[len(broken) // 2] ^= 0x20
    client.do_get(flight.Ticket(bytes(broken))).read_all()


def action(name):
    return lambda client, db: list(client.do_action(flight.Action(name, b"")))


def conflicting_headers(client, db):
    descriptor = flight.FlightDescriptor.for_command(b"SELECT 1")
    client.get_flight_info(descriptor, headers(("database", db), ("bucket", "another")))


MATRIX = {
    # name: (call, exception, words of the message)
    "sql that does not parse (S0-30)": (sql("SELEC 1"), pa.ArrowInvalid, "line 1"),
    "sql with an unknown column": (sql("SELECT nope FROM t"), pa.ArrowInvalid, "nope"),
    "sql with an unknown function": (sql("SELECT nope(id) FROM t"), pa.ArrowInvalid, "nope"),
    "sql with incompatible types": (sql("SELECT id + 'x' FROM t"), pa.ArrowInvalid, "x"),
    "two statements": (sql("SELECT 1; SELECT 2"), pa.ArrowInvalid, "(?i)one sql statement"),
    "empty sql": (sql(""), pa.ArrowInvalid, "(?i)empty|no statement"),
    "a cast that fails on a row": (sql("SELECT CAST('x' AS INT)"), pa.ArrowInvalid, "x"),
    "division by zero": (sql("SELECT id / 0 FROM t"), pa.ArrowInvalid, "(?i)divi"),
    "unknown table": (sql("SELECT * FROM nowhere"), pa.ArrowKeyError, "nowhere"),
    "unknown table by path (S3-1)": (
        info(lambda db: flight.FlightDescriptor.for_path(db, "nowhere")),
        pa.ArrowKeyError,
        "nowhere",
    ),
    "path of one part": (
        info(lambda db: flight.FlightDescriptor.for_path("alone")),
        pa.ArrowInvalid,
        "(?i)path",
    ),
    "path of four parts": (
        info(lambda db: flight.FlightDescriptor.for_path(db, "public", "t", "more")),
        pa.ArrowInvalid,
        "(?i)path",
    ),
    "ticket of random bytes (S0-29)": (ticket(b"\xff\x00garbage"), pa.ArrowInvalid, "(?i)ticket"),
    "empty ticket (S0-29)": (ticket(b""), pa.ArrowInvalid, "(?i)ticket"),
    "changed ticket (S3-10)": (tampered, pa.ArrowInvalid, "(?i)ticket"),
    "json ticket without a query": (ticket(b'{"database":"d"}'), pa.ArrowInvalid, "sql_query"),
    "json ticket with a wrong type (S3-5)": (
        ticket(b'{"database":"d","sql_query":5}'),
        pa.ArrowInvalid,
        "sql_query",
    ),
    "json ticket with an unknown language": (
        ticket(b'{"database":"d","sql_query":"SELECT 1","query_type":"cobol"}'),
        pa.ArrowInvalid,
        "query_type|cobol",
    ),
    "missing parameter": (sql("SELECT $name"), pa.ArrowInvalid, "name"),
    "conflicting database headers": (conflicting_headers, pa.ArrowInvalid, "(?i)database|bucket"),
    "unknown action (S3-22)": (
        action("no-such-action"),
        (pa.ArrowNotImplementedError, pa.ArrowInvalid),
        "no-such-action",
    ),
    "a table that exists already": (
        sql("CREATE TABLE t (id INT)"),
        pa.ArrowException,
        "(?i)exist",
    ),
    "a statement we do not offer": (
        sql("CREATE INDEX i ON t (id)"),
        (pa.ArrowNotImplementedError, pa.ArrowInvalid),
        "(?i)index",
    ),
}


@pytest.mark.parametrize("name", MATRIX)
def test_status_matrix(watched, trailers, database, name):
    """Requirements section 6, S0-7, S0-19, S3-26, S3-28: class, text, code and request id."""
    call, exception, words = MATRIX[name]
    put(watched, database, "t", ROWS)
    with pytest.raises(exception, match=words) as caught:
        call(watched, database)
    message = str(caught.value)
    assert message.strip()
    assert not isinstance(caught.value, flight.FlightInternalError), message
    assert trailers.last.get("x-fc-code"), f"no x-fc-code: {trailers.last}"
    assert trailers.last.get("x-request-id"), f"no x-request-id: {trailers.last}"
    details = trailers.last.get("grpc-status-details-bin")
    assert details and len(details) < 4096, "details are there and small"


def test_a_long_message_is_shortened_so_that_it_arrives(watched, trailers, database):
    """S3-26: beyond 12 KB of trailers clients lose the error itself."""
    with pytest.raises(pa.ArrowInvalid) as caught:
        select(watched, database, "SELEC " + "x" * 50_000)
    assert len(told(caught.value)) < 4096
    assert trailers.last.get("x-fc-code")


def test_the_request_id_of_the_caller_is_echoed_and_logged(plain, trailers, database):
    """S1-2."""
    with plain.client(middleware=[trailers]) as client:
        select(client, database, "SELECT 1", headers(("x-request-id", "asked-by-the-test")))
    assert trailers.last["x-request-id"] == "asked-by-the-test"
    wait_until(lambda: "asked-by-the-test" in plain.log_text(), "the id is in the log")


def test_a_call_without_a_request_id_gets_one(watched, trailers, database):
    """S1-2."""
    ids = set()
    for _ in range(3):
        select(watched, database, "SELECT 1")
        ids.add(trailers.last["x-request-id"])
    assert len(ids) == 3


def test_a_client_timeout_ends_the_query(plain, client, database):
    """S2-7: the client sees a time-out, and the server stops working."""
    with pytest.raises(flight.FlightTimedOutError):
        select(client, database, ENDLESS, headers(timeout=0.3))
    wait_until(lambda: is_idle(plain), "the server stopped working")


def test_a_client_that_cancels_stops_the_work(plain, client, database):
    """S2-9: nobody reads any more, so nobody computes."""
    big = "SELECT value, repeat('x', 1000) AS t FROM generate_series(1, 100000000)"
    reader = client.do_get(json_ticket(database, big))
    assert reader.read_chunk().data.num_rows >= 0
    reader.cancel()
    with pytest.raises(flight.FlightCancelledError):
        while True:
            reader.read_chunk()
    wait_until(lambda: is_idle(plain), "the server stopped working")


def is_idle(server):
    """Whether the process used less than a twentieth of a core since it was last asked."""
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    now = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    ticks = int(fields[11]) + int(fields[12])
    before = getattr(server, "last_usage", None)
    if before is None or now - before[0] > 0.3:
        server.last_usage = (now, ticks)
    if before is None or now - before[0] <= 0.3:
        return False
    return (ticks - before[1]) / 100 < (now - before[0]) / 20


def test_an_error_in_the_middle_of_a_stream_is_an_error(client, database):
    """S0-7, S0-17, S2-6: never a silently short table."""
    # the last of a million rows cannot be cast
    query = (
        "SELECT CAST(CASE WHEN value < 1000000 THEN '1' ELSE 'x' END AS INT) AS n "
        "FROM generate_series(1, 1000000)"
    )
    with pytest.raises(pa.ArrowInvalid):
        select(client, database, query)


ALL_CALLS = {
    "DoGet": lambda c, o: c.do_get(json_ticket("d", "SELECT 1"), o).read_all(),
    "GetFlightInfo": lambda c, o: c.get_flight_info(flight.FlightDescriptor.for_path("d", "t"), o),
    "GetSchema": lambda c, o: c.get_schema(flight.FlightDescriptor.for_path("d", "t"), o),
    "ListFlights": lambda c, o: list(c.list_flights(b"", o)),
    "ListActions": lambda c, o: list(c.list_actions(o)),
    "DoAction": lambda c, o: list(c.do_action(flight.Action("ping", b""), o)),
    "DoPut": lambda c, o: put(c, "d", "t", ROWS, o),
    "DoExchange": lambda c, o: exchange(c, o),
}


def exchange(client, options):
    descriptor = flight.FlightDescriptor.for_command(b"SELECT * FROM input")
    writer, reader = client.do_exchange(descriptor, options)
    with writer:
        writer.begin(ROWS.schema)
        writer.done_writing()
        reader.read_all()


CREDENTIALS = {
    "missing": [],
    "unknown": [(b"authorization", b"Bearer wrong")],
    "empty": [(b"authorization", b"Bearer ")],
    "of an unknown scheme": [(b"authorization", b"Digest abc")],
    "twice (S4-12)": [(b"authorization", f"Bearer {READER}".encode())] * 2,
}


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("call", ALL_CALLS)
def test_every_call_asks_who_you_are(secured, call, credential):
    """S0-21, S0-22: Unauthenticated on every RPC."""
    options = flight.FlightCallOptions(headers=CREDENTIALS[credential])
    # pyarrow makes an OSError of every failure of get_schema; the text tells which one it is
    refused = OSError if call == "GetSchema" else flight.FlightUnauthenticatedError
    with secured.client() as client, pytest.raises(refused, match="unauthenticated error"):
        ALL_CALLS[call](client, options)


def test_a_missing_and_an_unknown_token_are_answered_alike(secured):
    """S0-22: the text is no oracle."""
    texts = []
    for options in (None, bearer("wrong")):
        with secured.client() as client, pytest.raises(flight.FlightUnauthenticatedError) as caught:
            select(client, "d", "SELECT 1", options)
        texts.append(told(caught.value))
    assert texts[0] == texts[1]


def told(error):
    """What the server said: pyarrow adds the same again as gRPC tells it. Ids are left out."""
    return re.sub(r"[0-9a-f-]{8,}", "ID", str(error).split("gRPC client debug context")[0])


def test_payloads_reach_extra_info_where_pyarrow_keeps_the_class(secured):
    """Requirements section 6: x-arrow-status is sent for Unauthenticated and its kin."""
    with secured.client() as client, pytest.raises(flight.FlightUnauthenticatedError) as caught:
        select(client, "d", "SELECT 1", bearer("wrong"))
    assert caught.value.extra_info, "grpc-status-details-bin reaches extra_info"


@pytest.mark.parametrize(
    ("name", "call"),
    {
        "read by sql (S0-23)": lambda c, db: select(c, db, "SELECT * FROM t", bearer(OTHER)),
        "read by path (S3-2)": lambda c, db: c.get_flight_info(
            flight.FlightDescriptor.for_path(db, "t"), bearer(OTHER)
        ),
        "read of a second database in the sql": lambda c, db: select(
            c, "elsewhere", f'SELECT * FROM "{db}".public.t', bearer(OTHER)
        ),
        "write by path": lambda c, db: put(c, db, "t", ROWS, bearer(READER)),
        "write by sql": lambda c, db: select(c, db, "DROP TABLE t", bearer(READER)),
    }.items(),
)
def test_a_token_without_the_right_is_denied(secured, database, name, call):
    """S0-23, S3-2."""
    with secured.client() as client:
        put(client, database, "t", ROWS, bearer(WRITER))
        with pytest.raises(flight.FlightUnauthorizedError) as caught:
            call(client, database)
        assert caught.value.extra_info
        count = select(client, database, "SELECT count(*) AS n FROM t", bearer(READER))
        assert count["n"].to_pylist() == [3]


def test_a_list_shows_only_what_the_token_may_read(secured, database):
    """S4-50."""
    with secured.client() as client:
        put(client, database, "t", ROWS, bearer(WRITER))
        seen = {
            token: {
                info.descriptor.path[0].decode() for info in client.list_flights(b"", bearer(token))
            }
            for token in (READER, OTHER)
        }
    assert database in seen[READER]
    assert database not in seen[OTHER]


def test_the_database_that_a_token_may_not_read_is_not_revealed(secured):
    """A denied caller learns nothing about which databases exist."""
    texts = []
    with secured.client() as client:
        put(client, "present", "t", ROWS, bearer(WRITER))
        for name in ("present", "absentx"):
            with pytest.raises(flight.FlightUnauthorizedError) as caught:
                select(client, name, "SELECT * FROM t", bearer(OTHER))
            texts.append(told(caught.value).replace(name, "DB"))
    assert texts[0] == texts[1]


def test_json_details_are_a_google_rpc_status(watched, trailers, database):
    """S0-25, S3-26, S3-27: code, retry scope and whether a user may see the text."""
    with pytest.raises(pa.ArrowInvalid):
        select(watched, database, "SELEC 1")
    details = trailers.last["grpc-status-details-bin"]
    details = details if isinstance(details, bytes) else details.encode("latin-1")
    assert b"type.googleapis.com/google.rpc.ErrorInfo" in details
    assert trailers.last["x-fc-code"].encode() in details


def test_sql_errors_tell_where(client, database):
    """S0-30: line and column."""
    with pytest.raises(pa.ArrowInvalid, match=r"(?i)line 2.*column \d+"):
        select(client, database, "SELECT 1\nFORM t")


def test_a_json_ticket_that_is_cut_off_is_invalid(client):
    """S0-29."""
    whole = json.dumps({"database": "d", "sql_query": "SELECT 1"}).encode()
    for length in range(1, len(whole)):
        with pytest.raises(pa.ArrowInvalid):
            client.do_get(flight.Ticket(whole[:length])).read_all()
