"""One run of ``loraprof fix``: what it shows, and what becomes of one that misbehaves."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from fixing import gone, script
from torch.optim.optimizer import _global_optimizer_post_hooks

from loraprof.errors import UsageError
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.program import Program
from loraprof.runs.compare.arms import arm_names
from loraprof.runs.fix.forks import forks
from loraprof.runs.fix.job import Command, Trial
from loraprof.runs.fix.trial import LAST, try_out
from loraprof.runs.profile.remedy_arm import WATCHED, RemedyArm
from loraprof.runs.profile.run_script import run_script


def test_a_run_that_changes_nothing(tmp_path: Path) -> None:
    plain = try_out(script(tmp_path), Trial(warmup=2, steps=5))
    assert plain.status == "ok"
    assert len(plain.times_ns) == 5
    assert plain.steps_seen == len(plain.losses) == WATCHED + 2 + 5
    assert plain.losses[-1] < plain.losses[0]
    assert len(plain.gradients) == 4
    again = try_out(script(tmp_path), Trial(remedies=["fused-optimizer", "set-to-none"], warmup=2, steps=5))
    assert "gradients are set to None already" in (again.reason or "")
    assert again.status == "refused"


def test_a_run_with_remedies_and_none_afterwards(tmp_path: Path) -> None:
    hooks = len(_global_optimizer_post_hooks)
    backward, command = torch.autograd.backward, script(tmp_path, none=False)
    plain = try_out(command, Trial(warmup=2, steps=5))
    found = try_out(command, Trial(remedies=["fused-optimizer", "set-to-none"], warmup=2, steps=5))
    assert found.status == "ok"
    assert found.losses == pytest.approx(plain.losses, rel=1e-5)
    assert found.losses[: WATCHED + 1] == plain.losses[: WATCHED + 1]
    assert torch.autograd.backward is backward
    assert len(_global_optimizer_post_hooks) == hooks


def test_a_survey_says_what_does_not_fit(tmp_path: Path) -> None:
    found = try_out(script(tmp_path), Trial(warmup=2, steps=0, survey=True))
    assert found.status == "ok"
    assert found.unfit["lora-fused"] == "there is no adapted layer"
    assert "fused-optimizer" not in found.unfit
    assert found.steps_seen < 40


@pytest.mark.parametrize(
    ("inside", "steps", "reason"),
    [("1 / (3 - step)", 40, "exited with code 1"), ("pass", 6, "it ended after 6 optimizer steps")],
)
def test_a_run_that_fails(tmp_path: Path, inside: str, steps: int, reason: str) -> None:
    found = try_out(script(tmp_path, steps, inside), Trial(warmup=2, steps=5))
    assert found.status == "failed"
    assert reason in (found.reason or "")


@pytest.mark.slow
def test_what_hangs_or_dies_leaves_nothing(tmp_path: Path) -> None:
    """A child of its own is left by the program in each of them."""
    leave = "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    leave += f"open('{tmp_path}/pid', 'w').write(str(child.pid))"
    for inside, reason in (
        ("import time; time.sleep(600)", "it did not end within 20 s"),
        ("import os; os.kill(os.getpid(), 9)", "killed by the system: out of memory"),
        ("import os; os._exit(7)", "its process ended with code 7"),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", "can't allocate memory"),
    ):
        with forks(()) as server:
            command = script(tmp_path, inside=f"\n    if step == 4: {inside}", before=leave)
            found = server.run(command, Trial(warmup=2, steps=5), 20.0)
            assert found.status == "failed"
            assert reason in (found.reason or "")
            assert gone(int((tmp_path / "pid").read_text()))
            assert server.run(script(tmp_path), Trial(warmup=2, steps=5), 60.0).status == "ok"
        assert not server.folder.exists()


def test_a_remedy_that_does_not_fit_is_refused_by_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = script(tmp_path)
    with pytest.raises(UsageError, match="no adapted layer"), RemedyArm(["lora-fused"]):
        run_script(command.target, False)
    with pytest.raises(UsageError, match="a script has full, frozen, lora"):
        arm_names("lora,dora", (), True)
    assert arm_names("lora,lora-fused+autocast", (), True) == ["lora", "lora-fused+autocast"]


def test_a_training_for_a_time_or_until_a_loss(tmp_path: Path) -> None:
    plain = try_out(script(tmp_path, 400), Trial(warmup=0, steps=0, seconds=0.05))
    assert plain.reached is not None
    assert plain.reached.reason is None
    assert plain.reached.ns >= 50_000_000
    assert plain.reached.loss == pytest.approx(fmean(plain.losses[-LAST:]))
    low = fmean(plain.losses[:10])
    until = try_out(script(tmp_path, 400), Trial(warmup=0, steps=0, until_loss=low))
    assert until.reached is not None
    assert until.reached.loss is not None
    assert until.reached.loss <= low
    assert 0 < until.reached.steps < 20
    never = try_out(script(tmp_path, 20), Trial(warmup=0, steps=0, until_loss=-1.0))
    assert never.reached is not None
    assert never.reached.reason == "the program ended after 18 steps"


def test_gradients_of_a_closure(tmp_path: Path) -> None:
    """Lightning computes them within the optimizer's step."""
    place = tmp_path / "closure.py"
    place.write_text(CLOSURE)
    found = try_out(Command(target=[str(place)]), Trial(warmup=2, steps=4))
    assert found.status == "ok"
    assert all(norm > 0 for norm in found.gradients)
    assert found.losses[-1] < found.losses[0]


CLOSURE = """
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x = torch.ones(8, 4)


def closure():
    optimizer.zero_grad()
    loss = (model(x) - 1).square().mean()
    loss.backward()
    return loss


for _ in range(20):
    optimizer.step(closure)
"""


def test_a_remedy_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(program: Program) -> Any:
        raise RuntimeError("out of luck")

    plain = REMEDIES["autocast"]
    monkeypatch.setitem(REMEDIES, "autocast", replace(plain, apply=fail))
    found = try_out(script(tmp_path), Trial(remedies=["autocast"], warmup=2, steps=4))
    assert found.status == "failed"
    monkeypatch.setitem(REMEDIES, "autocast", replace(plain, fits=fail))
    survey = try_out(script(tmp_path), Trial(warmup=2, steps=0, survey=True))
    assert survey.status == "ok"
    assert survey.unfit["autocast"] == "whether it fits cannot be told: RuntimeError: out of luck"
