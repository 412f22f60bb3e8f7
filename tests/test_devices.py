"""The device seam: a third kind of device is one class and one line, and a whole session runs on it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import loraprof
from loraprof.capture.device.kinds import KINDS, accelerators, default_device, measured
from loraprof.errors import MeasurementError

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "loraprof"
SEAM = PACKAGE / "capture" / "device"
NAMED = re.compile(r"torch\.cuda|[\"']cuda[\"':]")


@pytest.mark.slow
def test_a_third_kind_runs_a_whole_session(tmp_path: Path) -> None:
    place = tmp_path / "x.loraprof"
    command = [sys.executable, str(HERE / "third_device.py"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'mark', 'reset_peak', 'steady_memory', 'synchronise'" in done.stdout
    found = loraprof.load(place)
    assert (found.device.kind, found.device.name) == ("third", "A third kind")
    assert found.timing is not None
    assert (found.timing.clock, len(found.timing.samples_ns)) == ("third_clock", 10)
    assert found.memory is not None
    assert (found.memory.peak_bytes, found.memory.reserved_bytes) == (1 << 20, 2 << 20)
    assert "NVML: the step runs on the THIRD" in found.notes
    assert found.calibration is not None
    assert found.training_cost is not None
    report = loraprof.diagnose(place)
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank, len(report.steps)) == (2, 4, 3)


def test_what_no_kind_knows_is_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match="meta devices cannot be measured"):
        measured(torch.device("meta"))
    assert default_device() in [place for kind in KINDS.values() for place in kind.present()]
    assert all(measured(place).asynchronous for place in accelerators())


def test_outside_the_seam_no_kind_is_named() -> None:
    rooms = [PACKAGE / name for name in ("capture", "runs", "selftest", "workloads", "cli")]
    files = [p for room in rooms for p in room.rglob("*.py") if SEAM not in p.parents] + [PACKAGE / "api.py"]
    named = [f"{p.relative_to(PACKAGE)}: {line}" for p in files for line in p.read_text().splitlines()]
    assert [line for line in named if NAMED.search(line)] == []
