"""Settings of a store, right and wrong: what the binary says at its start, and how it is cured."""

from certificates import Authority
from harness import Server, put, running, wait_until
from kinds import BUCKET, settings
from table import DATABASE, batch, everything, in_files

NOT_THERE = "not-there"


def test_a_private_authority_is_trusted_by_its_file(tmp_path, kind, serve):
    authority = Authority("authority of the store")
    leaf = authority.issue(tmp_path / "tls")
    with serve(kind, tmp_path / "store", leaf) as store:
        endpoint = f"https://127.0.0.1:{store.port}"
        config = settings(store, tmp_path, endpoint, ca_file=str(leaf.authority_file))
        with running(Server(tmp_path / "server", config)) as server, server.client() as client:
            put(client, DATABASE, "t", [batch(0)])
            wait_until(lambda: in_files(client) == 500, "the rows are in a file")
            assert everything(client) == list(range(500))
        assert any(key.endswith(".parquet") for key in store.server.objects(BUCKET))
        stranger = Authority("somebody else").issue(tmp_path / "stranger")
        config = settings(store, tmp_path, endpoint, ca_file=str(stranger.authority_file))
        server = Server(tmp_path / "refused", config)
        try:
            assert "ca_file" in complaint(server)
        finally:
            server.kill()


def test_a_bucket_that_is_missing_is_named_and_used_when_it_is_there(tmp_path, store):
    config = settings(store, tmp_path, bucket=NOT_THERE)
    text = cured(tmp_path, config, lambda: store.server.make_bucket(NOT_THERE))
    assert "the bucket exists" in text and f'{store.place} "{NOT_THERE}"' in text, text


def test_credentials_that_are_refused_are_named_and_used_when_they_are_known(tmp_path, store):
    credentials = store.credentials_of_a_stranger()
    config = settings(store, tmp_path, credentials=credentials)
    text = cured(tmp_path, config, lambda: store.accept(credentials))
    assert "the credentials" in text and store.place in text, text


def test_credentials_may_come_from_the_environment(tmp_path, store):
    config = settings(store, tmp_path)
    for setting in ("access_key_id_file", "secret_access_key_file"):
        config["storage"]["object_store"].pop(setting, None)
    for number, environment in enumerate(store.environments(tmp_path)):
        server = Server(tmp_path / f"server-{number}", config)
        server.environment = environment
        with running(server), server.client() as client:
            put(client, DATABASE, "t", [batch(0)])
            wait_until(lambda c=client: in_files(c) == 500, "the rows are in a file")
            assert everything(client) == list(range(500))


def test_an_endpoint_that_does_not_answer_is_named_and_used_when_it_does(tmp_path, store, proxy):
    proxy.outage = "reset"
    endpoint = f"http://127.0.0.1:{proxy.port}"
    text = cured(tmp_path, settings(store, tmp_path, endpoint), proxy.heal)
    assert "endpoint, region" in text and endpoint in text, text


def cured(folder, config, cure):
    """What a server said before the cure; after it the server takes rows without a restart."""
    server = Server(folder / "server", config)
    try:
        text = complaint(server)
        cure()
        wait_until(server.has_ports, "the server goes on when the store can be used", seconds=60)
        with server.client() as client:
            put(client, DATABASE, "t", [batch(0)])
            wait_until(lambda: in_files(client) == 500, "the rows are in a file")
        server.stop()
        return text
    finally:
        server.kill()


def complaint(server):
    """What a server that can't use its store says; it goes on trying."""
    server.expect_log("object store")

    def told():
        lines = server.log_lines()
        return [line for line in lines if "the object store can't be used" in line["message"]]

    server.launch()
    (line, *_) = wait_until(told, "the server says that the store can't be used", seconds=40)
    assert server.process.poll() is None, "it gave up"
    return line["error"]
