#!/usr/bin/env bash
# `make run`: a standalone server with real data in it, a first query, and what to type next.
#
#   FLIGHTCLUSTER_BIN    the flightcluster binary
#   FLIGHTCLUSTER_DATA   where the data is kept (default ~/.local/share/flightcluster)
#   FLIGHTCLUSTER_LISTEN, FLIGHTCLUSTER_ADMIN_LISTEN   other addresses than 127.0.0.1:17001, :17101
#
# Calls that end well are left out of the log, so that what is printed here can be read.
# The data set goes in through the server's own DoPut, and only when it is not there yet.
set -euo pipefail
# A job of its own for the server: Ctrl-C then stops the server alone, and `make` sees it exit 0.
set -m

server=${FLIGHTCLUSTER_BIN:?the flightcluster binary; run this by make run}
data=${FLIGHTCLUSTER_DATA:-${XDG_DATA_HOME:-$HOME/.local/share}/flightcluster}
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
database=demo table=weather rows=26115
start_seconds=60

mkdir -p "$data"
port_file=$(mktemp -u "$data/ports.XXXXXX")
"$server" standalone --data-dir "$data" --port-file "$port_file" \
    --listen "${FLIGHTCLUSTER_LISTEN:-127.0.0.1:17001}" \
    --admin-listen "${FLIGHTCLUSTER_ADMIN_LISTEN:-127.0.0.1:17101}" \
    --set log.filter=info,flightcluster_server::call=warn &
pid=$!

# However this script ends, the server ends with it, and by its own rules.
finish() {
    local code=$?
    trap '' INT TERM
    if kill -TERM "$pid" 2>/dev/null; then
        local server_code=0
        wait "$pid" || server_code=$?
        # 130 and 143: Ctrl-C or SIGTERM came before the server was in the foreground.
        case $code in 130 | 143) code=$server_code ;; esac
    fi
    rm -f "$port_file"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM
# The output may end first, as in a pipe to head.
trap 'exit 141' PIPE

fail() {
    echo "$1" >&2
    exit 1
}

# The server writes the file when it is ready.
for ((tenths = 0; ; tenths++)); do
    [ -s "$port_file" ] && break
    if ! kill -0 "$pid" 2>/dev/null; then
        code=0
        wait "$pid" || code=$?
        echo "the server stopped while starting" >&2
        exit "$((code == 0 ? 1 : code))"
    fi
    [ "$tenths" -lt $((start_seconds * 10)) ] || fail "the server was not ready after $start_seconds s"
    sleep 0.1
done
port=$(tr -d '\n' <"$port_file" | sed -E 's/.*"port": *([0-9]+).*/\1/')
uri=grpc://127.0.0.1:$port

query() { "$server" query --uri "$uri" --database "$database" "$@"; }
count() { query --format csv "SELECT count(*) FROM $table" 2>/dev/null | tail -n 1; }

have=$(count || true)
if [ "${have:-0}" -ge "$rows" ] 2>/dev/null; then
    echo "table $database.$table is there already with $have rows"
else
    # Fewer rows than the file has: an earlier load was interrupted.
    [ -z "$have" ] || query "DROP TABLE $table" >/dev/null
    "$server" put --uri "$uri" --database "$database" --table "$table" \
        "$examples/weather.parquet" || fail "loading examples/weather.parquet failed"
    echo "loaded $(count) rows into $database.$table"
fi

sql="SELECT origin, count(*) AS hours, round(avg(temp), 1) AS mean_temp_f, max(wind_gust) AS gust_mph
FROM weather GROUP BY origin ORDER BY origin"
printf '\n%s\n\n' "$sql"
query "$sql" || fail "the first query failed"

cat <<END

FlightCluster serves on $uri; data in $data; Ctrl-C stops it.

Command line:
  $server query --uri $uri --database $database \\
    "SELECT * FROM $table ORDER BY wind_gust DESC NULLS LAST LIMIT 5"

Python, Arrow Flight (pip install pyarrow):
import json, pyarrow.flight as flight
ticket = flight.Ticket(json.dumps({"database": "$database", "sql_query": "SELECT * FROM $table"}))
print(flight.connect("$uri").do_get(ticket).read_all())

Python, ADBC (pip install adbc-driver-flightsql pyarrow):
import adbc_driver_flightsql.dbapi as flightsql
options = {"adbc.flight.sql.rpc.call_header.database": "$database"}
with flightsql.connect("$uri", db_kwargs=options) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT origin, max(temp) FROM $table GROUP BY origin")
    print(cursor.fetch_arrow_table())

END

# In the foreground the server gets Ctrl-C itself and ends by its own rules.
code=0
if [ -t 0 ]; then
    fg %1 >/dev/null || code=$?
else
    wait "$pid" || code=$?
fi
exit "$code"
