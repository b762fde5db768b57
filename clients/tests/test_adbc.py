"""The ADBC Flight SQL driver (the Go implementation), through its Python DB-API."""

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import AdbcStatusCode
from harness import put

ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None], "value": [0.5, None, 2.5]})


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


@pytest.fixture
def table(cursor):
    """A table `t` with the rows of ROWS."""
    cursor.adbc_ingest("t", ROWS, mode="create")
    return "t"


def fetch(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetch_arrow_table()


def failure(call):
    """The status code and text of an ADBC error."""
    with pytest.raises(adbc_driver_manager.Error) as caught:
        call()
    return caught.value.status_code, str(caught.value)


def test_a_select_without_a_table(cursor):
    """S0-1."""
    assert fetch(cursor, "SELECT 1 AS one, 'x' AS two").to_pydict() == {"one": [1], "two": ["x"]}


def test_a_select_over_a_table(cursor, table):
    """S0-3."""
    assert fetch(cursor, "SELECT * FROM t ORDER BY id").equals(ROWS)


def test_an_empty_result_has_its_schema(cursor, table):
    result = fetch(cursor, "SELECT id, name FROM t WHERE id > 99")
    assert result.num_rows == 0
    assert result.schema.names == ["id", "name"]


@pytest.mark.parametrize("placeholder", ["?", "$1"])
def test_one_statement_runs_with_several_bindings(cursor, table, placeholder):
    """S0-4: prepared once, bound twice."""
    sql = f"SELECT name FROM t WHERE id = {placeholder}"
    assert fetch(cursor, sql, (1,))["name"].to_pylist() == ["a"]
    assert fetch(cursor, sql, (2,))["name"].to_pylist() == ["b"]


def test_parameters_of_several_types_keep_their_values(cursor, table):
    """S0-4."""
    sql = "SELECT count(*) AS n FROM t WHERE id = ? AND name = ? AND value < ?"
    assert fetch(cursor, sql, (1, "a", 0.75))["n"].to_pylist() == [1]
    assert fetch(cursor, sql, (1, "a' OR 'a'='a", 0.75))["n"].to_pylist() == [0]


def test_a_prepared_statement_tells_its_schemas(cursor, table):
    """The parameters' schema from prepare, the result's from the statement."""
    parameters = cursor.adbc_prepare("SELECT name FROM t WHERE id = ?")
    assert len(parameters) == 1
    assert cursor.adbc_execute_schema("SELECT name, id FROM t").names == ["name", "id"]


def test_a_missing_binding_is_the_callers_mistake(cursor, table):
    code, text = failure(lambda: fetch(cursor, "SELECT * FROM t WHERE id = ?"))
    assert code == AdbcStatusCode.INVALID_ARGUMENT, text


def test_ingest_create_makes_the_table(cursor):
    """S3-20."""
    assert cursor.adbc_ingest("made", ROWS, mode="create") == 3
    assert fetch(cursor, "SELECT * FROM made ORDER BY id").equals(ROWS)


def test_ingest_create_refuses_a_table_that_exists(cursor, table):
    """S3-20."""
    code, text = failure(lambda: cursor.adbc_ingest("t", ROWS, mode="create"))
    assert code == AdbcStatusCode.ALREADY_EXISTS, text
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [3]


def test_ingest_append_adds_rows(cursor, table):
    """S3-20."""
    assert cursor.adbc_ingest("t", ROWS, mode="append") == 3
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [6]


def test_ingest_append_refuses_a_table_that_is_missing(cursor):
    """S3-20."""
    code, text = failure(lambda: cursor.adbc_ingest("nowhere", ROWS, mode="append"))
    assert code == AdbcStatusCode.NOT_FOUND, text
    assert "nowhere" in text


def test_ingest_append_refuses_other_types(cursor, table):
    """Design 4.3: names the column; nothing of the stream is kept."""
    other = pa.table({"id": ["text"]})
    code, text = failure(lambda: cursor.adbc_ingest("t", other, mode="append"))
    assert code == AdbcStatusCode.INVALID_ARGUMENT, text
    assert "id" in text
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [3]


def test_ingest_replace_leaves_only_the_new_rows(cursor, table):
    """S3-20; the new rows may have another schema."""
    other = pa.table({"key": ["x", "y"]})
    assert cursor.adbc_ingest("t", other, mode="replace") == 2
    assert fetch(cursor, "SELECT * FROM t ORDER BY key").equals(other)


def test_ingest_create_append_does_both(cursor):
    """S3-20."""
    for total in (3, 6):
        assert cursor.adbc_ingest("both", ROWS, mode="create_append") == 3
        assert fetch(cursor, "SELECT count(*) AS n FROM both")["n"].to_pylist() == [total]


def test_ingest_of_many_batches_counts_every_row(cursor):
    """S3-20: one final count for the whole stream."""
    schema = pa.schema([("n", pa.int64())])
    batches = (pa.record_batch({"n": range(i * 1000, (i + 1) * 1000)}) for i in range(50))
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    assert cursor.adbc_ingest("many", reader, mode="create") == 50_000
    result = fetch(cursor, "SELECT count(*) AS n, sum(n) AS s, count(DISTINCT n) AS d FROM many")
    assert result.to_pylist() == [{"n": 50_000, "s": 50_000 * 49_999 // 2, "d": 50_000}]


def test_ingest_of_no_rows_makes_an_empty_table(cursor):
    """S3-20. Without any batch the driver sends nothing at all, so this is a batch of no rows."""
    empty = pa.RecordBatchReader.from_batches(
        ROWS.schema, [pa.RecordBatch.from_pylist([], schema=ROWS.schema)]
    )
    assert cursor.adbc_ingest("empty", empty, mode="create") == 0
    assert fetch(cursor, "SELECT * FROM empty").schema.names == ROWS.schema.names


def test_ingest_into_a_named_catalog_and_schema(cursor, connect_adbc, plain, database):
    """Design 4.1: catalog = database, schema = public."""
    other = f"{database}_other"
    cursor.adbc_ingest("t", ROWS, mode="create", catalog_name=other, db_schema_name="public")
    with connect_adbc(plain, other).cursor() as there:
        assert fetch(there, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [3]


def test_objects_list_catalog_schema_table_and_columns(connection, database, table):
    """S0-2: what database browsers show."""
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    catalog = next(entry for entry in objects if entry["catalog_name"] == database)
    schemas = {entry["db_schema_name"]: entry for entry in catalog["catalog_db_schemas"]}
    assert {"public", "information_schema"} <= schemas.keys()
    tables = {entry["table_name"]: entry for entry in schemas["public"]["db_schema_tables"]}
    columns = [column["column_name"] for column in tables["t"]["table_columns"]]
    assert columns == ["id", "name", "value"]


@pytest.mark.parametrize("depth", ["catalogs", "db_schemas", "tables", "all"])
def test_objects_answer_at_every_depth(connection, database, table, depth):
    """S0-2."""
    objects = connection.adbc_get_objects(depth=depth, catalog_filter=database).read_all()
    assert objects["catalog_name"].to_pylist() == [database]


def test_objects_follow_filters(connection, cursor, database, table):
    """S0-2: LIKE patterns for table names."""
    cursor.adbc_ingest("other", ROWS, mode="create")
    found = connection.adbc_get_objects(
        depth="tables", catalog_filter=database, table_name_filter="oth%"
    )
    (catalog,) = found.read_all().to_pylist()
    names = [
        entry["table_name"]
        for schema in catalog["catalog_db_schemas"]
        for entry in schema["db_schema_tables"]
    ]
    assert names == ["other"]


def test_the_schema_of_a_table(connection, table):
    """S0-2."""
    assert connection.adbc_get_table_schema("t").equals(ROWS.schema)


def test_the_schema_of_a_missing_table_is_not_found(connection, table):
    """S0-2."""
    code, text = failure(lambda: connection.adbc_get_table_schema("nowhere"))
    assert code == AdbcStatusCode.NOT_FOUND, text


def test_table_types(connection):
    """S0-2."""
    types = connection.adbc_get_table_types()
    assert types and all(types)


def test_driver_info_names_the_server(connection):
    """S0-2: SqlInfo."""
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "FlightCluster"
    assert info["vendor_version"]
    assert info["vendor_arrow_version"]


def test_create_insert_and_drop_by_execute(cursor):
    """Issue section 3: DDL and INSERT on the path that DB-API uses for everything."""
    cursor.execute("CREATE TABLE made (id BIGINT, name VARCHAR)")
    cursor.execute("INSERT INTO made VALUES (1, 'a'), (2, 'b')")
    cursor.fetchall()
    assert fetch(cursor, "SELECT * FROM made ORDER BY id")["name"].to_pylist() == ["a", "b"]
    cursor.execute("DROP TABLE made")
    cursor.fetchall()
    code, text = failure(lambda: fetch(cursor, "SELECT * FROM made"))
    assert code == AdbcStatusCode.NOT_FOUND, text


def test_an_insert_by_execute_happens_exactly_once(cursor, table):
    """Facts flightsql 6.16: GetFlightInfo and DoGet of one statement must not both insert."""
    cursor.execute("INSERT INTO t VALUES (4, 'd', 4.5)")
    cursor.fetchall()
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [4]


def test_execute_update_gives_the_number_of_rows(connection, cursor, table):
    """S3-20: CommandStatementUpdate."""
    # A statement that was used for bulk ingest stays one in this driver.
    with connection.cursor() as fresh:
        fresh.adbc_statement.set_sql_query("INSERT INTO t SELECT id + 10, name, value FROM t")
        assert fresh.adbc_statement.execute_update() == 3
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [6]


def test_executemany_binds_every_row(cursor, table):
    """S3-20, S0-4: a prepared update, one binding with several rows."""
    cursor.executemany("INSERT INTO t VALUES (?, ?, ?)", [(4, "d", 1.0), (5, "e", 2.0)])
    assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [5]


def test_a_bound_batch_is_inserted_whole_through_the_query_path(cursor, table):
    """S0-4: execute() with several rows goes by GetFlightInfo and DoGet."""
    more = pa.record_batch({"id": [4, 5, 6], "name": ["d", "e", "f"], "value": [1.0, 2.0, 3.0]})
    cursor.execute("INSERT INTO t VALUES (?, ?, ?)", more)
    cursor.fetchall()
    assert fetch(cursor, "SELECT sum(id) AS s FROM t")["s"].to_pylist() == [21]


def test_a_null_among_bound_values_is_no_surprise(cursor, table):
    """S0-4: the announced schema holds for every row of parameters."""
    cursor.execute("SELECT ? AS v", pa.record_batch({"v": pa.array([5, None, 7], pa.int64())}))
    assert cursor.fetch_arrow_table()["v"].to_pylist() == [5, None, 7]


def test_a_query_result_becomes_a_table(cursor, table):
    """Issue section 3: CREATE TABLE AS."""
    cursor.execute("CREATE TABLE copy AS SELECT id, value FROM t WHERE value IS NOT NULL")
    cursor.fetchall()
    assert fetch(cursor, "SELECT * FROM copy ORDER BY id")["id"].to_pylist() == [1, 3]


def test_partitions_can_be_read_one_by_one(cursor, table):
    """S3-6."""
    partitions, schema = cursor.adbc_execute_partitions("SELECT id FROM t ORDER BY id")
    assert schema.names == ["id"]
    ids = []
    for partition in partitions:
        cursor.adbc_read_partition(partition)
        ids += cursor.fetch_arrow_table()["id"].to_pylist()
    assert ids == [1, 2, 3]


def test_a_path_put_is_seen_through_adbc(cursor, client, database):
    """S0-1: one port, one set of tables for both protocols."""
    put(client, database, "both", ROWS)
    assert fetch(cursor, "SELECT * FROM both ORDER BY id").equals(ROWS)


def test_a_wide_result_stays_below_the_receive_limit(cursor):
    """Facts flightsql 6.2: the driver takes at most 16 MiB in one message."""
    sql = "SELECT repeat('x', 10000) AS t FROM generate_series(1, 5000)"
    assert fetch(cursor, sql).num_rows == 5000


def test_the_issues_sample_query_runs_as_written(cursor):
    """S0-13: a column named delete, an interval, an order by time."""
    cursor.execute('CREATE TABLE numbers (time TIMESTAMP, "delete" BIGINT)')
    cursor.execute("INSERT INTO numbers VALUES (now(), 1)")
    cursor.fetchall()
    result = fetch(
        cursor,
        "SELECT time, delete FROM numbers WHERE time >= now() - INTERVAL '90 days' ORDER BY time",
    )
    assert result.num_rows == 1


def test_errors_carry_the_request_id(cursor):
    """S1-2, S3-26: the driver shows every trailer as a detail."""
    with pytest.raises(adbc_driver_manager.Error) as caught:
        fetch(cursor, "SELEC 1")
    # The driver gives some names as text and some as bytes.
    details = {str(name).strip("b'"): value for name, value in caught.value.details}
    assert caught.value.status_code == AdbcStatusCode.INVALID_ARGUMENT
    assert details.get("x-request-id")
    assert details.get("x-fc-code")


def test_a_session_keeps_its_catalog(plain, client, database):
    """Design 4.1: the option catalog, kept in a cookie, is the database of names without one."""
    put(client, database, "t", ROWS)
    options = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
    with adbc.connect(plain.uri, db_kwargs=options, autocommit=True) as connection:
        connection.adbc_current_catalog = database
        assert connection.adbc_current_catalog == database
        assert connection.adbc_current_db_schema == "public"
        with connection.cursor() as cursor:
            assert fetch(cursor, "SELECT count(*) AS n FROM t")["n"].to_pylist() == [3]
