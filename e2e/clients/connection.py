"""How a client reaches a cluster: from the files of its connection Secret, as a pod mounts them."""

import contextlib
import json
import pathlib
import time

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
from adbc_driver_flightsql import DatabaseOptions

# Until kube-proxy has a new Service on every node, connections to it are refused.
REACHABLE_SECONDS = 30


class Connection:
    """The content of the Secret; `token` may be replaced by another one."""

    def __init__(self, folder, token=None):
        self.folder = pathlib.Path(folder)
        self.uri = self.read("uri")
        self.ingest_uri = self.read("ingest-uri")
        self.host, self.port = self.read("host"), int(self.read("port"))
        self.authority_file = self.folder / "ca.crt"
        self.token = token or self.read("token")

    def read(self, key):
        return (self.folder / key).read_text()

    def options(self, database, seconds=None):
        """Call options: who calls, the database of statements that name none, and the deadline."""
        headers = [(b"authorization", f"Bearer {self.token}".encode())]
        headers.append((b"database", database.encode()))
        return flight.FlightCallOptions(headers=headers, timeout=seconds)

    def querier(self):
        return self.open(self.uri)

    def ingester(self):
        return self.open(self.ingest_uri)

    def open(self, uri):
        """A pyarrow client whose first connection has been made."""
        client = flight.connect(uri, tls_root_certs=self.authority_file.read_bytes())
        call = self.options("default")
        end = time.monotonic() + REACHABLE_SECONDS
        while True:
            try:
                list(client.list_actions(call))
                return client
            except flight.FlightUnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    @contextlib.contextmanager
    def adbc(self, database):
        """A connection of the ADBC Flight SQL driver."""
        options = {
            DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {self.token}",
            DatabaseOptions.TLS_ROOT_CERTS.value: self.authority_file.read_text(),
            f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}database": database,
        }
        with adbc.connect(self.uri, db_kwargs=options, autocommit=True) as connection:
            yield connection


def put(client, options, database, table, batches):
    """DoPut by path; returns the rows whose durability was acknowledged, batch by batch."""
    descriptor = flight.FlightDescriptor.for_path(database, table)
    writer, reader = client.do_put(descriptor, batches[0].schema, options)
    rows = 0
    with writer:
        for batch in batches:
            writer.write_batch(batch)
            answer = json.loads(reader.read().to_pybytes())
            assert answer["durable"] is True and answer["rows"] == batch.num_rows, answer
            rows += answer["rows"]
        writer.done_writing()
        assert reader.read() is None, "more acknowledgements than batches"
    return rows


def select(client, options, sql):
    """The answer to a statement by GetFlightInfo and DoGet, as one table."""
    info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()), options)
    parts = [client.do_get(endpoint.ticket, options).read_all() for endpoint in info.endpoints]
    return pa.concat_tables(parts)
