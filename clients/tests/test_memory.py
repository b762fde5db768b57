"""Results and messages that are larger than the memory there is for them."""

import os

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest
from cgroup import SMALL_POD_BYTES
from harness import json_ticket, put, running, select

ROW_BYTES = 1 << 10
# Of the result; `RESULT_GIB=10` makes it twenty times the memory.
RESULT_BYTES = int(os.environ.get("RESULT_GIB", "0")) << 30 or 3 * SMALL_POD_BYTES
ROWS = RESULT_BYTES // ROW_BYTES
ENDLESS = (
    f"SELECT value AS n, repeat('0123456789abcdef', {ROW_BYTES // 16}) AS text "
    f"FROM generate_series(1, {ROWS})"
)


def test_a_result_many_times_the_memory_reaches_a_reader_that_pauses(new_server, small_pod):
    """S1-3, S1-8: what is not read yet is not computed yet."""
    server = new_server()
    server.prefix = small_pod.prefix()
    with running(server), server.client() as client:
        reader = client.do_get(json_ticket("d", ENDLESS))
        rows = sum(reader.read_chunk().data.num_rows for _ in range(10))
        # The reader does something else meanwhile.
        for number in range(100):
            found = select(client, "d", f"SELECT {number} AS n")
            assert found["n"].to_pylist() == [number]
        paused = server.memory_bytes("VmRSS")
        total = rows * (rows + 1) // 2
        largest = 0
        for chunk in reader:
            rows += chunk.data.num_rows
            total += pc.sum(chunk.data["n"]).as_py() or 0
            largest = max(largest, chunk.data.nbytes)
        peak = server.memory_bytes("VmHWM")
        print(f"{rows * ROW_BYTES >> 20} MiB, RSS {paused >> 20} MiB paused, {peak >> 20} at most")
        assert (rows, total) == (ROWS, ROWS * (ROWS + 1) // 2)
        assert largest <= 4 << 20
        assert paused < SMALL_POD_BYTES // 2
        assert peak < SMALL_POD_BYTES
        assert small_pod.killed() == 0


def test_a_message_over_the_limit_is_refused_with_both_sizes_and_others_go_on(new_server):
    """S2-30: the limit protects memory; other streams of the same connection stay."""
    server = new_server({"server": {"max_message_bytes": "16MiB"}})
    with running(server), server.client() as client:
        schema = pa.schema([("n", pa.int64())])
        other, answers = client.do_put(flight.FlightDescriptor.for_path("d", "other"), schema)
        other.write_batch(pa.record_batch([pa.array([1])], schema=schema))
        answers.read()
        large = pa.record_batch([pa.array(range(8 << 20), pa.int64())], schema=schema)
        with pytest.raises(pa.ArrowException, match="found 67109.*limit is: 16777216") as refused:
            put(client, "d", "large", [large])
        assert "MESSAGE_TOO_LARGE" in str(refused.value)
        assert "max_message_bytes" in str(refused.value)
        other.write_batch(pa.record_batch([pa.array([2])], schema=schema))
        answers.read()
        other.close()
        found = select(client, "d", "SELECT n FROM other ORDER BY n")
        assert found["n"].to_pylist() == [1, 2]
        half = large.slice(0, 1 << 20)
        put(client, "d", "large", [half])
        assert select(client, "d", "SELECT count(*) AS n FROM large")["n"].to_pylist() == [1 << 20]
