"""Puts numbered rows into a table, or prints the answer to a statement.

    rows.py CONNECTION put DATABASE.TABLE FIRST COUNT URI
    rows.py CONNECTION query DATABASE SQL URI

URI is the address of one pod, or empty for that of the connection.

Prints JSON: the number of acknowledged rows; the rows of the answer as objects.
"""

import json
import sys

import pyarrow as pa
from connection import Connection, put, select

BATCH_ROWS = 100


def main():
    folder, action, *words, uri = sys.argv[1:]
    connection = Connection(folder)
    if action == "put":
        database, table = words[0].split(".")
        first, count = map(int, words[1:])
        ids = pa.array(range(first, first + count), pa.int64())
        rows = pa.table({"id": ids, "name": [f"row {each}" for each in ids.to_pylist()]})
        batches = rows.to_batches(max_chunksize=BATCH_ROWS)
        with connection.open(uri or connection.ingest_uri) as client:
            result = put(client, connection.options(database), database, table, batches)
    else:
        database, sql = words
        with connection.open(uri or connection.uri) as client:
            result = select(client, connection.options(database), sql).to_pylist()
    print(json.dumps(result, default=str))


main()
