"""A cluster of real processes: a catalog, two ingesters, a querier."""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import sys
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import run_cli, select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

# Rows stay in the logs unless a test says otherwise.
SETTINGS = {"ingest": {"flush_interval": "1h"}, "server": {"drain_window": "100ms"}}
DATABASE = "d"
NUMBERS = pa.schema([("n", pa.int64())])


class Cluster:
    def __init__(self, processes):
        self.processes = processes
        self.first, self.second = processes.of("ingester")
        (self.querier,) = processes.of("querier")

    def numbers(self, table):
        with self.querier.connect() as client:
            answer = select(client, DATABASE, f"SELECT n FROM {table} ORDER BY n")
        return answer["n"].to_pylist()

    def restart(self, process):
        process.start()
        process.wait_until_ready()


@pytest.fixture
def cluster(tmp_path):
    with started_cluster(tmp_path, SETTINGS, ingesters=2, queriers=1) as processes:
        yield Cluster(processes)
        processes.stop()


def numbers(*values):
    return pa.record_batch([pa.array(values, pa.int64())], schema=NUMBERS)


def begin(client, table):
    return client.do_put(flight.FlightDescriptor.for_path(DATABASE, table), NUMBERS)


def act(process, action, **body):
    """The JSON answer to an action with a JSON body."""
    with process.connect() as client:
        (answer,) = client.do_action((action, json.dumps(body).encode()))
        return json.loads(answer.body.to_pybytes())


def put_part(process, table, upload, values):
    """One stream of an upload, a batch for each value, every one acknowledged."""
    options = flight.FlightCallOptions(headers=[(b"x-fc-upload", upload.encode())])
    with process.connect() as client:
        descriptor = flight.FlightDescriptor.for_path(DATABASE, table)
        writer, reader = client.do_put(descriptor, NUMBERS, options)
        with writer:
            for value in values:
                writer.write_batch(numbers(value))
                assert json.loads(reader.read().to_pybytes())["durable"] is True
            writer.done_writing()


def identity(sequence, producer="pump-7"):
    return json.dumps({"producer": producer, "sequence": sequence}).encode()


def send(process, table, sequence, *values):
    """Sends one batch of a producer; returns its acknowledgement."""
    with process.connect() as client:
        writer, reader = begin(client, table)
        with writer:
            writer.write_with_metadata(numbers(*values), identity(sequence))
            writer.done_writing()
            return json.loads(reader.read().to_pybytes())


def test_a_repeat_at_another_ingester_is_stored_once_whatever_became_of_the_first(cluster):
    """A batch is in the log of an ingester that dies before its answer is read."""
    send(cluster.first, "t", 1, 1)
    with cluster.first.connect() as client:
        writer, _ = begin(client, "t")
        writer.write_with_metadata(numbers(2), identity(2))
        wait_until(lambda: cluster.numbers("t") == [1, 2], "the batch is stored")
        cluster.first.kill()
        with contextlib.suppress(pa.ArrowException):
            writer.close()
    # Nobody else knows whether it was stored.
    for elsewhere in (cluster.second, cluster.querier):
        with pytest.raises(flight.FlightUnavailableError, match="ingester-0.*INGESTER_UNAVAILABLE"):
            send(elsewhere, "t", 2, 2)
    cluster.restart(cluster.first)

    def repeat():
        with contextlib.suppress(flight.FlightUnavailableError):
            return send(cluster.second, "t", 2, 2)

    answer = wait_until(repeat, "the former ingester answers")
    assert answer["duplicate"] is True
    assert cluster.numbers("t") == [1, 2]
    # There and back, and through a querier.
    assert "duplicate" not in send(cluster.second, "t", 3, 3)
    assert send(cluster.first, "t", 3, 3)["duplicate"] is True
    assert send(cluster.querier, "t", 3, 3)["duplicate"] is True
    assert "duplicate" not in send(cluster.querier, "t", 4, 4)
    for process in (cluster.first, cluster.second, cluster.querier):
        assert send(process, "t", 4, 4)["duplicate"] is True
    assert cluster.numbers("t") == [1, 2, 3, 4]


def test_a_query_waits_for_a_catalog_that_restarts(cluster):
    """Issue 4 section 2: the catalog is reached again; only the time it takes tells."""
    with cluster.first.connect() as client:
        writer, acknowledged = begin(client, "t")
        writer.write_batch(numbers(1, 2, 3))
        acknowledged.read()
        writer.close()
    assert cluster.numbers("t") == [1, 2, 3]
    (catalog,) = cluster.processes.of("catalog")
    catalog.kill()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        queries = [pool.submit(cluster.numbers, "t") for _ in range(4)]
        cluster.restart(catalog)
        assert [query.result() for query in queries] == [[1, 2, 3]] * 4


def catalog_command(process, command, *more):
    config = ["--config", process.folder / "config.yaml", "--data-dir", process.data]
    done = run_cli("catalog", command, *more, *config)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_lost_catalog_is_restored_under_ingesters_that_keep_their_logs(cluster):
    """Issue 4 section 2, by the steps of operations.md: what the logs have comes back, once; what
    only the lost catalog knew is given up by name, not in silence."""
    (catalog,) = cluster.processes.of("catalog")
    send(cluster.first, "t", 1, 1, 2)
    send(cluster.second, "u", 1, 5, 6)
    assert catalog_command(catalog, "backup").startswith("_flightcluster_catalog/")
    send(cluster.first, "t", 2, 3, 4)
    send(cluster.second, "u", 2, 7, 8)
    # A table that the backup does not know.
    send(cluster.second, "new", 1, 9)

    for process in (cluster.first, cluster.second, catalog):
        process.abandon()
    shutil.rmtree(catalog.data / "catalog")
    assert "restored" in catalog_command(catalog, "restore")
    assert "every live file is there" in catalog_command(catalog, "check")
    # The log of the first relied on nothing newer than the backup.
    for process in (catalog, cluster.first):
        cluster.restart(process)
    cluster.second.start()
    refused = "the catalog is older than the write-ahead log"
    wait_until(lambda: refused in cluster.second.log_path.read_text(), "it refuses to start")
    with pytest.raises(flight.FlightUnavailableError, match="ingester-1"):
        cluster.numbers("u")
    cluster.second.abandon()
    catalog_command(catalog, "readmit", "ingester-1")
    # Until it is back nothing is short, and no repeat is stored that its log has already.
    with pytest.raises(flight.FlightUnavailableError, match="ingester-1"):
        cluster.numbers("u")
    with pytest.raises(flight.FlightUnavailableError, match="ingester-1"):
        send(cluster.first, "u", 2, 7, 8)
    cluster.restart(cluster.second)
    assert cluster.numbers("u") == [5, 6, 7, 8]
    assert send(cluster.second, "u", 2, 7, 8)["duplicate"] is True
    assert send(cluster.second, "u", 3, 9)["durable"] is True
    assert cluster.numbers("t") == [1, 2, 3, 4]
    assert cluster.numbers("u") == [5, 6, 7, 8, 9]
    # It keeps the row of the table that is in no catalog, and would wait in vain to flush it.
    cluster.second.abandon()


def test_an_upload_without_a_batch_makes_an_empty_table_through_a_querier_too(cluster):
    """The querier reads to the end of it while it looks for a producer."""
    with cluster.querier.connect() as client:
        writer, reader = begin(client, "no_rows")
        with writer:
            writer.done_writing()
            assert reader.read() is None
    assert cluster.numbers("no_rows") == []


def test_a_statement_is_no_part_of_an_upload(cluster):
    """Its rows would be visible at once, and stay when the upload is aborted."""
    send(cluster.first, "t", 1, 1)
    upload = act(cluster.querier, "start-upload", database=DATABASE, table="t")["upload"]
    options = flight.FlightCallOptions(headers=[(b"x-fc-upload", upload.encode())])
    with cluster.querier.connect() as client:
        with pytest.raises(pa.ArrowInvalid, match="x-fc-upload"):
            select(client, DATABASE, "INSERT INTO t VALUES (2)", options)
    assert cluster.numbers("t") == [1]


def test_a_statement_redeemed_at_two_servers_is_done_once(cluster):
    """Nobody knows how far a run elsewhere came; rows that stand in the statement are one batch."""
    send(cluster.first, "t", 1, 1)
    for statement, repeat in (
        ("INSERT INTO t VALUES (2)", True),
        ("INSERT INTO t SELECT 3 FROM t", False),
    ):
        command = json.dumps({"database": DATABASE, "sql_query": statement}).encode()
        with cluster.querier.connect() as client:
            info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
        (endpoint,) = info.endpoints
        with cluster.querier.connect() as client:
            client.do_get(endpoint.ticket).read_all()
        # Nothing of the first run is remembered there but what is stored.
        cluster.querier.kill()
        cluster.restart(cluster.querier)
        with cluster.querier.connect() as client:
            with contextlib.ExitStack() as refused:
                if not repeat:
                    told = pytest.raises(pa.ArrowInvalid, match="was begun before")
                    refused.enter_context(told)
                client.do_get(endpoint.ticket).read_all()
    assert cluster.numbers("t") == [1, 2, 3, 3]


def test_queriers_pass_a_producer_on_to_the_same_ingester(cluster):
    """Otherwise it would move with every stream, and with every move somebody has to be asked."""
    for sequence in range(1, 7):
        assert "duplicate" not in send(cluster.querier, "sticky", sequence, sequence)
    moves = [
        line
        for process in (cluster.first, cluster.second)
        for line in process.log_path.read_text().splitlines()
        if "taking a producer over" in line
    ]
    assert not moves
    assert cluster.numbers("sticky") == [1, 2, 3, 4, 5, 6]


def test_a_producer_goes_on_elsewhere_when_its_ingester_is_drained(cluster):
    send(cluster.first, "t", 1, 1)
    cluster.first.stop()
    assert send(cluster.second, "t", 1, 1)["duplicate"] is True
    assert "duplicate" not in send(cluster.second, "t", 2, 2)
    assert cluster.numbers("t") == [1, 2]


def test_parallel_streams_of_an_upload_appear_together(cluster):
    """S3-21: eight streams through every process, and an ingester killed before the end."""
    send(cluster.first, "t", 1, -1)
    upload = act(cluster.querier, "start-upload", database=DATABASE, table="t")["upload"]
    entries = [cluster.first, cluster.second, cluster.querier]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        parts = [
            pool.submit(put_part, entries[n % 3], "t", upload, range(n * 10, n * 10 + 10))
            for n in range(8)
        ]
        for part in parts:
            part.result()
    assert cluster.numbers("t") == [-1]
    cluster.first.kill()
    with pytest.raises(flight.FlightUnavailableError, match="ingester-0.*INGESTER_UNAVAILABLE"):
        act(cluster.querier, "finish-upload", upload=upload)
    cluster.restart(cluster.first)
    assert cluster.numbers("t") == [-1]

    expected = [-1, *range(80)]
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(cluster.numbers("t"))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        wait_until(lambda: len(seen) > 2, "readers read")

        def finish():
            with contextlib.suppress(flight.FlightUnavailableError):
                return act(cluster.second, "finish-upload", upload=upload)

        answer = wait_until(finish, "the upload is finished")
        count = len(seen)
        wait_until(lambda: len(seen) > count + 3, "readers read again")
        done.set()
        for reader in readers:
            reader.result()
    assert answer == {"upload": upload, "state": "finished", "rows": 80}
    assert all(answer in ([-1], expected) for answer in seen)
    assert cluster.numbers("t") == expected
    # Again, anywhere; and nothing comes in any more.
    assert act(cluster.first, "finish-upload", upload=upload) == answer
    with pytest.raises(pa.ArrowException, match="UPLOAD_ENDED"):
        put_part(cluster.second, "t", upload, [100])
    with pytest.raises(pa.ArrowException, match="UPLOAD_ENDED"):
        act(cluster.first, "abort-upload", upload=upload)
    assert cluster.numbers("t") == expected


def test_an_aborted_upload_leaves_nothing(cluster):
    upload = act(cluster.first, "start-upload", database=DATABASE, table="new")["upload"]
    put_part(cluster.first, "new", upload, [1, 2])
    put_part(cluster.querier, "new", upload, [3])
    for process in (cluster.second, cluster.querier):
        assert act(process, "abort-upload", upload=upload)["state"] == "aborted"
    for action in (
        lambda: put_part(cluster.second, "new", upload, [4]),
        lambda: act(cluster.querier, "finish-upload", upload=upload),
    ):
        with pytest.raises(pa.ArrowException, match="aborted.*UPLOAD_ENDED"):
            action()
    with pytest.raises(pa.ArrowException, match="not found"):
        cluster.numbers("new")


def test_an_upload_tells_what_is_wrong_with_it(cluster):
    with cluster.querier.connect() as client:
        offered = {action.type for action in client.list_actions()}
    assert {"start-upload", "finish-upload", "abort-upload"} <= offered
    upload = act(cluster.querier, "start-upload", database=DATABASE, table="t")["upload"]
    with pytest.raises(pa.ArrowException, match="upload .* is for table d.public.t"):
        put_part(cluster.first, "other", upload, [1])
    with pytest.raises(pa.ArrowException, match="UPLOAD_NOT_FOUND"):
        put_part(cluster.first, "t", "no-such-upload", [1])
    with pytest.raises(pa.ArrowException, match="UPLOAD_NOT_FOUND"):
        act(cluster.second, "finish-upload", upload="no-such-upload")
    with pytest.raises(pa.ArrowException, match="JSON"):
        act(cluster.second, "finish-upload", id=upload)
    # Nothing was written: nothing is made.
    assert act(cluster.second, "finish-upload", upload=upload)["rows"] == 0


def test_a_delete_reaches_the_logs_of_all_ingesters_or_none(cluster):
    """Issue section 4: rows that are in no file yet, through a querier, and a crash after."""
    with contextlib.ExitStack() as stack:
        for process, first in ((cluster.first, 0), (cluster.second, 10)):
            writer, reader = begin(stack.enter_context(process.connect()), "t")
            for value in range(first, first + 10):
                writer.write_batch(numbers(value))
                assert json.loads(reader.read().to_pybytes())["durable"] is True
            writer.close()
    cluster.second.kill()
    with cluster.querier.connect() as client:
        with pytest.raises(flight.FlightUnavailableError, match="INGESTER_UNAVAILABLE"):
            select(client, DATABASE, "DELETE FROM t WHERE n % 2 = 0")
    cluster.restart(cluster.second)
    assert cluster.numbers("t") == list(range(20))
    with cluster.querier.connect() as client:
        select(client, DATABASE, "DELETE FROM t WHERE n % 2 = 0")
    assert cluster.numbers("t") == list(range(1, 20, 2))
    for process in (cluster.first, cluster.second):
        process.kill()
        cluster.restart(process)
    assert cluster.numbers("t") == list(range(1, 20, 2))


def test_the_later_write_to_a_key_is_read_whichever_process_took_it(cluster):
    """Each write begins after the one before was acknowledged; clocks take no part."""
    key = {"flightcluster.primary_key": json.dumps(["id", "time"])}
    fields = [("id", pa.int64()), ("time", pa.timestamp("ns")), ("v", pa.int64())]
    schema = pa.schema(fields, metadata=key)

    def write(process, v, table="latest", schema=schema):
        batch = pa.record_batch([[1], [0], [v]], schema=schema)
        with process.connect() as client:
            descriptor = flight.FlightDescriptor.for_path(DATABASE, table)
            writer, reader = client.do_put(descriptor, schema)
            with writer:
                writer.write_batch(batch)
                writer.done_writing()
                assert json.loads(reader.read().to_pybytes())["durable"] is True

    def value():
        with cluster.querier.connect() as client:
            return select(client, DATABASE, "SELECT v FROM latest")["v"].to_pylist()

    turns = [cluster.first, cluster.second, cluster.querier]
    for v in range(90):
        write(turns[v % 3], v)
        assert value() == [v]
    cluster.second.kill()
    cluster.restart(cluster.second)
    assert value() == [89]
    # Without the catalog nobody can say which write is the later one; other tables go on.
    with cluster.first.connect() as client:
        latest = flight.FlightDescriptor.for_path(DATABASE, "latest")
        plain = flight.FlightDescriptor.for_path(DATABASE, "plain")
        keyed, _ = client.do_put(latest, schema)
        other, acknowledged = client.do_put(plain, NUMBERS)
        other.write_batch(numbers(1))
        acknowledged.read()
        keyed.write_batch(pa.record_batch([[1], [0], [100]], schema=schema))
        wait_until(lambda: value() == [100], "the stream has begun")
        (catalog,) = cluster.processes.of("catalog")
        catalog.kill()
        other.write_batch(numbers(2))
        assert json.loads(acknowledged.read().to_pybytes())["durable"] is True
        keyed.write_batch(pa.record_batch([[1], [0], [101]], schema=schema))
        with pytest.raises(flight.FlightUnavailableError, match="CATALOG_UNAVAILABLE"):
            keyed.close()
        cluster.restart(catalog)
        other.close()
    assert value() == [100]
    write(cluster.second, 102)
    assert value() == [102]


@pytest.fixture
def advertised(tmp_path):
    """A cluster whose processes say where clients reach them."""
    server = SETTINGS["server"] | {"advertise_host": "127.0.0.1"}
    settings = SETTINGS | {"server": server}
    with started_cluster(tmp_path, settings, ingesters=2, queriers=1) as processes:
        yield Cluster(processes)
        processes.stop()


def put_locations(process, descriptor):
    with process.connect() as client:
        (answer,) = client.do_action(("put-location", descriptor.serialize()))
        return json.loads(answer.body.to_pybytes())["locations"]


def put_at(location, descriptor, *values):
    with flight.connect(location) as client:
        writer, reader = client.do_put(descriptor, NUMBERS)
        with writer:
            writer.write_batch(numbers(*values))
            assert json.loads(reader.read().to_pybytes())["durable"] is True
            writer.done_writing()


def test_rows_are_put_where_the_cluster_says(advertised):
    """S3-24: the same order from every process, and the same for the table each time."""
    cluster = advertised
    places = {f"grpc+tcp://127.0.0.1:{each.port()}" for each in (cluster.first, cluster.second)}
    firsts = set()
    for number in range(12):
        descriptor = flight.FlightDescriptor.for_path(DATABASE, f"t{number}")
        answers = [
            put_locations(process, descriptor)
            for process in (cluster.first, cluster.second, cluster.querier, cluster.querier)
        ]
        assert set(answers[0]) == places
        assert answers == [answers[0]] * len(answers)
        firsts.add(answers[0][0])
    assert firsts == places, "tables are shared out"
    table = "t11"
    put_at(answers[0][0], descriptor, 1)
    assert cluster.numbers(table) == [1]
    # Advice: other ingesters take the rows too, and queriers pass them on.
    put_at(answers[0][1], descriptor, 2)
    put_at(f"grpc+tcp://127.0.0.1:{cluster.querier.port()}", descriptor, 3)
    assert cluster.numbers(table) == [1, 2, 3]


def test_rows_are_put_elsewhere_when_an_ingester_leaves(advertised):
    """S3-24: one that drained, one that was killed, and none at all."""
    cluster = advertised
    descriptor = flight.FlightDescriptor.for_path(DATABASE, "t")
    both = put_locations(cluster.querier, descriptor)
    first, second = sorted(
        (cluster.first, cluster.second),
        key=lambda each: both.index(f"grpc+tcp://127.0.0.1:{each.port()}"),
    )
    first.stop()
    (left,) = put_locations(cluster.querier, descriptor)
    assert left == both[1]
    put_at(left, descriptor, 1)
    assert cluster.numbers("t") == [1]
    second.kill()
    with pytest.raises(flight.FlightUnavailableError, match="INGESTER_UNAVAILABLE"):
        put_locations(cluster.querier, descriptor)
    cluster.restart(second)
    (left,) = put_locations(cluster.querier, descriptor)
    put_at(left, descriptor, 2)
    assert cluster.numbers("t") == [1, 2]


def test_rows_go_by_the_same_connection_where_nobody_has_an_address(cluster):
    """S3-24: without `server.advertise_host` a querier passes them on."""
    descriptor = flight.FlightDescriptor.for_path(DATABASE, "t")
    for process in (cluster.first, cluster.querier):
        assert put_locations(process, descriptor) == ["arrow-flight-reuse-connection://?"]


def test_a_question_for_a_place_tells_what_is_wrong_with_it(cluster):
    with cluster.querier.connect() as client:
        assert "put-location" in {action.type for action in client.list_actions()}
    for body, problem in (
        (b"", "descriptor .* is empty"),
        (b'{"database": "d"}', "not the protobuf message.*ListActions"),
        (flight.FlightDescriptor.for_path().serialize(), "path"),
        (flight.FlightDescriptor.for_path("a", "b", "c", "d").serialize(), "path"),
        (flight.FlightDescriptor.for_command("SELECT 1").serialize(), "CommandStatementIngest"),
    ):
        with (
            cluster.querier.connect() as client,
            pytest.raises(pa.ArrowInvalid, match=problem),
        ):
            list(client.do_action(("put-location", body)))
