"""DELETE and TRUNCATE from clients: how many rows, which ones, and who may."""

import threading

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_manager import AdbcStatusCode
from harness import bearer, put, select

# Every put is a file soon, and every two files become one.
BUSY = {
    "ingest": {"flush_interval": "20ms", "flushed_grace": "1s"},
    "upkeep": {"interval": "20ms", "compaction_min_files": 2},
}
TABLE = pa.table({"id": range(10), "name": ["a", None] * 5})


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        cursor.adbc_ingest("t", TABLE, mode="create")
    # A statement that was used for bulk ingest stays one in this driver.
    with connection.cursor() as cursor:
        yield cursor


def update(connection, sql):
    """The number of rows; the cursor would not notice that its statement was changed below it."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_sql_query(sql)
        return cursor.adbc_statement.execute_update()


def ids(cursor):
    cursor.execute("SELECT id FROM t ORDER BY id")
    return cursor.fetch_arrow_table()["id"].to_pylist()


def test_a_delete_gives_the_number_of_rows_and_keeps_where_the_condition_is_null(
    connection, cursor
):
    """Issue section 4: CommandStatementUpdate with DELETE."""
    assert update(connection, "DELETE FROM t WHERE name <> 'b'") == 5
    assert ids(cursor) == [1, 3, 5, 7, 9]
    assert update(connection, "DELETE FROM t WHERE id > 100") == 0
    assert update(connection, "TRUNCATE TABLE t") == 5
    assert ids(cursor) == []


def test_a_prepared_delete_takes_each_binding(cursor):
    cursor.executemany("DELETE FROM t WHERE id = ?", [(2,), (3,), (77,)])
    assert ids(cursor) == [0, 1, 4, 5, 6, 7, 8, 9]


def test_a_delete_by_the_query_path_happens_too(cursor, client, database):
    """DB-API's execute() and JSON tickets send it as a query."""
    cursor.execute("DELETE FROM t WHERE id < 3")
    cursor.fetchall()
    select(client, database, "DELETE FROM t WHERE id > 7")
    assert ids(cursor) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t WHERE id IN (SELECT id FROM t)",
        "DELETE FROM t WHERE random() < 0.5",
        "DELETE FROM t LIMIT 2",
        "DELETE FROM t WHERE id = 1 RETURNING id",
    ],
)
def test_what_a_delete_does_not_take_is_said(connection, cursor, sql):
    with pytest.raises(adbc_driver_manager.Error, match="is not supported; ") as caught:
        update(connection, sql)
    assert caught.value.status_code == AdbcStatusCode.NOT_IMPLEMENTED
    assert len(ids(cursor)) == 10


def test_a_delete_needs_the_right_to_administer(secured, database):
    with secured.client() as client:
        admin = bearer("admin-token-of-the-tests")
        put(client, "db1", database, [pa.record_batch({"id": [1, 2]})], admin)
        for token in ("writer-token-of-the-tests", "reader-token-of-the-tests"):
            with pytest.raises(flight.FlightUnauthorizedError, match="PERMISSION_DENIED"):
                select(client, "db1", f"DELETE FROM {database}", bearer(token))
        select(client, "db1", f"DELETE FROM {database} WHERE id = 1", admin)
        assert select(client, "db1", f"SELECT id FROM {database}", admin)["id"].to_pylist() == [2]


def test_deletes_lose_and_double_nothing_while_rows_come_and_files_go(new_server, connect_adbc):
    """Issue section 4: with flushes, compaction and crashes at the same time."""
    server = new_server(BUSY)
    server.start()
    done, trouble, deleted = threading.Event(), [], []
    with server.client() as client:
        put(client, "d", "t", [pa.record_batch({"n": [-1]})])

    def remove():
        """All there is of a third of the rows, again and again."""
        try:
            with server.client() as client:
                connection = connect_adbc(server, "d")
                while not done.is_set():
                    last = select(client, "d", "SELECT max(n) AS n FROM t")["n"].to_pylist()[0]
                    which = f"n % 3 = 0 AND n <= {last}"
                    deleted.append(update(connection, f"DELETE FROM t WHERE {which}"))
                    sql = f"SELECT count(*) AS n FROM t WHERE {which}"
                    left = select(client, "d", sql)["n"].to_pylist()[0]
                    assert left == 0, f"{left} rows up to {last} are there after the delete"
        except Exception as error:
            trouble.append(error)

    def look():
        """The rows nobody deletes only become more, and none is there twice."""
        seen = 0
        try:
            with server.client() as client:
                while not done.is_set():
                    sql = "SELECT count(*) AS n, count(DISTINCT n) AS d FROM t WHERE n % 3 <> 0"
                    row = select(client, "d", sql).to_pylist()[0]
                    assert row["n"] == row["d"] and row["n"] >= seen, (row, seen)
                    seen = row["n"]
        except Exception as error:
            trouble.append(error)

    threads = [threading.Thread(target=remove), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    with server.client() as client:
        for first in range(0, 3000, 10):
            put(client, "d", "t", [pa.record_batch({"n": list(range(first, first + 10))})])
    done.set()
    for thread in threads:
        thread.join()
    assert not trouble, trouble
    kept = [n for n in range(-1, 3000) if n % 3 != 0]
    with server.client() as client:
        present = select(client, "d", "SELECT n FROM t ORDER BY n")["n"].to_pylist()
        assert [n for n in present if n % 3 != 0] == kept
        assert sum(deleted) + sum(n % 3 == 0 for n in present) == 1000
        causes = "SELECT count(*) AS n FROM system.compactions WHERE cause = "
        assert select(client, "d", causes + "'delete'")["n"].to_pylist()[0] > 0
        assert select(client, "d", causes + "'compaction'")["n"].to_pylist()[0] > 0
        select(client, "d", "DELETE FROM t WHERE n % 3 = 0")
    # What is deleted is not in the log either.
    server.kill()
    server.start()
    with server.client() as client:
        assert select(client, "d", "SELECT n FROM t ORDER BY n")["n"].to_pylist() == kept
    server.stop()
