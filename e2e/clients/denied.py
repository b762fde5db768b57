"""What a holder of a token may do.

    denied.py CONNECTION DATABASE TABLE TOKEN

Tries to read the table, to write into it and to drop it, and to read it without any token. Prints
JSON: "done" or the name of the exception for each.
"""

import json
import sys

import pyarrow as pa
import pyarrow.flight as flight
from connection import Connection, put, select


def outcome(call):
    try:
        call()
        return "done"
    except (flight.FlightError, pa.ArrowException) as error:
        return type(error).__name__


def main():
    folder, database, table, token = sys.argv[1:]
    connection = Connection(folder)
    batches = [pa.record_batch({"id": [0], "name": ["from a test of rights"]})]
    count = f"SELECT count(*) AS n FROM {table}"
    with connection.querier() as querier, connection.ingester() as ingester:
        connection.token = token
        options = connection.options(database)
        nobody = flight.FlightCallOptions(headers=[(b"database", database.encode())])
        result = {
            "read": outcome(lambda: select(querier, options, count)),
            "write": outcome(lambda: put(ingester, options, database, table, batches)),
            "drop": outcome(lambda: select(querier, options, f"DROP TABLE {table}")),
            "anonymous": outcome(lambda: select(querier, nobody, count)),
        }
    print(json.dumps(result))


main()
