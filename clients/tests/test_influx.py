"""Unmodified influxdb3-python and flightsql-dbapi."""

import flightsql
import influxdb_client_3
import pyarrow as pa
import pytest
from conftest import OTHER, READER, WRITER
from harness import bearer, put

ROWS = pa.table(
    {
        "time": pa.array([1_000, 2_000, 3_000], pa.timestamp("ns")),
        "city": ["Oslo", "Rome", "Oslo"],
        "temp": [1.5, 20.0, 2.5],
    }
)
SQL = "SELECT * FROM weather ORDER BY time"


@pytest.fixture
def influx(plain, client, database):
    put(client, database, "weather", ROWS)
    host = f"http://127.0.0.1:{plain.port}"
    with influxdb_client_3.InfluxDBClient3(host=host, token="any", database=database) as influx:
        yield influx


def test_mode_all_gives_a_table(influx):
    """S0-6, S0-15, S0-5."""
    assert influx.query(SQL).equals(ROWS)


def test_mode_pandas_gives_a_data_frame(influx):
    """S0-6."""
    frame = influx.query(SQL, mode="pandas")
    assert list(frame["city"]) == ["Oslo", "Rome", "Oslo"]


def test_mode_chunk_gives_batches(influx):
    """S0-6, S0-16."""
    stream = influx.query(SQL, mode="chunk")
    rows = 0
    try:
        while True:
            rows += stream.read_chunk().data.num_rows
    except StopIteration:
        pass
    assert rows == 3


def test_mode_reader_gives_a_reader(influx):
    """S0-6."""
    assert influx.query(SQL, mode="reader").read_all().num_rows == 3


def test_mode_schema_gives_the_schema(influx):
    """S0-6, S0-14."""
    assert influx.query(SQL, mode="schema").names == ["time", "city", "temp"]


@pytest.mark.parametrize(
    ("condition", "parameters", "rows"),
    [
        ("city = $city", {"city": "Oslo"}, 2),
        ("temp > $low AND city = $city", {"low": 2.0, "city": "Oslo"}, 1),
        ("temp > $low", {"low": 2}, 2),
        ("city = $city", {"city": "Oslo' OR '1'='1"}, 0),
    ],
)
def test_query_parameters_are_bound(influx, condition, parameters, rows):
    """S0-6, S3-5: ticket key params."""
    sql = f"SELECT * FROM weather WHERE {condition}"
    assert influx.query(sql, query_parameters=parameters).num_rows == rows


def test_queries_go_through_tls_with_a_token(secured, database):
    """S0-6 over TLS, S0-23: what the token may not read is denied."""
    with secured.client() as client:
        put(client, database, "weather", ROWS, bearer(WRITER))
    host = f"https://127.0.0.1:{secured.port}"
    authority = str(secured.tls.authority_file)

    def query(token):
        with influxdb_client_3.InfluxDBClient3(
            host=host, token=token, database=database, ssl_ca_cert=authority
        ) as influx:
            return influx.query(SQL)

    assert query(READER).equals(ROWS)
    refused = influxdb_client_3.InfluxDB3ClientQueryError
    with pytest.raises(refused, match="PERMISSION_DENIED"):
        query(OTHER)
    with pytest.raises(refused, match="UNAUTHENTICATED"):
        query("unknown")


@pytest.fixture
def dbapi(plain, client, database):
    put(client, database, "weather", ROWS)
    metadata = {"database": database}
    client = flightsql.FlightSQLClient("127.0.0.1", plain.port, insecure=True, metadata=metadata)
    yield client
    client.close()


def read_all(client, info):
    return client.do_get(info.endpoints[0].ticket).read_all()


def test_flightsql_dbapi_queries(dbapi):
    """S0-3."""
    assert read_all(dbapi, dbapi.execute(SQL)).equals(ROWS)


def test_flightsql_dbapi_cursor(dbapi):
    """S0-3: the DB-API layer of Superset."""
    cursor = flightsql.connect(dbapi).cursor()
    cursor.execute("SELECT city, temp FROM weather ORDER BY time")
    assert [tuple(row) for row in cursor.fetchall()] == [
        ("Oslo", 1.5),
        ("Rome", 20.0),
        ("Oslo", 2.5),
    ]


def test_flightsql_dbapi_updates(dbapi):
    """S3-20."""
    assert dbapi.execute_update("INSERT INTO weather SELECT * FROM weather") == 3
    assert read_all(dbapi, dbapi.execute("SELECT count(*) AS n FROM weather"))["n"][0].as_py() == 6
    dbapi.execute_update("CREATE TABLE made (id BIGINT NOT NULL, name TEXT)")
    assert dbapi.execute_update("INSERT INTO made VALUES (1, 'a'), (2, NULL)") == 2
    assert read_all(dbapi, dbapi.execute("SELECT count(name) AS n FROM made"))["n"][0].as_py() == 1
    dbapi.execute_update("DROP TABLE made")
    with pytest.raises(pa.ArrowKeyError):
        dbapi.execute("SELECT * FROM made")


def test_flightsql_dbapi_sees_catalogs_schemas_and_tables(dbapi, database):
    """S0-2."""
    assert database in read_all(dbapi, dbapi.get_catalogs())["catalog_name"].to_pylist()
    schemas = read_all(dbapi, dbapi.get_db_schemas(catalog=database))
    assert "public" in schemas["db_schema_name"].to_pylist()
    tables = read_all(dbapi, dbapi.get_tables(catalog=database, include_schema=True))
    row = next(row for row in tables.to_pylist() if row["table_name"] == "weather")
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    assert schema.names == ["time", "city", "temp"]


def test_flightsql_dbapi_finds_the_sql_info_superset_needs(dbapi):
    """Facts flightsql 1e: 0, 2, 3 and 504 are required."""
    info = read_all(dbapi, dbapi.get_sql_info([0, 2, 3, 504]))
    assert sorted(info["info_name"].to_pylist()) == [0, 2, 3, 504]


def test_flightsql_dbapi_prepares(dbapi):
    """S0-4."""
    with dbapi.prepare(SQL) as statement:
        assert read_all(dbapi, statement.execute(None)).num_rows == 3
