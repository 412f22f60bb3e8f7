"""Many ranks for real: torchrun over gloo on a CPU, DDP and FSDP2 with PEFT; slow, dying, failing and cut ranks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from kept import kept

import loraprof
from loraprof.errors import InputError
from loraprof.model.recording import Recording
from loraprof.model.report import Report

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "scripts"


Done = subprocess.CompletedProcess[str]


def torchrun(cwd: Path, ranks: int, script: str = "ddp.py", *options: str, **env: str) -> Done:
    profile = ["-m", "loraprof", "profile", "--record", "x.loraprof", *options]
    return launched(cwd, ranks, [*profile, str(SCRIPTS / script)], env)


def launched(cwd: Path, ranks: int, what: list[str], env: dict[str, str]) -> Done:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600, check=False)


def ddp() -> Path:
    """The recording of two ranks of which one is slow, alone in its folder; not to be changed."""

    def make(folder: Path) -> None:
        done = torchrun(folder, 2, SLOW="1")
        assert done.returncode == 0, done.stderr[-2000:]
        assert [p.name for p in folder.iterdir()] == ["x.loraprof"]

    return kept(make, "ddp.py", "SLOW") / "x.loraprof"


def own(place: Path, rank: int) -> Recording:
    return msgspec.json.decode((place / f"rank{rank}.json").read_bytes(), type=Recording)


def consistent(report: Report, ranks: int) -> None:
    """What holds of every recording of many ranks."""
    assert report.source.ranks == ranks
    assert report.ranks is not None
    assert [row.rank for row in report.ranks] == list(range(ranks))
    for row in report.ranks:
        assert sum(row.phases_ns.values()) == row.wall_ns == row.busy_ns + row.idle_ns
        assert row.own_ns == row.wall_ns - row.exposed_comm_ns
    sent, summary, step = report.communication, report.rank_summary, report.step()
    assert sent is not None
    assert summary is not None
    assert step is not None
    assert sum(row.exposed_ns for row in sent.collectives) == sent.exposed_ns
    assert sent.exposed_ns == step.ns(kind="idle", role="comm", cause="sync")
    assert (summary.world, summary.missing, summary.step) == (ranks, [], report.reported_step)
    assert summary.slowest == max(report.ranks, key=lambda row: (row.own_ns, -row.rank)).rank


def test_the_slow_rank_of_ddp_is_named_with_its_reason() -> None:
    report = loraprof.diagnose(ddp())
    consistent(report, 2)
    summary = report.rank_summary
    assert summary is not None
    assert (summary.slowest, summary.even) == (1, False)
    assert "Rank 1 is the slowest of 2" in summary.sentence
    first = summary.differences[0]  # the script multiplies matrices outside the model for 30 ms
    assert (first.phase, first.role) == ("other", "other")
    assert first.what in ("compute", "python")  # a busy machine takes the processor away between two ops
    assert first.ns - first.median_ns > 10_000_000
    assert summary.clocks is not None
    assert summary.clocks.one_machine
    assert summary.stragglers is not None
    assert summary.stragglers[0].rank == 1
    assert "2 ranks; the report is rank 1's, the slowest" in report.closure.notes


def test_what_ddp_sends_and_what_lora_saves_of_it() -> None:
    sent = loraprof.diagnose(ddp()).communication
    assert sent is not None
    (row,) = sent.collectives
    adapters, base = 4 * 4 * 2 * (64 + 128), 4 * (2 * 64 * 128 + 64 + 128)
    assert (row.name, row.count, row.bytes, row.group_size, row.basis) == ("all_reduce", 1, adapters, 2, "fastest rank")
    assert row.bus_bytes_per_s == row.algorithm_bytes_per_s  # 2 (n - 1) / n of two
    assert sent.strategy == "replicated"
    assert (sent.reduced_bytes, sent.full_reduced_bytes) == (adapters, base)
    assert sent.saved_bytes == base - adapters


def test_the_leader_calibrates_for_all() -> None:
    place = ddp()
    shared = msgspec.json.decode((place / "recording.json").read_bytes(), type=Recording)
    assert shared.calibration is not None
    assert shared.training_cost is not None
    assert own(place, 0).calibration is None
    assert {own(place, rank).environment.rank for rank in (0, 1)} == {0, 1}
    assert len({own(place, rank).environment.launch for rank in (0, 1)} | {shared.environment.launch}) == 1
    report = loraprof.diagnose(place)
    assert report.ceilings is not None
    assert report.ceilings.gemm_flops_per_s is not None


def test_fsdp2_with_peft_behind_a_url(tmp_path: Path) -> None:
    """The counting pass runs under DTensors; weights are gathered, gradients of the adapters scattered. The ranks share
    no file system: each sends its own files, the leader says when all are there."""
    ranks, place = 2, tmp_path / "out" / "y.loraprof"
    done = torchrun(tmp_path, ranks, "fsdp.py", "--record", f"file://{place}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in place.iterdir()) == sorted(
        ["recording.json", *(f"rank{rank}.{end}" for rank in range(ranks) for end in ("json", "trace.json.gz"))]
    )
    report = loraprof.diagnose(f"file://{place}")
    consistent(report, ranks)
    recording = own(place, 1)
    assert recording.counted
    sharded = [p for p in recording.parameters if p.local_shape is not None]
    assert len(sharded) == len(recording.parameters)
    weight = next(p for p in sharded if p.shape == (64, 64))
    assert weight.local_shape == (64 // ranks, 64)
    assert recording.memory is not None
    whole = sum(4 * p.shape[0] * (p.shape[1] if len(p.shape) > 1 else 1) for p in recording.parameters)
    assert recording.memory.weights_bytes is not None
    assert recording.memory.weights_bytes < 1.2 * whole / ranks  # what lies on this rank
    sent = report.communication
    assert sent is not None
    assert sent.strategy == "sharded"
    rows = {row.name: row for row in sent.collectives}
    assert rows.keys() == {"all_gather", "reduce_scatter"}
    assert rows["all_gather"].count == 5  # two blocks forward and backward, the rest once
    assert sent.gathered_bytes is not None
    assert sent.gathered_bytes >= whole
    assert rows["reduce_scatter"].bytes == 4 * 4 * 4 * 2 * 64  # q and v of two blocks: A and B of rank 4, 64 wide
    assert sent.saved_bytes is not None
    assert sent.saved_bytes > 0


def test_a_killed_rank_is_named_and_the_others_are_whole(tmp_path: Path) -> None:
    """Rank 0, which would lead. Of the others some wait for one that gave up: they hear of it when that one ends."""
    done = torchrun(tmp_path, 3, KILL="0")
    assert done.returncode != 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]
    assert sorted(p.name for p in (tmp_path / "x.loraprof").iterdir()) == sorted(
        ["recording.json", *(f"rank{rank}.{end}" for rank in (1, 2) for end in ("json", "trace.json.gz"))]
    )
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.source.ranks == 2
    assert "rank 0 left no recording: died" in report.closure.notes
    assert report.closure.ok
    assert [step.name for step in report.steps] == ["ProfilerStep#0", "ProfilerStep#1"]  # it died within the third
    assert [row.rank for row in report.ranks or []] == [1, 2]
    assert report.rank_summary is not None
    assert report.rank_summary.missing == [0]


def test_a_rank_that_dies_when_all_is_recorded_takes_nothing_with_it(tmp_path: Path) -> None:
    """The scripts go on after the recording: what is complete is written, in the time that torchrun leaves."""
    done = torchrun(tmp_path, 2, "ddp.py", "--finish", KILL="1", AT="30")
    assert done.returncode != 0
    assert "forcefully exiting" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert len(report.steps) == 3
    assert "rank 1 left no recording: died" in report.closure.notes


def test_a_cut_rank_is_left_out_by_name(tmp_path: Path) -> None:
    place = tmp_path / "x.loraprof"
    shutil.copytree(ddp(), place)
    trace = place / "rank1.trace.json.gz"
    trace.write_bytes(trace.read_bytes()[:1000])
    report = loraprof.diagnose(place)
    assert report.ranks is not None
    assert [r.rank for r in report.ranks] == [0]
    assert any(n.startswith("rank 1 left out") and "truncated" in n for n in report.closure.notes)
    shutil.copy(trace, place / "rank0.trace.json.gz")
    with pytest.raises(InputError, match="ranks 0, 1 left out"):
        loraprof.diagnose(place)


def test_the_python_api_records_every_rank(tmp_path: Path) -> None:
    done = launched(tmp_path, 2, [str(SCRIPTS / "ddp_api.py")], {})
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.splitlines()) == ["rank 0: x.loraprof", "rank 1: None"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    consistent(report, 2)
    assert report.communication is not None
    assert report.communication.reduced_bytes == 4 * 33 * 32
    assert report.ceilings is not None


def test_a_rank_whose_loop_ends_early_is_not_waited_for(tmp_path: Path) -> None:
    done = launched(tmp_path, 2, [str(SCRIPTS / "ddp_api.py")], {"SHORT": "0"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.splitlines()) == ["rank 0: no more data", "rank 1: x.loraprof"]
    report = loraprof.diagnose(tmp_path / "x.loraprof")
    assert report.source.ranks == 1
    assert any(note.startswith("rank 0") and "its loop raised ValueError" in note for note in report.closure.notes)
