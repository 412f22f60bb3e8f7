"""``loraprof fix`` on several ranks: who starts them, and what they answer together."""

import os
from pathlib import Path

import pytest

from loraprof.cli.app import run
from loraprof.cli.fix import take_over
from loraprof.errors import MeasurementError
from loraprof.runs.fix.forks import forks
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.fix.ranks import of_ranks

DDP = Path(__file__).parent / "scripts/ddp.py"


def test_what_ranks_answer_together() -> None:
    one = Found(times_ns=[10, 20], losses=[1.0, 3.0], peak_bytes=5, unfit={"sdpa": "no"})
    two = Found(times_ns=[30, 15], losses=[3.0, 5.0], peak_bytes=7, unfit={"tf32": "none"})
    both = of_ranks([one, two])
    assert (both.times_ns, both.losses, both.peak_bytes) == ([30, 20], [2.0, 4.0], 7)
    assert both.unfit == {"sdpa": "no", "tf32": "none"}
    assert of_ranks([one, Found(status="refused", reason="it does not fit")]).reason == "it does not fit"


def test_the_launch_that_rank_0_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_over(3) == 3
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "1"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    assert take_over(1) == 0
    assert run(["fix", "train.py"]) == 0
    monkeypatch.setenv("RANK", "0")
    assert take_over(1) == 2
    assert "WORLD_SIZE" not in os.environ
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(MeasurementError, match="on one machine"):
        take_over(1)


def test_a_built_in_workload_has_one_rank(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fix", "--nproc-per-node", "2", "tiny-llama-cpu"]) == 2
    assert "runs in one process" in capsys.readouterr().err


@pytest.mark.slow
def test_every_rank_applies_the_same_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = Command(target=[str(DDP)], ranks=2)
    with forks(()) as server:
        survey = server.run(command, Trial(warmup=2, steps=0, survey=True), 120.0)
        assert survey.status == "ok"
        assert "fused-optimizer" not in survey.unfit
        assert "wrapped for several devices" in survey.unfit["full"]
        plain, changed = (
            server.run(command, Trial(remedies=names, warmup=2, steps=4), 120.0)
            for names in ([], ["fused-optimizer", "lora-fused"])
        )
        assert (plain.status, changed.status) == ("ok", "ok")
        assert changed.losses == pytest.approx(plain.losses, rel=1e-4)
        monkeypatch.setenv("KILL", "1")
    with forks(()) as server:
        killed = server.run(command, Trial(warmup=2, steps=30), 60.0)
        assert killed.status == "failed"
        assert "rank 1 ended" in (killed.reason or "")
