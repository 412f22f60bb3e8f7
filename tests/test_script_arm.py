"""Another arm of an unmodified script: applied after its first step, or refused with the reason."""

import subprocess
from pathlib import Path

import pytest
from warm import python

import loraprof

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parent / "scripts"


def profile(cwd: Path, arm: str, script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "loraprof", "profile", "--arm", arm, "--record", f"{arm}.loraprof"]
    command += ["--format", "json", "-o", f"{arm}.json", "--quiet", str(SCRIPTS / script), *args]
    return python(*command, cwd=cwd)


def roles(path: Path) -> set[str]:
    step = loraprof.diagnose(path).step()
    assert step is not None
    return {p.role for p in step.partition if p.kind == "busy"}


def test_the_trainer_as_full_and_as_frozen(tmp_path: Path) -> None:
    for arm in ("full", "frozen"):
        done = profile(tmp_path, arm, "trainer.py", str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr[-2000:]
        assert not any(role.startswith("adapter.") for role in roles(tmp_path / f"{arm}.loraprof"))
    full, frozen = (loraprof.diagnose(tmp_path / f"{arm}.loraprof").step() for arm in ("full", "frozen"))
    assert full is not None
    assert frozen is not None
    assert full.ns(role="optimizer", kind="busy") > 0
    gemms = [_gemms(tmp_path / f"{arm}.loraprof") for arm in ("full", "frozen")]
    # 14 linears and the head, 2 micro-batches: dX and dW against dX alone
    assert gemms == [2 * 15 * 2, 2 * 15]


def _gemms(path: Path) -> int:
    kernels = loraprof.diagnose(path).kernels
    return sum(k.count for k in kernels if k.phase == "backward" and k.name == "aten::mm")


@pytest.mark.parametrize(
    ("arm", "script", "args", "reason"),
    [
        ("full", "bare.py", ("--lr", "1e-3"), "no PEFT layer whose adapter could be bypassed"),
        ("frozen", "scaler.py", (), "GradScaler refuses a step without gradients"),
        ("dora", "bare.py", ("--lr", "1e-3"), "arm dora is for built-in workloads"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    tmp_path: Path, arm: str, script: str, args: tuple[str, ...], reason: str
) -> None:
    done = profile(tmp_path, arm, script, *args)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
