"""Fixtures: servers that several tests share, and clients of them.

A test that changes a server (restart, kill, new certificates) starts its own with `new_server`.
Shared servers are kept apart by database: `database` is a fresh name for every test.
"""

import contextlib
import hashlib
import itertools

import adbc_driver_flightsql.dbapi as adbc
import pytest
import yaml
from adbc_driver_flightsql import DatabaseOptions
from certificates import Authority
from cgroup import SMALL_POD_BYTES, is_missing, memory_group
from harness import Server, running

# What a holder of each token may do; the databases are patterns.
TOKENS = {
    "admin-token-of-the-tests": ["admin:*"],
    "writer-token-of-the-tests": ["write:*", "read:*"],
    "reader-token-of-the-tests": ["read:*"],
    "other-token-of-the-tests": ["read:elsewhere*", "write:elsewhere*"],
}
ADMIN, WRITER, READER, OTHER = TOKENS


def token_file(path, tokens):
    """Writes a token file whole, as a Secret mount would be replaced."""
    entries = [
        {
            "name": f"token-{number}",
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "permissions": permissions,
        }
        for number, (token, permissions) in enumerate(tokens.items())
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(entries))
    fresh.rename(path)
    return path


def secured_config(folder, leaf):
    """Settings of a server with TLS and tokens that looks at both files often."""
    return {
        "tls": {
            "certificate_file": str(leaf.certificate_file),
            "key_file": str(leaf.key_file),
            "reload_interval": "100ms",
        },
        "auth": {
            "mode": "token",
            "token_file": str(token_file(folder / "tokens.yaml", TOKENS)),
            "reload_interval": "100ms",
        },
    }


@pytest.fixture(scope="session")
def authority():
    return Authority()


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A server as `flightcluster standalone` starts it with no configuration."""
    with running(Server(tmp_path_factory.mktemp("plain"))) as server:
        yield server


@pytest.fixture(scope="session")
def secured(tmp_path_factory, authority):
    """A server with TLS and tokens."""
    folder = tmp_path_factory.mktemp("secured")
    leaf = authority.issue(folder / "tls")
    with running(Server(folder, secured_config(folder, leaf), tls=leaf)) as server:
        yield server


@pytest.fixture
def new_server(tmp_path):
    """Makes servers of this test alone; those still running at its end are killed."""
    servers = []

    def make(config=None, tls=None):
        server = Server(tmp_path / f"server-{len(servers)}", config, tls)
        servers.append(server)
        return server

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
def small_pod():
    """A control group with the memory of a small pod."""
    try:
        made = memory_group(SMALL_POD_BYTES)
        group = made.__enter__()
    except OSError as error:
        is_missing(error)
    yield group
    made.__exit__(None, None, None)


numbers = itertools.count()


@pytest.fixture
def database():
    """The name of a database that no other test uses."""
    return f"db{next(numbers)}"


@pytest.fixture
def client(plain):
    with plain.client() as client:
        yield client


@pytest.fixture
def connect_adbc():
    """Opens ADBC connections to a server; `database` rides in a header of every call."""
    with contextlib.ExitStack() as stack:

        def connect(server, database, token=None):
            options = {f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}database": database}
            if token:
                options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
            if server.tls:
                authority = server.tls.authority_pem.decode()
                options[DatabaseOptions.TLS_ROOT_CERTS.value] = authority
            connection = adbc.connect(server.uri, db_kwargs=options, autocommit=True)
            return stack.enter_context(connection)

        yield connect


@pytest.fixture
def connection(connect_adbc, plain, database):
    return connect_adbc(plain, database)
