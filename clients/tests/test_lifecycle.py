"""Start and stop: ports, readiness, drain, exit codes, configuration mistakes."""

import json
import pathlib
import socket
import subprocess
import threading
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest
import yaml
from certificates import Authority
from harness import (
    BINARY,
    bearer,
    clean_environment,
    json_ticket,
    put,
    run_cli,
    running,
    select,
    wait_until,
)

ROWS = pa.table({"id": [1, 2, 3]})


def test_the_port_file_names_the_ports_that_are_bound(plain):
    """S2-4: port 0 means any free one; the file is there when the server is ready."""
    for port in (plain.ports["port"], plain.ports["admin_port"]):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize("path", ["/startup", "/ready", "/live"])
def test_health_endpoints_answer(plain, path):
    """S4-36, S4-37."""
    assert plain.admin(path)[0] == 200


def test_metrics_count_calls_by_method_and_code(plain, client, database):
    """Issue section 3, admin port."""

    def calls(**labels):
        try:
            return plain.metric("rpc_finished_total", **labels)
        except AssertionError:
            return 0

    before = calls(method="DoGet"), calls(method="DoGet", code="InvalidArgument")
    select(client, database, "SELECT 1")
    with pytest.raises(pa.ArrowInvalid):
        select(client, database, "SELEC 1")
    assert calls(method="DoGet") == before[0] + 2
    assert calls(method="DoGet", code="InvalidArgument") == before[1] + 1


@pytest.mark.parametrize(
    "part",
    [
        "wal_fsync_duration_seconds_count",
        "flush_duration_seconds_count",
        "catalog_call_duration_seconds_count",
        'memory_bytes{kind="rss"}',
        'memory_bytes{kind="jemalloc_resident"}',
        "rpc_duration_seconds_bucket",
        "ingest_buffer_bytes",
        "query_running",
        "query_duration_seconds_count",
        "query_rows_total",
        'rpc_received_bytes_total{method="DoPut"}',
        'rpc_sent_bytes_total{method="DoGet"}',
    ],
)
def test_metrics_cover_every_part(plain, client, database, part):
    """Issue section 3, admin port: declared, and written by a put and a query."""
    put(client, database, "t", ROWS)
    select(client, database, "SELECT * FROM t")
    assert any(part in line for line in plain.admin("/metrics")[1].splitlines() if line[:1] != "#")


def test_metrics_tell_of_footers_in_memory(new_server):
    """Issue 4 section 3: a footer is read from its file once, and found in memory after that."""
    server = new_server({"ingest": {"flush_interval": "20ms"}, "upkeep": {"run_in": "nobody"}})
    server.start()
    files = "SELECT count(*) AS n FROM system.files"
    with server.client() as client:
        put(client, "d", "t", ROWS)
        wait_until(
            lambda: select(client, "d", files)["n"].to_pylist() == [1], "the rows are in a file"
        )
        for _ in range(3):
            assert select(client, "d", "SELECT id FROM t").num_rows == 3
    wait_until(lambda: server.metric("footer_cache_hits_total") == 2, "hits are counted")
    assert server.metric("footer_cache_misses_total") == 1
    assert server.metric("footer_cache_bytes") > 0


def test_certificate_expiry_is_a_metric(secured):
    """Issue section 3, admin port: the test certificates live for two days."""
    left = secured.metric("certificate_not_after_timestamp_seconds") - time.time()
    assert 0 < left < 2 * 86400


def test_refused_callers_are_counted_by_reason(secured):
    """Docs/errors.md sends the owner of a cluster to this metric."""
    for options, reason in ((None, "missing_token"), (bearer("wrong"), "unknown_token")):
        with secured.client() as client, pytest.raises(flight.FlightUnauthenticatedError):
            select(client, "d", "SELECT 1", options)
        assert secured.metric("auth_failures_total", reason=reason) >= 1


def test_the_malloc_settings_reach_the_allocator(new_server):
    """S4-44, S4-45: jemalloc reads its options before main; the process starts itself again."""
    with running(new_server({"malloc": {"preset": "low-memory"}})) as server:
        environment = pathlib.Path(f"/proc/{server.process.pid}/environ").read_bytes()
        assert b"MALLOC_CONF=background_thread:true,dirty_decay_ms:0" in environment
        with server.client() as client:
            put(client, "d", "t", ROWS)


def test_the_limit_of_a_small_pod_reaches_the_allocator(new_server, small_pod):
    """S4-43: jemalloc itself counts the cores of the machine."""
    server = new_server()
    server.prefix = small_pod.prefix()
    with running(server):
        environment = (server.proc / "environ").read_bytes()
        assert b"MALLOC_CONF=background_thread:true,dirty_decay_ms:100" in environment
        assert b",narenas:2,tcache_max:4096" in environment


def test_data_may_move_to_a_machine_with_another_name(new_server, tmp_path):
    """A container gets a new host name at every start."""
    server = new_server().start()
    with server.client() as client:
        put(client, "d", "t", ROWS)
        names = select(client, "d", "SELECT * FROM system.ingesters").to_pylist()
    server.stop()
    assert [row["name"] for row in names] == ["standalone"]


def test_every_log_line_in_production_is_json_with_a_request_id_per_call(plain, client, database):
    """S4-26, design 4.9."""
    select(client, database, "SELECT 1")
    lines = wait_until(
        lambda: [line for line in plain.log_lines() if "request_id" in json.dumps(line)],
        "a line of a call",
    )
    assert {"timestamp", "level"} <= lines[-1].keys()


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_an_idle_server_with_exit_code_0(new_server, signal):
    """S2-5, S4-8."""
    import signal as signals

    server = new_server().start()
    server.process.send_signal(getattr(signals, signal))
    assert server.wait() == 0
    server.check_log()


def test_sigterm_lets_streams_finish_and_refuses_new_work(new_server):
    """S4-8, design 4.10: not ready, drain, exit 0; no stream is cut off."""
    server = new_server({"server": {"drain_window": "1s"}}).start()
    rows = 2_000_000
    sql = f"SELECT value, repeat('x', 100) AS t FROM generate_series(1, {rows})"
    with server.client() as client:
        reader = client.do_get(json_ticket("default", sql))
        seen = reader.read_chunk().data.num_rows
        server.terminate()
        wait_until(lambda: server.admin("/ready")[0] == 503, "the server is not ready any more")
        with (
            server.client() as late,
            pytest.raises(flight.FlightUnavailableError, match="(?i)drain"),
        ):
            select(late, "default", "SELECT 1")
        seen += sum(chunk.data.num_rows for chunk in reader)
        assert seen == rows
    assert server.wait() == 0
    server.check_log()


def test_rows_acknowledged_before_sigterm_are_there_after_the_restart(new_server):
    """S4-8: ingest is flushed or replayed, never forgotten."""
    server = new_server().start()
    with server.client() as client:
        put(client, "d", "t", ROWS)
    server.stop()
    server.start()
    with server.client() as client:
        assert select(client, "d", "SELECT * FROM t ORDER BY id").equals(ROWS)
    server.stop()


def test_sigterm_in_the_middle_of_a_put_keeps_what_was_acknowledged(new_server):
    """S4-8, style invariant 1."""
    server = new_server({"server": {"shutdown_timeout": "2s"}}).start()
    # this client never ends its upload by itself
    server.expect_log("calls were cut off")
    acknowledged = 0
    with server.client() as client:
        descriptor = flight.FlightDescriptor.for_path("d", "t")
        writer, reader = client.do_put(descriptor, ROWS.schema)
        stopper = threading.Timer(0.3, server.terminate)
        stopper.start()
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end:
                writer.write_batch(ROWS.to_batches()[0])
                acknowledged += json.loads(reader.read().to_pybytes())["rows"]
        except (flight.FlightError, pa.ArrowException, AttributeError):
            pass
        assert server.wait() == 0
    server.start()
    with server.client() as client:
        found = select(client, "d", "SELECT count(*) AS n FROM t")["n"][0].as_py()
    assert acknowledged <= found <= acknowledged + ROWS.num_rows
    server.stop()


def test_a_second_server_on_the_same_folder_is_refused(new_server, tmp_path):
    """Two writers of one write-ahead log would destroy it."""
    with running(new_server()) as server:
        second = run_cli(
            "standalone", "--data-dir", server.data,
            "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
        )  # fmt: skip
        assert second.returncode not in (0, None)
        assert str(server.data) in second.stderr + second.stdout


def test_a_port_that_is_taken_is_named(plain, tmp_path):
    """S2-4: fails at once, and says which."""
    result = run_cli(
        "standalone", "--data-dir", tmp_path / "data",
        "--listen", f"127.0.0.1:{plain.port}", "--admin-listen", "127.0.0.1:0",
    )  # fmt: skip
    assert result.returncode not in (0, None)
    assert str(plain.port) in result.stderr + result.stdout


KEY_FILE_ONLY = {"tls": {"key_file": "/nowhere/tls.key"}}
MISTAKES = {
    # name: (config, arguments, environment, the setting that is named, more words)
    "unknown key": ({"server": {"listen_prot": 1}}, [], {}, "server.listen_prot", "listen_port"),
    "unknown section": ({"sever": {}}, [], {}, "sever", "server"),
    "unknown key in the environment": (
        {},
        [],
        {"FLIGHTCLUSTER_SERVER__LISTEN_PROT": "1"},
        "FLIGHTCLUSTER_SERVER__LISTEN_PROT",
        "",
    ),
    "wrong type": ({"server": {"listen_port": "many"}}, [], {}, "server.listen_port", ""),
    "a number that is too large": (
        {"server": {"listen_port": 70000}},
        [],
        {},
        "server.listen_port",
        "",
    ),
    "ambiguous boolean": ({"auth": {"allow_insecure": "maybe"}}, [], {}, "auth.allow_insecure", ""),
    "size without sense": ({"ingest": {"flush_bytes": "lots"}}, [], {}, "ingest.flush_bytes", ""),
    "duration without unit": (
        {"ingest": {"flush_interval": "30"}},
        [],
        {},
        "ingest.flush_interval",
        "",
    ),
    "no authentication off loopback (S2-12)": (
        {},
        ["--listen", "0.0.0.0:0"],
        {},
        "auth",
        "allow_insecure",
    ),
    "tokens without tls off loopback (S2-12)": (
        {"auth": {"mode": "token", "token_file": "tokens.yaml"}},
        ["--listen", "0.0.0.0:0"],
        {},
        "tls",
        "allow_insecure",
    ),
    "token mode without a file": ({"auth": {"mode": "token"}}, [], {}, "auth.token_file", ""),
    "key without certificate": (KEY_FILE_ONLY, [], {}, "tls.certificate_file", ""),
    "certificate file that is missing": (
        {"tls": {"certificate_file": "/nowhere/tls.crt", "key_file": "/nowhere/tls.key"}},
        [],
        {},
        "tls.certificate_file",
        "/nowhere/tls.crt",
    ),
    "mutual tls without an authority (S4-47)": (
        {"tls": {"client_auth": "required", "certificate_file": "CRT", "key_file": "KEY"}},
        [],
        {},
        "tls.client_ca_file",
        "",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_configuration_mistake_exits_2_and_names_the_setting(tmp_path, mistake):
    """S1-18, S2-12, S4-5, design 4.6: exit code 2 within a second, one line."""
    config, arguments, environment, setting, words = MISTAKES[mistake]
    leaf = Authority().issue(tmp_path / "tls")
    text = yaml.safe_dump(config)
    text = text.replace("CRT", str(leaf.certificate_file)).replace("KEY", str(leaf.key_file))
    path = tmp_path / "config.yaml"
    path.write_text(text)
    result, took = start_badly(path, tmp_path, arguments, environment)
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, f"one line, not: {result.stderr}"
    assert setting in lines[0]
    assert words in lines[0]
    assert took < 1.0


def start_badly(path, folder, arguments, environment):
    """The result of a start that fails, and the time of the fastest of up to three tries."""
    listen = arguments or ["--listen", "127.0.0.1:0"]
    fastest = None
    for _ in range(3):
        begun = time.monotonic()
        result = run_cli(
            "standalone", "--config", path, "--data-dir", folder / "data",
            "--admin-listen", "127.0.0.1:0", *listen, timeout=20, **environment,
        )  # fmt: skip
        took = time.monotonic() - begun
        fastest = took if fastest is None else min(fastest, took)
        if fastest < 1.0:
            break
    return result, fastest


def test_config_check_finds_the_same_mistakes_without_starting(tmp_path):
    """Design 2: config check."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump({"log": {"filter": "debug"}}))
    bad.write_text(yaml.safe_dump({"log": {"filtre": "debug"}}))
    assert run_cli("config", "check", "--config", good).returncode == 0
    result = run_cli("config", "check", "--config", bad)
    assert result.returncode == 2
    assert "log.filtre" in result.stderr


def test_config_print_shows_where_each_value_came_from(tmp_path):
    """S4-2: file A < file B < environment < flag."""
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(yaml.safe_dump({"log": {"filter": "error"}, "query": {"batch_rows": 1000}}))
    second.write_text(yaml.safe_dump({"log": {"filter": "warn"}}))
    result = run_cli(
        "config", "print", "--origin", "--config", first, "--config", second,
        FLIGHTCLUSTER_QUERY__QUEUE_LENGTH="7",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

    def line(key):
        return next(line for line in result.stdout.splitlines() if key in line)

    assert "warn" in line("filter") and "b.yaml" in line("filter")
    assert "1000" in line("batch_rows") and "a.yaml" in line("batch_rows")
    assert "7" in line("queue_length") and "FLIGHTCLUSTER_QUERY__QUEUE_LENGTH" in line(
        "queue_length"
    )
    assert "default" in line("task_threads")


def test_config_print_is_a_configuration_again(tmp_path):
    """S4-4."""
    printed = run_cli("config", "print")
    assert printed.returncode == 0, printed.stderr
    again = tmp_path / "again.yaml"
    again.write_text(printed.stdout)
    assert run_cli("config", "check", "--config", again).returncode == 0


def test_saturated_cpu_does_not_stop_the_probes(plain):
    """S3-30: queries have their own threads."""
    sql = (
        "SELECT sum(a.value * b.value) AS s FROM generate_series(1, 1000000) AS a, "
        "generate_series(1, 1000000) AS b"
    )
    stop = threading.Event()

    def burn():
        with plain.client() as client:
            while not stop.is_set():
                with pytest.raises(flight.FlightTimedOutError):
                    options = flight.FlightCallOptions(timeout=2)
                    client.do_get(json_ticket("default", sql), options).read_all()

    threads = [threading.Thread(target=burn) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        slowest = 0.0
        for _ in range(50):
            begun = time.monotonic()
            assert plain.admin("/live")[0] == 200
            slowest = max(slowest, time.monotonic() - begun)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert slowest < 1.0


def test_many_threads_share_one_client(plain, client, database):
    """S2-18."""
    put(client, database, "t", ROWS)
    answers = []

    def ask():
        answers.append(select(client, database, "SELECT sum(id) AS s FROM t")["s"][0].as_py())

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [6] * 64


def test_help_names_every_command():
    """Issue section 3: enough to live without the docs."""
    result = subprocess.run(
        [BINARY, "--help"], capture_output=True, text=True, check=True, env=clean_environment()
    )
    for command in (
        "standalone",
        "querier",
        "ingester",
        "catalog",
        "config",
        "query",
        "put",
        "token",
    ):
        assert command in result.stdout
