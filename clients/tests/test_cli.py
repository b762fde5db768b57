"""The client commands of the binary: query, put, token create."""

import csv
import datetime
import io
import json
import pathlib

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import WRITER, secured_config
from harness import bearer, put, run_cli, running, select

WEATHER = pathlib.Path(__file__).parents[2] / "examples" / "weather.parquet"
ROWS = pa.table({"id": [1, 2, 3], "name": ["a", None, "c, with comma"]})


def target(server, database, table=None):
    words = ["--uri", server.uri, "--database", database]
    return words + (["--table", table] if table else [])


def test_put_loads_the_example_and_query_reads_it(plain, database):
    """Issue section 2: what `make run` does."""
    loaded = run_cli("put", WEATHER, *target(plain, database, "weather"))
    assert loaded.returncode == 0, loaded.stderr
    sql = "SELECT origin, count(*) AS n FROM weather GROUP BY origin ORDER BY origin"
    result = run_cli("query", sql, *target(plain, database), "--format", "csv")
    assert result.returncode == 0, result.stderr
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows == [["origin", "n"], ["EWR", "8703"], ["JFK", "8706"], ["LGA", "8706"]]


def write_csv(path):
    pa.csv.write_csv(ROWS, path)


def write_ipc_file(path):
    with pa.ipc.new_file(path, ROWS.schema) as writer:
        writer.write_table(ROWS)


def write_ipc_stream(path):
    with pa.ipc.new_stream(path, ROWS.schema) as writer:
        writer.write_table(ROWS)


def write_ndjson(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS.to_pylist()))


FILES = {
    "rows.parquet": lambda path: pa.parquet.write_table(ROWS, path),
    "rows.csv": write_csv,
    "rows.arrow": write_ipc_file,
    "rows.arrows": write_ipc_stream,
    "rows.ndjson": write_ndjson,
}


@pytest.mark.parametrize("name", FILES)
def test_put_reads_every_format(plain, client, database, tmp_path, name):
    """Issue section 3: Parquet, CSV, Arrow IPC, NDJSON."""
    FILES[name](tmp_path / name)
    result = run_cli("put", tmp_path / name, *target(plain, database, "t"))
    assert result.returncode == 0, result.stderr
    found = select(client, database, "SELECT * FROM t ORDER BY id").to_pylist()
    assert [row["id"] for row in found] == [1, 2, 3]
    assert found[2]["name"] == "c, with comma"


@pytest.mark.parametrize("form", ["table", "csv", "json", "arrow"])
def test_query_prints_every_format(plain, form):
    """Issue section 3."""
    sql = "SELECT 1 AS one, 'x' AS two UNION ALL SELECT 2, NULL ORDER BY one"
    arguments = ["query", sql, *target(plain, "default"), "--format", form]
    if form == "arrow":
        table = read_arrow(arguments)
        assert table.to_pydict() == {"one": [1, 2], "two": ["x", None]}
        return
    result = run_cli(*arguments)
    assert result.returncode == 0, result.stderr
    if form == "table":
        assert "one" in result.stdout and "two" in result.stdout and "x" in result.stdout
    elif form == "csv":
        assert list(csv.reader(io.StringIO(result.stdout))) == [
            ["one", "two"],
            ["1", "x"],
            ["2", ""],
        ]
    else:
        assert read_json(result.stdout)[0] == {"one": 1, "two": "x"}


def read_arrow(arguments):
    import subprocess

    from harness import BINARY, clean_environment

    raw = subprocess.run(
        [BINARY, *arguments], capture_output=True, check=True, env=clean_environment()
    ).stdout
    return pa.ipc.open_stream(raw).read_all()


def read_json(text):
    """One array, or one object a line."""
    text = text.strip()
    return (
        json.loads(text)
        if text.startswith("[")
        else [json.loads(line) for line in text.splitlines()]
    )


def test_commands_take_their_target_from_the_environment(plain):
    """Issue section 3."""
    result = run_cli(
        "query", "SELECT 1 AS n", "--format", "csv",
        FLIGHTCLUSTER_URI=plain.uri, FLIGHTCLUSTER_DATABASE="default",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["n", "1"]


def test_query_over_tls_with_a_token(secured, database):
    """Issue section 3: --ca and --token."""
    words = ["--ca", secured.tls.authority_file, "--token", WRITER]
    loaded = run_cli("put", WEATHER, *target(secured, database, "weather"), *words)
    assert loaded.returncode == 0, loaded.stderr
    sql = "SELECT count(*) AS n FROM weather"
    result = run_cli("query", sql, *target(secured, database), *words, "--format", "csv")
    assert result.stdout.split() == ["n", "26115"]


def test_a_failed_query_says_why_and_exits_1(plain):
    """Issue section 3: a user's mistake is told, on the error output."""
    result = run_cli("query", "SELEC 1", *target(plain, "default"))
    assert result.returncode == 1
    assert "SELEC" in result.stderr
    assert result.stdout == ""


def test_a_server_that_is_not_there_is_named():
    """Issue section 3."""
    result = run_cli("query", "SELECT 1", "--uri", "grpc://127.0.0.1:1", timeout=30)
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr


def test_a_created_token_works_once_its_entry_is_in_the_file(new_server, authority, tmp_path):
    """Issue section 3: the token is printed once, with the entry for the file."""
    rights = ["--permission", "write:demo*", "--permission", "read:demo*"]
    result = run_cli("token", "create", "--name", "ci", *rights)
    assert result.returncode == 0, result.stderr
    token, entry = split_token(result.stdout)
    assert token not in entry, "the file holds a hash, not the token"
    leaf = authority.issue(tmp_path / "tls")
    config = secured_config(tmp_path, leaf)
    (tmp_path / "tokens.yaml").write_text(entry)
    with running(new_server(config, tls=leaf)) as server, server.client() as client:
        assert select(client, "demo1", "SELECT 1 AS n", bearer(token)).num_rows == 1


def split_token(text):
    """(token, entry of the token file) of what `token create` prints."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("- "))
    words = [word for line in lines[:start] for word in line.split()]
    return max(words, key=len), "\n".join(lines[start:]) + "\n"


def test_an_expired_token_is_refused(tmp_path, new_server, authority):
    """Design 4.6: expiry."""
    import hashlib

    import pyarrow.flight as flight
    import yaml

    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaf = authority.issue(tmp_path / "tls")
    config = secured_config(tmp_path, leaf)
    entry = {
        "name": "old",
        "sha256": hashlib.sha256(b"an-old-token").hexdigest(),
        "permissions": ["read:*"],
        "expires_at": yesterday.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump([entry]))
    with running(new_server(config, tls=leaf)) as server, server.client() as client:
        with pytest.raises(flight.FlightUnauthenticatedError):
            select(client, "d", "SELECT 1", bearer("an-old-token"))


def test_an_ingester_is_retired_only_when_it_drained_or_loss_is_accepted(new_server):
    server = new_server()
    retire = ["catalog", "retire", "standalone", "--data-dir", server.data]
    with running(server), server.client() as client:
        put(client, "d", "t", ROWS)
        in_use = run_cli(*retire, "--accept-loss")
        assert in_use.returncode == 1 and "in use by another process" in in_use.stderr
        server.kill()

    refused = run_cli(*retire)
    assert refused.returncode == 1
    assert "standalone did not drain" in refused.stderr and "--accept-loss" in refused.stderr
    unknown = run_cli("catalog", "retire", "nobody", "--data-dir", server.data)
    assert unknown.returncode == 1 and "ingester not found: nobody" in unknown.stderr
    nowhere = run_cli("catalog", "retire", "standalone", "--data-dir", server.folder / "empty")
    assert nowhere.returncode == 1 and "there is no catalog" in nowhere.stderr
    done = run_cli(*retire, "--accept-loss")
    assert done.returncode == 0, done.stderr

    with running(server), server.client() as client:
        assert select(client, "d", "SELECT id FROM t").num_rows == 3, "its volume came back"
    assert run_cli(*retire).returncode == 0, "it drained"
