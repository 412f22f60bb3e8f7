"""A training under loraprof computes what it computes without, bit for bit, however it is written."""

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from attached import attached_to_nothing
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import loraprof
from loraprof.capture.passes import phases
from loraprof.capture.passes.session import Session
from loraprof.errors import MeasurementError

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(autouse=True)
def detached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with attached_to_nothing(monkeypatch):
        yield


def losses(training: Any) -> list[str]:
    told: list[str] = []
    training(lambda loss: told.append(loss.item().hex()))
    return told


@pytest.mark.parametrize("training", trainings.RECORDED, ids=lambda one: one.__name__)
def test_the_losses_are_the_same_and_there_is_a_recording(training: Any, tmp_path: Path) -> None:
    alone = losses(training)
    with loraprof.profile(tmp_path / "x.loraprof") as p:
        watched = losses(training)
    assert watched == alone
    assert len(set(alone)) > trainings.STEPS // 2
    assert p.recording.notes == ["NVML: the step runs on the CPU"]
    assert p.recording.workload.missing_gradients == []
    assert p.recording.timing is not None
    assert len(p.recording.timing.samples_ns) == 10
    report = p.report
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (2, 4)
    assert len(report.steps) == 3
    assert all(sum(part.ns for part in step.partition) == step.wall_ns for step in report.steps)


def test_steps_that_no_hook_sees_are_one_clear_line(tmp_path: Path) -> None:
    alone = losses(trainings.without_torch_optim)
    watched: list[str] = []
    with (
        pytest.raises(MeasurementError, match="6 optimizer steps, 0 were seen"),
        loraprof.profile(tmp_path / "x.loraprof"),
    ):
        watched = losses(trainings.without_torch_optim)
    assert watched == alone
    assert list(tmp_path.iterdir()) == []


def test_warnings_that_loraprof_causes_are_no_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libraries warn where an old attribute is looked at."""
    tables = phases.tables_of

    def warns(markers: Any) -> Any:
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        return tables(markers)

    monkeypatch.setattr(phases, "tables_of", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with loraprof.profile(tmp_path / "x.loraprof") as p:
            losses(trainings.plain)
            with pytest.raises(UserWarning, match="the training's own"):
                warnings.warn("the training's own", stacklevel=1)
        assert list(warnings.filters) == before
    assert gc.isenabled()
    assert len(p.report.steps) == 3


def test_a_bug_of_loraprofs_own_is_not_the_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(markers: Any) -> int:
        raise KeyError("tokens")

    alone = losses(trainings.plain)
    monkeypatch.setattr(phases, "tokens_of", broken)
    watched: list[str] = []
    with (
        pytest.raises(MeasurementError, match="loraprof failed in its count pass, KeyError: 'tokens'"),
        loraprof.profile(tmp_path / "x.loraprof"),
    ):
        watched = losses(trainings.plain)
    assert watched == alone


@pytest.mark.parametrize(("steps", "timed", "profiled"), [(6, 3, 1), (8, 3, 1), (12, 5, 1), (22, 10, 2)])
def test_what_there_is_when_it_ends_early(
    steps: int, timed: int, profiled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(trainings, "STEPS", steps)
    with loraprof.profile(tmp_path / "x.loraprof", progress=said.append) as p:
        losses(trainings.plain)
    assert p.recording.timing is not None
    assert (len(p.recording.timing.samples_ns), len(p.report.steps)) == (timed, profiled)
    assert p.recording.notes[-1] == (
        f"the training ended after {steps} steps, before all that was planned was measured: "
        f"{profiled} profiled, {timed} timed"
    )
    assert any(text.startswith("a first recording after 6 steps") for text in said)
    assert p.report.adapter is not None


def test_padding_is_seen_however_early_it_ends(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.Embedding(8, 16).requires_grad_(False), trainings.LoRA()

        def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(self.table(ids)) * attention_mask[..., None]
            return out

    model = Masked()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with loraprof.profile(tmp_path / "x.loraprof") as p:
        for _ in range(6):
            model(torch.zeros(2, 8, dtype=torch.long), attention_mask=torch.arange(8).expand(2, 8) < 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (p.recording.workload.tokens_per_step, p.recording.workload.real_tokens_per_step) == (16, 4)
    assert "G4" in {f.id for f in p.report.findings}


def test_below_the_least_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "STEPS", 5)
    with (
        pytest.raises(MeasurementError, match="needs 6 optimizer steps, 5 were seen"),
        loraprof.profile(tmp_path / "x.loraprof"),
    ):
        losses(trainings.plain)


def test_a_forked_child_is_left_alone(tmp_path: Path) -> None:
    """In every pass: nothing is attached in the child, and the parent goes on as if there were none."""
    left: list[int] = []

    def tell(loss: torch.Tensor) -> None:
        child = os.fork()
        if child == 0:
            os._exit(1 if Session.attached is not None or _global_optimizer_post_hooks or p.done else 5)
        left.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with loraprof.profile(tmp_path / "x.loraprof") as p:
        trainings.plain(tell)
    assert set(left) == {5}
    assert len(p.report.steps) == 3


def run(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("step_in_backward.py",), ("forked_child.py", "9"), ("forked_child.py", "22")])
def test_scripts_end_as_without(words: tuple[str, ...], tmp_path: Path) -> None:
    script = str(SCRIPTS / words[0])
    alone = run(tmp_path, script, *words[1:])
    profile = (
        "-m",
        "loraprof",
        "profile",
        "--quiet",
        "-o",
        "report.json",
        "--format",
        "json",
        "--record",
        "x.loraprof",
    )
    watched = run(tmp_path, *profile, "--finish", script, *words[1:])
    assert (watched.returncode, alone.returncode) == (0, 0), watched.stderr
    assert watched.stdout == alone.stdout
    assert "Traceback" not in watched.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "x.loraprof"]
    assert len(loraprof.diagnose(tmp_path / "x.loraprof").steps) == 3


@pytest.mark.slow
def test_a_short_script_gives_a_report(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "loraprof", "profile", "--record", "x.loraprof", str(SCRIPTS / "short.py"))
    assert done.returncode == 0, done.stderr
    assert "a first recording after 6 steps" in done.stderr
    assert "loraprof: the training ended after 8 steps" in done.stderr
    notes = loraprof.diagnose(tmp_path / "x.loraprof").closure.notes
    assert any(note.startswith("the training ended after 8 steps") for note in notes)
    assert loraprof.load(tmp_path / "x.loraprof").sites
