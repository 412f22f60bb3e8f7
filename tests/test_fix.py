"""``loraprof fix`` as a command, and how it shows what it found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fixing import gone, sample, script

from loraprof.cli.app import run
from loraprof.cli.fix import _of_recording, parse_required, shortfall
from loraprof.errors import UsageError
from loraprof.model.compare import Comparison
from loraprof.model.fix import Fix, Measured, Reached, Together, Tried
from loraprof.report.registry import RENDERERS, render
from loraprof.report.views.fix import contribution, headline
from loraprof.store.recordings import load_source


@pytest.mark.parametrize("form", sorted({*RENDERERS} - {"issue"}))
def test_every_format_shows_it(form: str) -> None:
    page = render(sample(), form).decode()
    assert "1.25x" in page or form == "json"
    assert "lora-fused" in page
    if form == "json":
        assert msgspec.json.decode(page, type=Fix) == sample()
    elif form not in ("github", "agent"):
        assert all(word in page for word in ("fuse it", "this device has no TF32", "loss differs"))
        assert "1 of 1 predicted" in page or form == "terminal"
        assert "not predicted" in page
        assert "no rule says what it saves" in page


def test_the_headline() -> None:
    found = sample()
    assert headline(found) == "1.25x [1.22, 1.28] the speed, measured, with lora-fused."
    both = Together(arms=["lora-fused", "tf32"], measured=Measured(ratio=0.5, low=0.5, high=0.5, verdict="faster"))
    assert "lora-fused and tf32 together" in headline(msgspec.structs.replace(found, together=both))
    assert headline(msgspec.structs.replace(found, remedies=[])) == "No remedy fits this program."
    waiting = Tried(finding=None, arm="tf32", kind="numerics", text="", status="refused", untried=True)
    none = msgspec.structs.replace(found, remedies=[waiting], rounds=0, needed_ns=290_000_000_000)
    assert headline(none) == "No remedy was tried: the time was spent before the first one's turn."
    page = render(none, "markdown").decode()
    assert "--budget 5m has time for all" in page
    assert "What there was no time for" in page
    assert "What does not fit here" not in page


def test_nothing_tried_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Tried(finding=None, arm="tf32", kind="numerics", text="", status="refused", untried=True)
    none = msgspec.structs.replace(sample(), remedies=[waiting], rounds=0, needed_ns=290_000_000_000)
    monkeypatch.setattr("loraprof.runs.fix.run.fix", lambda asked: none)
    page = tmp_path / "fix.json"
    assert run(["fix", "--budget", "60s", "--format", "json", "-o", str(page), "tiny-llama-cpu"]) == 4
    assert msgspec.json.decode(page.read_bytes(), type=Fix) == none


def test_what_is_required() -> None:
    assert parse_required("faster>10%") == pytest.approx(1.1)
    with pytest.raises(UsageError):
        parse_required("slower>10%")
    assert shortfall(sample(), 1.1) is None
    assert shortfall(sample(), 1.3) == "1.22x is what is sure, 1.30x is asked for"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "no remedy 'nothing'"),
        (["--also", "hardware"], "--also 'hardware' is not known"),
        (["--require", "faster"], "is not a threshold"),
        (["tiny-lama-cpu"], "no such script or workload"),
        (["--rank", "8", __file__], "--rank is for built-in workloads"),
        (["-m"], "-m needs a module to run"),
        (["--seconds", "5"], "compare what trains something else"),
        (["--also", "other-training", "--seconds", "5", "--until-loss", "1"], "exclude each other"),
        (["--also", "other-training", "--seconds", "-5"], "are above 0"),
    ],
)
def test_bad_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fix", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_script_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command, page = script(tmp_path, steps=60), tmp_path / "fix.json"
    words = ["fix", "--only", "fused-optimizer,set-to-none", "--budget", "60s", "--quiet", "--format", "json"]
    words += ["--contribute", str(tmp_path / "table.md")]
    assert run([*words, "-o", str(page), *command.target]) == 0
    found = msgspec.json.decode(page.read_bytes(), type=Fix)
    assert {t.arm: t.status == "refused" for t in found.remedies} == {"fused-optimizer": False, "set-to-none": True}
    assert found.remedies[0].measured is not None
    assert found.remedies[0].loss is not None
    assert found.remedies[0].loss.verdict == "same"
    assert not list(tmp_path.glob("loraprof-*"))
    assert "| fused-optimizer | n/a | " in (tmp_path / "table.md").read_text()  # of no finding


def test_what_is_contributed() -> None:
    lines = contribution(sample()).splitlines()
    assert lines[0].startswith("| remedy, on train.py, a device (A/A 1.0 %) |")
    assert lines[2] == "| lora-fused | L1 | 1.30x [1.10, 1.40] | 1.25x [1.22, 1.28] |"


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "fix"]) == 0
    shown: Any = msgspec.json.decode(capsys.readouterr().out)
    assert {"remedies", "together", "noise_floor", "base"} <= shown["$defs"]["Fix"]["properties"].keys()


@pytest.mark.slow
def test_a_remedy_is_an_arm_of_profile_and_of_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    command = script(tmp_path, steps=80, none=False)
    words = ["--quiet", "--format", "json", "-o", "out.json"]
    arm = "fused-optimizer+set-to-none"
    assert run(["profile", "--arm", arm, "--record", "r.loraprof", *words, *command.target]) == 0
    recording = load_source(tmp_path / "r.loraprof").recording
    assert recording is not None
    assert recording.workload is not None
    assert recording.workload.arm == arm
    assert run(["compare", "--arms", f"full,{arm}", "--budget", "1s", "--force", *words, *command.target]) == 0
    found = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=Comparison)
    assert [ratio.of for ratio in found.ratios] == [arm]


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    ours = "import subprocess, sys, time\nours = 'loraprof.runs.fix.trial' in sys.modules"
    leave = f"open('{tmp_path}/pid', 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    command = script(tmp_path, inside=f"\n    if ours: {leave}", before=ours)
    words = [sys.executable, "-m", "loraprof", "fix", "--only", "fused-optimizer", *command.target]
    fixing = subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        for _ in range(1800):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
    finally:
        fixing.send_signal(signal.SIGINT)
    assert fixing.wait(60) == 130
    assert gone(int((tmp_path / "pid").read_text()))
    assert not list(tmp_path.glob("loraprof-*"))


def test_a_recording_says_its_command() -> None:
    place = Path(__file__).parents[1] / "profiles/recordings/h100-sxm/minimind-26m.loraprof"
    command, name, _ = _of_recording(place)
    assert name == "minimind-26m"
    assert command.spec is not None
    assert (command.spec.rank, command.spec.adapter, command.spec.autocast) == (2, "handwritten", "bfloat16")


def test_trainings_at_equal_time() -> None:
    found = sample()
    tried = [msgspec.structs.replace(t, reached=Reached(steps=7, ns=10**9, loss=0.5)) for t in found.remedies[:1]]
    base = msgspec.structs.replace(found.base, reached=Reached(steps=3, ns=10**9, reason="the program ended"))
    page = render(msgspec.structs.replace(found, remedies=tried, base=base, goal="after 1 s of training"), "markdown")
    lines = [line for line in page.decode().splitlines() if line.startswith(("| unchanged", "| lora-fused |"))]
    assert "Other training, after 1 s of training" in page.decode()
    assert [" 3 | 1.00 s | n/a | the program ended" in lines[0], " 7 | 1.00 s | 0.5 |" in lines[-1]] == [True, True]
    assert "Other training" not in render(found, "markdown").decode()
