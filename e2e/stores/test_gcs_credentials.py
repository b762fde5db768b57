"""The identities of GCS with the real binary: keys, tokens of a machine, and both when they end."""

import time

import pytest
from harness import Server, put, running, wait_until
from kinds import settings
from table import DATABASE, batch, everything, in_files

TROUBLE = "can't store|can't flush|object store"


def machine(store, folder):
    """A server that has no key: it asks the metadata service of the machine for tokens."""
    config = settings(store, folder)
    del config["storage"]["object_store"]["secret_access_key_file"]
    server = Server(folder / "server", config)
    # A home without the credentials of a developer.
    server.environment = {"GCE_METADATA_HOST": f"127.0.0.1:{store.port}", "HOME": str(folder)}
    return server


def test_a_machine_gets_a_new_token_before_the_old_one_ends(tmp_path, gcs):
    gcs.identity.life_seconds = 5
    with running(machine(gcs, tmp_path)) as server, server.client() as client:
        rows = 0

        def tokens_ended():
            nonlocal rows
            put(client, DATABASE, "t", [batch(rows)])
            rows += 500
            wait_until(lambda: in_files(client) == rows, "the rows are in a file")
            ends = gcs.identity.handed_out.values()
            return sum(end < time.time() for end in list(ends)) >= 3

        wait_until(tokens_ended, "some tokens have ended", seconds=90)
        assert everything(client) == list(range(rows))
    assert not gcs.identity.refusals, "a token was used after its end"


@pytest.mark.parametrize("cause", ["unknown key", "expired"])
def test_a_key_that_is_refused_for_a_while_costs_no_row(tmp_path, gcs, cause):
    """It was taken from the account, or the clocks of the two sides went apart."""
    server = Server(tmp_path / "server", settings(gcs, tmp_path))
    server.expect_log(TROUBLE)
    with running(server), server.client() as client:
        put(client, DATABASE, "t", [batch(0)])
        wait_until(lambda: in_files(client) == 500, "the first rows are in a file")
        if cause == "expired":
            gcs.identity.clock = lambda: time.time() + 7200
        else:
            gcs.identity.distrust(gcs.account)
        put(client, DATABASE, "t", [batch(500)])
        wait_until(lambda: gcs.identity.refusals[cause] >= 3, "flushes are refused")
        put(client, DATABASE, "t", [batch(1000)])
        assert in_files(client) == 500
        gcs.identity.clock = time.time
        gcs.identity.trust(gcs.account)
        wait_until(lambda: in_files(client) == 1500, "all rows are in files", seconds=60)
        assert everything(client) == list(range(1500))
        assert "AuthenticationRequired" in server.log_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("AKIAEXAMPLE", "Unable to decode service account file"),
        ('{"private_key": "", "client_email": "a"}', "missing field `private_key_id`"),
    ],
    ids=["other cloud", "incomplete"],
)
def test_a_file_that_is_no_key_of_a_service_account_ends_the_start(tmp_path, gcs, content, problem):
    config = settings(gcs, tmp_path)
    (tmp_path / "key.json").write_text(content)
    server = Server(tmp_path / "server", config)
    server.launch()
    assert server.wait() != 0
    text = server.log_text()
    assert problem in text and f"secret_access_key_file {tmp_path / 'key.json'}" in text, text
