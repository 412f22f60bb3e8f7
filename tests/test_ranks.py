"""Many ranks: one recording from torchrun, the slow rank found, a dead rank named and its partners' data kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import loraprof
from loraprof.errors import InputError

SCRIPT = Path(__file__).parent / "scripts" / "ddp.py"


def torchrun(cwd: Path, ranks: int, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "loraprof", "profile", "--record", "x.loraprof", str(SCRIPT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_is_in_one_recording_and_the_slow_one_is_named(tmp_path: Path, ranks: int) -> None:
    done = torchrun(tmp_path, ranks, SLOW="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.source.ranks == ranks
    assert report.ranks is not None
    assert [r.rank for r in report.ranks] == list(range(ranks))
    assert f"{ranks} ranks; the report is rank 1's, the slowest" in report.closure.notes
    assert report.ranks[0].exposed_comm_ns > 10_000_000  # waits 30 ms for rank 1, less what it does itself
    assert report.ranks[1].exposed_comm_ns < report.ranks[0].exposed_comm_ns
    for row in report.ranks:
        assert sum(row.phases_ns.values()) == row.wall_ns == row.busy_ns + row.idle_ns


def test_a_killed_rank_is_named_and_the_others_are_whole(tmp_path: Path) -> None:
    done = torchrun(tmp_path, 2, KILL="1")
    assert done.returncode != 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.source.ranks == 1
    assert any(n.startswith("rank 1 left no recording") for n in report.closure.notes)
    assert report.closure.ok


def test_a_cut_rank_is_left_out_by_name(tmp_path: Path) -> None:
    assert torchrun(tmp_path, 2).returncode == 0
    place = tmp_path / "x.loraprof"
    trace = place / "rank1.trace.json.gz"
    trace.write_bytes(trace.read_bytes()[:1000])
    report = loraprof.diagnose(place)
    assert report.ranks is not None
    assert [r.rank for r in report.ranks] == [0]
    assert any(n.startswith("rank 1 left out") and "truncated" in n for n in report.closure.notes)
    shutil.copy(trace, place / "rank0.trace.json.gz")
    with pytest.raises(InputError, match="ranks 0, 1 left out"):
        loraprof.diagnose(place)
