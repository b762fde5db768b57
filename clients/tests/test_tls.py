"""TLS and identity as clients meet them: mismatches, wrong authority, rotation, token reload."""

import base64
import contextlib
import json
import socket
import ssl

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from certificates import Authority
from conftest import ADMIN, OTHER, READER, WRITER, secured_config, token_file
from harness import bearer, headers, put, running, select, wait_until

ROWS = pa.table({"id": [1, 2, 3]})


def test_a_client_with_the_authority_is_served(secured, database):
    """S2-10, S4-46."""
    with secured.client() as client:
        assert select(client, database, "SELECT 1 AS n", bearer(READER)).num_rows == 1


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Token", "token"])
def test_the_scheme_of_a_token_is_case_insensitive(secured, database, scheme):
    """S4-12, design 4.6."""
    options = headers(("authorization", f"{scheme} {READER}"))
    with secured.client() as client:
        assert select(client, database, "SELECT 1 AS n", options).num_rows == 1


@pytest.mark.parametrize("padded", [True, False])
def test_basic_takes_the_token_as_password(secured, database, padded):
    """Design 4.6: Go clients send no padding."""
    text = base64.b64encode(f"anyone:{READER}".encode()).decode()
    options = headers(("authorization", f"Basic {text if padded else text.rstrip('=')}"))
    with secured.client() as client:
        assert select(client, database, "SELECT 1 AS n", options).num_rows == 1


def test_a_handshake_returns_a_usable_bearer(secured, database):
    """S2-13."""
    with secured.client() as client:
        pair = client.authenticate_basic_token("anyone", READER)
        options = flight.FlightCallOptions(headers=[pair])
        assert select(client, database, "SELECT 1 AS n", options).num_rows == 1
        with pytest.raises(flight.FlightUnauthenticatedError):
            client.authenticate_basic_token("anyone", "wrong")


def test_adbc_over_tls_with_a_token(secured, connect_adbc, database):
    """S2-10: the Go stack."""
    connection = connect_adbc(secured, database, WRITER)
    with connection.cursor() as cursor:
        cursor.adbc_ingest("t", ROWS, mode="create")
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (3,)


def test_a_wrong_authority_is_refused_by_the_client(secured, database):
    """Requirements section 7: the string users search for."""
    other = Authority("another authority").authority_pem
    secured.expect_log("TLS handshake failed")
    with secured.client(tls_root_certs=other) as client:
        with pytest.raises(flight.FlightUnavailableError, match="(?i)certificate.verify.failed"):
            select(client, database, "SELECT 1", bearer(READER))


def test_a_plaintext_client_on_the_tls_port_is_explained(new_server, authority, tmp_path):
    """S1-10, S1-15, S2-10: refused; the log names the cure and a counter moves."""
    leaf = authority.issue(tmp_path / "tls")
    server = new_server(secured_config(tmp_path, leaf), tls=leaf).start()
    server.expect_log("plaintext")
    plaintext = flight.connect(f"grpc://127.0.0.1:{server.port}")
    with plaintext, pytest.raises(flight.FlightUnavailableError):
        select(plaintext, "d", "SELECT 1")
    wait_until(lambda: "plaintext" in server.log_text(), "the log explains it")
    assert server.metric("plaintext_on_tls_total") >= 1
    server.stop()


def test_a_tls_client_on_the_plaintext_port_is_explained(new_server, authority):
    """S1-10: the other way round."""
    server = new_server().start()
    server.expect_log("tls")
    client = flight.connect(
        f"grpc+tls://127.0.0.1:{server.port}", tls_root_certs=authority.authority_pem
    )
    with client, pytest.raises(flight.FlightUnavailableError, match="(?i)handshake"):
        select(client, "d", "SELECT 1")
    wait_until(lambda: "TLS" in server.log_text(), "the log explains it")
    assert server.metric("tls_on_plaintext_total") >= 1
    server.stop()


def served_serial(server):
    """The serial number of the certificate a new connection gets."""
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        with context.wrap_socket(raw) as connection:
            return x509.load_der_x509_certificate(connection.getpeercert(True)).serial_number


def test_a_new_certificate_is_served_without_a_restart(new_server, authority, tmp_path):
    """Design 4.6: new connections get the new certificate, open ones go on."""
    leaf = authority.issue(tmp_path / "tls")
    server = new_server(secured_config(tmp_path, leaf), tls=leaf).start()
    with server.client() as client:
        select(client, "d", "SELECT 1", bearer(READER))
        assert served_serial(server) == leaf.serial
        renewed = authority.issue(tmp_path / "tls")
        assert renewed.serial != leaf.serial
        wait_until(lambda: served_serial(server) == renewed.serial, "the new one is served")
        select(client, "d", "SELECT 1", bearer(READER))
    with server.client() as client:
        select(client, "d", "SELECT 1", bearer(READER))
    server.stop()


def test_a_broken_certificate_file_keeps_the_old_certificate(new_server, authority, tmp_path):
    """Design 4.6: a half-written Secret must not take the service down."""
    leaf = authority.issue(tmp_path / "tls")
    server = new_server(secured_config(tmp_path, leaf), tls=leaf).start()
    server.expect_log("certificate|tls")
    leaf.certificate_file.write_text("no certificate at all")
    wait_until(
        lambda: any(line.get("level") in ("WARN", "ERROR") for line in server.log_lines()),
        "the log says that the file is broken",
    )
    assert served_serial(server) == leaf.serial
    server.stop()


def test_tokens_come_and_go_without_a_restart(new_server, authority, tmp_path):
    """S4-11, S2-14: on a channel that stays open."""
    leaf = authority.issue(tmp_path / "tls")
    config = secured_config(tmp_path, leaf)
    server = new_server(config, tls=leaf).start()
    path = tmp_path / "tokens.yaml"

    def is_accepted(client, token):
        try:
            select(client, "d", "SELECT 1", bearer(token))
            return True
        except flight.FlightUnauthenticatedError:
            return False

    with server.client() as client:
        assert is_accepted(client, READER)
        assert not is_accepted(client, "a-new-token-for-the-test")
        token_file(path, {"a-new-token-for-the-test": ["read:*"]})
        wait_until(lambda: is_accepted(client, "a-new-token-for-the-test"), "the new token works")
        assert not is_accepted(client, READER), "the old one is gone at the same moment"
    server.stop()


def test_a_broken_token_file_keeps_the_old_tokens(new_server, authority, tmp_path):
    """S4-11: a mistake in the file locks nobody out."""
    leaf = authority.issue(tmp_path / "tls")
    server = new_server(secured_config(tmp_path, leaf), tls=leaf).start()
    server.expect_log("token")
    (tmp_path / "tokens.yaml").write_text("- name: [")
    wait_until(
        lambda: any(line.get("level") in ("WARN", "ERROR") for line in server.log_lines()),
        "the log says that the file is broken",
    )
    with server.client() as client:
        select(client, "d", "SELECT 1", bearer(READER))
    server.stop()


def test_tokens_never_appear_in_the_log(secured, database):
    """Style invariant 7."""
    with secured.client() as client:
        put(client, database, "t", ROWS, bearer(WRITER))
        for token in (ADMIN, "a-wrong-secret-of-the-tests"):
            with contextlib.suppress(flight.FlightUnauthenticatedError):
                select(client, database, "SELECT 1", bearer(token))
    text = secured.log_text()
    assert "token-of-the-tests" not in text
    assert "a-wrong-secret" not in text


def test_mutual_tls_refuses_a_client_without_a_certificate(new_server, authority, tmp_path):
    """S4-47."""
    leaf = authority.issue(tmp_path / "tls")
    config = secured_config(tmp_path, leaf)
    config["tls"] |= {"client_ca_file": str(leaf.authority_file), "client_auth": "required"}
    with running(new_server(config, tls=leaf)) as server:
        # The client connects again behind our back, and may leave in the middle of that.
        server.expect_log("certificate|handshake eof")
        with server.client() as client, pytest.raises(flight.FlightUnavailableError):
            select(client, "d", "SELECT 1", bearer(READER))
        own = authority.issue(tmp_path / "client", "a client")
        with server.client(cert_chain=own.certificate_pem, private_key=own.key_pem) as client:
            select(client, "d", "SELECT 1", bearer(READER))


def test_who_may_write_is_told_where_to_put_rows_by_tls_and_nobody_else(
    new_server, authority, tmp_path
):
    """S3-24: the answer says nothing of tables, so it is the same with and without one."""
    leaf = authority.issue(tmp_path / "tls")
    config = secured_config(tmp_path, leaf) | {"server": {"advertise_host": "localhost"}}
    server = new_server(config, tls=leaf)
    server.start()
    descriptor = flight.FlightDescriptor.for_path("d", "t")

    def ask(*options):
        with server.client() as client:
            question = ("put-location", descriptor.serialize())
            (answer,) = client.do_action(question, *options)
        return json.loads(answer.body.to_pybytes())["locations"]

    with pytest.raises(flight.FlightUnauthenticatedError):
        ask()
    for token in (READER, OTHER):
        with pytest.raises(flight.FlightUnauthorizedError, match="write"):
            ask(bearer(token))
    (location,) = ask(bearer(WRITER))
    assert location == f"grpc+tls://localhost:{server.port}"
    with flight.connect(location, tls_root_certs=leaf.authority_pem) as direct:
        put(direct, "d", "t", ROWS, bearer(WRITER))
    assert ask(bearer(WRITER)) == [location]
