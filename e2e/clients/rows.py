"""Puts numbered rows into a table, or prints the answer to a statement.

    rows.py CONNECTION put DATABASE.TABLE FIRST COUNT
    rows.py CONNECTION query DATABASE SQL

Prints JSON: the number of acknowledged rows; the rows of the answer as objects.
"""

import json
import sys

import pyarrow as pa
from connection import Connection, put, select

BATCH_ROWS = 100


def main():
    folder, action, *words = sys.argv[1:]
    connection = Connection(folder)
    if action == "put":
        database, table = words[0].split(".")
        first, count = map(int, words[1:])
        ids = pa.array(range(first, first + count), pa.int64())
        rows = pa.table({"id": ids, "name": [f"row {each}" for each in ids.to_pylist()]})
        batches = rows.to_batches(max_chunksize=BATCH_ROWS)
        with connection.ingester() as client:
            result = put(client, connection.options(database), database, table, batches)
    else:
        database, sql = words
        with connection.querier() as client:
            result = select(client, connection.options(database), sql).to_pylist()
    print(json.dumps(result, default=str))


main()
