"""The unmodified InfluxDB 3 client against a cluster.

    influx.py CONNECTION DATABASE SQL [TOKEN]

Prints JSON: the rows that each mode of `query` gave, or the name of the exception it raised. The
client wraps what pyarrow raises; the inner name is the one that tells what the server answered.
"""

import json
import sys

import influxdb_client_3
from connection import Connection


def rows_of(client, sql, mode):
    answer = client.query(sql, mode=mode)
    if mode == "pandas":
        return answer.to_dict("records")
    if mode == "reader":
        answer = answer.read_all()
    return answer.to_pylist()


def main():
    folder, database, sql, *token = sys.argv[1:]
    connection = Connection(folder, *token)
    host = f"https://{connection.host}:{connection.port}"
    authority = str(connection.authority_file)
    result = {}
    with influxdb_client_3.InfluxDBClient3(
        host=host, token=connection.token, database=database, ssl_ca_cert=authority
    ) as client:
        for mode in ("all", "pandas", "reader"):
            try:
                result[mode] = rows_of(client, sql, mode)
            except Exception as error:
                result[mode] = type(error.__context__ or error).__name__
    print(json.dumps(result, default=str))


main()
