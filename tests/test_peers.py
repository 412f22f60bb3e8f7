"""The table of the peers' benchmark: medians, ratios within a round, and a tool that fails."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import File, cell, measure, table
from benchmarks.processes import Used
from benchmarks.tools import BASE, Installed, Tool, install
from benchmarks.traces import write

SEED = b"""{
  "deviceProperties": [],
  "traceEvents": [
  {
    "ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1,
    "ts": 100.000, "dur": 5.000,
    "args": {
      "External id": 7
    }
  },
  {
    "ph": "X", "cat": "python_function", "name": "train.py(3): step", "pid": 1, "tid": 1,
    "ts": 90.000, "dur": 50.000,
    "args": {
      "Python id": 1
    }
  }
  ],
  "traceName": "x"
}
"""


def test_a_trace_repeats_with_times_and_ids_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "big.json.gz"
    assert write(SEED, 5, path)[0] == 4
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert [event["ts"] for event in events] == [100.0, 90.0, 10_000_100.0, 10_000_090.0]
    assert [event["args"]["External id"] for event in events[::2]] == [7, 1_000_007]


def test_copies_of_a_long_seed_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "long.json.gz"
    write(SEED.replace(b'"ts": 90.000', b'"ts": 30000090.000'), 5, path)
    times = [event["ts"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
    assert times == sorted(times)


def test_the_floor_decodes_every_event(tmp_path: Path) -> None:
    path = tmp_path / "big.json.gz"
    events, size = write(SEED, 20_000, path)
    assert size > 2 << 20  # more than one piece
    done = subprocess.run([sys.executable, "-c", BASE.script, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == events


def test_a_cell_holds_medians_and_ratios_within_rounds() -> None:
    ours = [Used(1.0, 1.0, 50), Used(2.0, 2.0, 60), Used(1.5, 1.5, 55)]
    mine = [Used(4.0, 4.0, 100), Used(6.0, 6.0, 90), Used(7.5, 7.0, 110)]
    assert cell(mine, ours) == "6.00 s, 110 MB (4.00×, 2.00×)"
    assert cell(ours, ours) == "1.50 s, 60 MB"
    assert cell([*mine[:2], Used(1.0, 1.0, 10, "ValueError: x")], ours) == "failed"


def test_a_tool_that_fails_or_cannot_be_installed_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, "", "WARNING: x\nERROR: no network")

    (tmp_path / "a").write_text("")
    file = File(tmp_path / "a", 2000, 3_000_000, 500)
    tools = [Installed(Tool(*words), sys.executable) for words in (("loraprof report", "pass"), ("bad", "1/0"))]
    runs = measure(tools, file, 2, 30)
    assert [len(done) for done in runs.values()] == [2, 1]
    monkeypatch.setattr(subprocess, "run", refuse)
    missing = install(Tool("none", "pass", "nothing==1"), tmp_path)
    assert missing == "nothing==1 cannot be used here: ERROR: no network"
    text = table([(file, runs)], [missing])
    assert f"* {missing}" in text
    assert "| bad | failed |" in text
    assert "bad, 3 MB, 2 k events, 25% Python frames: ZeroDivisionError: division by zero" in text
