"""Pods without a key: the token that Kubernetes gives them becomes credentials that end."""

import contextlib
import time

import pytest
from azurite import ACCOUNT
from certificates import Authority
from harness import Server, put, running, wait_until
from kinds import settings
from session_front import SessionFront
from table import DATABASE, batch, everything, in_files
from token_service import Entra, Sts

CREDENTIALS = ("access_key_id_file", "secret_access_key_file")


@contextlib.contextmanager
def amazon(serve, folder, leaf):
    """The service, and a server that reaches the store through the front that knows its keys."""
    with serve("s3", folder / "store") as store:
        service = Sts(folder / "token", leaf)
        front = SessionFront(store.server, service)
        try:
            endpoint = f"http://127.0.0.1:{front.port}"
            config = settings(store, folder, endpoint, ca_file=str(leaf.authority_file))
            yield service, without_key(folder, config, service.environment())
        finally:
            front.stop()
            service.stop()


@contextlib.contextmanager
def azure(serve, folder, leaf):
    """Azurite looks at the bearer tokens itself, and takes them over TLS only."""
    with serve("azure", folder / "store", leaf) as store:
        service = Entra(folder / "token", leaf)
        try:
            endpoint = f"https://127.0.0.1:{store.port}"
            config = settings(store, folder, endpoint, ca_file=str(leaf.authority_file))
            account = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT}
            yield service, without_key(folder, config, account | service.environment())
            assert " 403 " not in store.server.log.read_text(), "a token was used after its end"
        finally:
            service.stop()


def without_key(folder, config, environment):
    for setting in CREDENTIALS:
        del config["storage"]["object_store"][setting]
    server = Server(folder / "server", config)
    server.environment = environment
    return server


@pytest.fixture(params=[amazon, azure], ids=lambda cloud: cloud.__name__)
def identity(request, serve, tmp_path):
    leaf = Authority("authority of the cloud").issue(tmp_path / "tls")
    with request.param(serve, tmp_path, leaf) as (service, server):
        yield service, server


def test_a_pod_gets_new_credentials_before_the_old_ones_end(identity):
    service, server = identity
    service.life_seconds = 5
    with running(server), server.client() as client:
        rows = 0

        def credentials_ended():
            nonlocal rows
            service.replace_token()
            put(client, DATABASE, "t", [batch(rows)])
            rows += 500
            wait_until(lambda: in_files(client) == rows, "the rows are in a file")
            ends = list(service.handed_out.values())
            return sum(end < time.time() for end in ends) >= 2 and len(service.taken) >= 3

        wait_until(credentials_ended, "some credentials have ended", seconds=60)
        assert everything(client) == list(range(rows))
    assert not service.refusals


def test_a_pod_that_is_not_trusted_for_a_while_is_told_and_loses_no_row(identity):
    service, server = identity
    server.expect_log("object store|can't store|can't flush|job of upkeep failed")
    # New credentials are needed all the time.
    service.life_seconds = 4
    service.is_willing = False

    def told():
        return [line for line in server.log_lines() if "can't be used" in line["message"]]

    server.launch()
    try:
        (line, *_) = wait_until(told, "the server says that the store can't be used", seconds=40)
        assert "the credentials" in line["error"], line
        service.is_willing = True
        wait_until(server.has_ports, "the server goes on", seconds=60)
        with server.client() as client:
            put(client, DATABASE, "t", [batch(0)])
            wait_until(lambda: in_files(client) == 500, "the first rows are in a file")
            service.is_willing = False
            ends = max(service.handed_out.values())
            wait_until(lambda: ends < time.time(), "the last credentials have ended")
            put(client, DATABASE, "t", [batch(500)])
            before = service.refusals["not trusted"]
            enough = before + 3
            wait_until(lambda: service.refusals["not trusted"] >= enough, "flushes are refused")
            assert in_files(client) == 500
            service.is_willing = True
            wait_until(lambda: in_files(client) == 1000, "all rows are in files", seconds=60)
            assert everything(client) == list(range(1000))
        server.stop()
    finally:
        server.kill()
    assert set(service.refusals) == {"not trusted"}
