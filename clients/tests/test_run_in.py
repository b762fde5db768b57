"""Which processes of a cluster do upkeep."""

import json
import pathlib
import re
import sys
import urllib.request

import pyarrow as pa
import pytest
from harness import put, select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

# Every put is a file soon, and every two files become one where upkeep is done.
SETTINGS = {
    "ingest": {"flush_interval": "50ms", "flushed_grace": "100ms"},
    "upkeep": {"interval": "50ms", "compaction_min_files": 2},
    "server": {"drain_window": "100ms"},
}
FILES = 8


def compactions(process):
    """How many it has done since its start; 0 without any upkeep in it."""
    port = json.loads(process.port_file.read_text())["admin_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert "flightcluster_build_info" in text
    of = re.findall(r"^flightcluster_compaction_duration_seconds_count (\S+)", text, re.MULTILINE)
    return sum(map(float, of))


@pytest.mark.parametrize("run_in", ["ingester", "querier", "nobody"])
def test_upkeep_is_done_where_it_is_said(tmp_path, run_in):
    """Issue 4 section 4: in ingesters, in queriers, or switched off."""
    settings = SETTINGS | {"upkeep": SETTINGS["upkeep"] | {"run_in": run_in}}
    with started_cluster(tmp_path, settings, ingesters=1, queriers=1) as processes:
        (ingester,), (querier,) = processes.of("ingester"), processes.of("querier")

        def live_files():
            sql = "SELECT coalesce(sum(rows), 0) AS n, count(*) AS files FROM system.files"
            with querier.connect() as client:
                return select(client, "d", sql).to_pylist()[0]

        for number in range(FILES):
            with ingester.connect() as client:
                put(client, "d", "t", [pa.record_batch({"id": [number]})])
            wait_until(lambda n=number: live_files()["n"] == n + 1, "the row is in a file")
        busy = {"ingester": ingester, "querier": querier}.get(run_in)
        if busy:
            wait_until(lambda: live_files()["files"] == 1, "one file is left")
            wait_until(lambda: compactions(busy) > 0, "it says so")
        else:
            assert live_files() == {"n": FILES, "files": FILES}
        # The catalog process has none of it anyway.
        for process in processes.all:
            assert process is busy or compactions(process) == 0, process.name
        processes.stop()
