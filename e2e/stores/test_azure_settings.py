"""What only Azure has: keys in base64, signatures in URLs, an emulator, a path in endpoints."""

import pytest
from harness import Server, put, running, wait_until
from kinds import settings
from table import DATABASE, batch, everything, in_files

pytestmark = pytest.mark.parametrize("kind", ["azure"])


def test_a_file_that_is_no_key_of_the_account_ends_the_start(tmp_path, store):
    config = settings(store, tmp_path)
    (tmp_path / "key").write_text("AccountKey=c2VjcmV0")
    server = Server(tmp_path / "server", config)
    server.launch()
    assert server.wait() != 0
    text = server.log_text()
    assert f"secret_access_key_file {tmp_path / 'key'}" in text, text
    assert "c2VjcmV0" not in text


def test_a_shared_access_signature_is_in_no_message(tmp_path, store, proxy):
    """It is part of every URL, and the URL of a deletion that fails is told."""
    config = settings(store, tmp_path, f"http://127.0.0.1:{proxy.port}")
    del config["storage"]["object_store"]["access_key_id_file"]
    del config["storage"]["object_store"]["secret_access_key_file"]
    server = Server(tmp_path / "server", config)
    (server.environment,) = (
        e for e in store.environments(tmp_path) if "AZURE_STORAGE_SAS_KEY" in e
    )
    server.expect_log("object store")
    proxy.fail_next("refused", *store.deletion)
    with running(server):
        assert proxy.done["refused"] == 1
        text = server.log_text()
    assert "comp=batch" in text, "the URL was not told"
    signature = server.environment["AZURE_STORAGE_SAS_KEY"].rpartition("sig=")[2]
    assert "sig=…" in text and signature not in text, text


def test_the_endpoint_may_end_with_a_slash_and_wins_over_an_emulator(tmp_path, store):
    config = settings(store, tmp_path)
    config["storage"]["object_store"]["endpoint"] += "/"
    server = Server(tmp_path / "server", config)
    server.environment = {"AZURE_STORAGE_USE_EMULATOR": "true"}
    with running(server), server.client() as client:
        put(client, DATABASE, "t", [batch(0)])
        wait_until(lambda: in_files(client) == 500, "the rows are in a file")
        assert everything(client) == list(range(500))
