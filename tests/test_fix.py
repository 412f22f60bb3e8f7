"""``loraprof fix``: the order of its runs, its judgement of losses, what becomes of a remedy that misbehaves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import sample_report
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks

from loraprof.cli.app import run
from loraprof.cli.fix import _of_recording, parse_required, shortfall
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.compare import Comparison
from loraprof.model.fix import Fix, LossChange, Measured, Together, Tried, Unchanged
from loraprof.model.report import Finding, Gain, RemedyReport, Report
from loraprof.remedies.catalogue import REMEDIES
from loraprof.report.registry import RENDERERS, render
from loraprof.report.views.fix import contribution, headline
from loraprof.runs.compare.arms import arm_names
from loraprof.runs.fix.forks import Forks, forks
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.fix.judge import loss_change, measured, noise, repeats
from loraprof.runs.fix.rows import _covered, promise, refused
from loraprof.runs.fix.run import _repeat, _together
from loraprof.runs.fix.schedule import BASE, LEAST_STEPS, STEPS, TWIN, Bench, steps_within
from loraprof.runs.fix.trial import try_out
from loraprof.runs.profile.remedy_arm import WATCHED, RemedyArm
from loraprof.runs.profile.run_script import run_script
from loraprof.store.recordings import load_source

SCRIPT = """
import torch

from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(16, 8)
{before}
for step in range({steps}):
    {inside}
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none={none})
"""


def script(folder: Path, steps: int = 40, inside: str = "pass", before: str = "", none: bool = True) -> Command:
    place = folder / "train.py"
    place.write_text(SCRIPT.format(steps=steps, inside=inside, before=before, none=none))
    return Command(target=[str(place)])


def seen(times: list[int], losses: list[float] | None = None, gradients: list[float] | None = None) -> Found:
    return Found(times_ns=times, losses=losses or [1.0, 0.5], gradients=gradients or [1.0, 2.0])


def rounds(own: Found, count: int = 3) -> list[dict[str, Found]]:
    return [{BASE: seen([100, 101, 99, 100]), TWIN: seen([100, 100, 99, 101]), "r": own} for _ in range(count)]


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
            assert _gone(int((tmp_path / "pid").read_text()))
            assert server.run(script(tmp_path), Trial(warmup=2, steps=5), 60.0).status == "ok"
        assert not server.folder.exists()


def _gone(process: int) -> bool:
    """Within a while: a signal is delivered, not awaited."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


class FakeForks:
    """Answers from a table; counts what was asked."""

    def __init__(self, answers: Callable[[list[str]], Found]) -> None:
        self.answers, self.asked = answers, cast(list[str], [])

    def run(self, command: Command, trial: Trial, limit_s: float) -> Found:
        self.asked.append("+".join(trial.remedies) or "-")
        return self.answers(trial.remedies)


def bench(fake: FakeForks, folder: Path | None = None) -> Bench:
    return Bench(cast(Forks, fake), Command(target=["x.py"]), 2**62, folder, lambda _: None)


def test_rounds_alternate_and_leave_out_what_failed() -> None:
    fake = FakeForks(lambda names: Found(status="failed", reason="no") if names == ["b"] else seen([1, 1]))
    one = bench(fake)
    for number in range(2):
        one.round([("a",), ("b",), ("a", "c")], "alone", number)
    assert fake.asked == ["-", "a", "b", "a+c", "-", "-", "a+c", "a", "-"]
    assert one.ended["b"].reason == "no"
    assert [set(found) for found in one.rounds] == [{BASE, "a", "a+c", TWIN}] * 2


def test_an_interrupted_fix_goes_on_where_it_was(tmp_path: Path) -> None:
    fake = FakeForks(lambda names: seen([1, 2]))
    bench(fake, tmp_path).round([("a",)], "alone", 0)
    later = bench(fake, tmp_path)
    later.round([("a",)], "alone", 0)
    assert fake.asked == ["-", "a", "-"]
    later.round([("a",)], "alone", 1)
    assert len(fake.asked) == 6


def test_a_program_that_ends_early_is_timed_for_fewer_steps() -> None:
    answers = iter([Found(status="failed", reason="it ended", steps_seen=12), seen([1])])
    one = bench(FakeForks(lambda names: next(answers)))
    one.first()
    assert one.opening is not None
    assert one.steps == 12 - WATCHED - one.warmup
    with pytest.raises(MeasurementError, match="cannot be measured: it ended"):
        bench(FakeForks(lambda names: Found(status="failed", reason="it ended", steps_seen=8))).first()


def test_long_steps_get_short_runs() -> None:
    survey = Found(times_ns=[100] * 5, wall_ns=2000, steps_seen=10)
    assert steps_within(10**9, 6, survey, warmup=3) == STEPS
    assert steps_within(4 * 6 * (1000 + 100 * (3 + WATCHED + 7)), 6, survey, warmup=3) == 7
    assert steps_within(1, 6, survey, warmup=3) == LEAST_STEPS


def test_what_is_clearly_slower_is_not_tried_again() -> None:
    one = bench(FakeForks(lambda names: seen([130] * 4 if names == ["a"] else [100] * 4)))
    one.round([("a",), ("b",)], "alone", 0)
    assert one.slower(("a",))
    assert not one.slower(("b",))


def test_a_ratio_and_its_verdict() -> None:
    fast = measured("r", rounds(seen([50, 51, 50, 49])))
    assert fast is not None
    assert fast.verdict == "faster"
    assert fast.low <= fast.ratio <= fast.high
    assert fast.ratio == pytest.approx(0.5, rel=0.03)
    even = measured("r", rounds(seen([100, 99, 101, 100])))
    assert even is not None
    assert even.verdict == "undecided"
    assert measured("other", rounds(seen([1]))) is None
    assert noise(rounds(seen([1]))) == pytest.approx(0.02, abs=0.02)


@pytest.mark.parametrize(
    ("losses", "gradients", "verdict"),
    [
        ([1.0, 0.5], [1.0, 2.0], "same"),
        ([1.0, 0.500001], [1.0, 2.0], "same"),
        ([1.0, 0.502], [1.0, 2.0], "close"),
        ([1.0, 0.52], [1.0, 2.0], "differs"),
        ([1.0, float("nan")], [1.0, 2.0], "differs"),
        ([1.0, 0.5], [1.0, 0.0], "differs"),  # a gradient is lost, too late for the loss to show it
    ],
)
def test_the_loss(losses: list[float], gradients: list[float], verdict: str) -> None:
    all_rounds = rounds(seen([1], losses, gradients))
    change, reason = loss_change("r", all_rounds, repeats(all_rounds))
    assert change is not None
    assert change.verdict == verdict
    assert (reason is not None) == (gradients[1] == 0)


def test_losses_of_a_program_that_is_not_repeatable() -> None:
    draws = [[1.0, 0.8], [1.1, 0.9], [0.9, 0.7], [1.05, 0.85]]
    some = [
        {
            BASE: seen([1], draws[i]),
            TWIN: seen([1], draws[i + 2]),
            "r": seen([1], [0.98, 0.8]),
            "s": seen([1], [2.0, 2.0]),
        }
        for i in range(2)
    ]
    known = repeats(some)
    assert not known.repeatable
    verdicts = [change.verdict for name in ("r", "s") if (change := loss_change(name, some, known)[0])]
    assert verdicts == ["same", "differs"]


def sample() -> Fix:
    gain = Gain(ns=10, speedup=1.3, low=1.1, high=1.4, basis="model")
    fast = Measured(ratio=0.8, low=0.78, high=0.82, verdict="faster")
    tried = [
        Tried(finding="L1", arm="lora-fused", kind="same_training", text="fuse it", predicted=gain, measured=fast,
              covered=True, peak_bytes=1 << 28, loss=LossChange(largest_relative_difference=0.0, verdict="same"),
              status="kept"),
        Tried(finding=None, arm="autocast", kind="numerics", text="cast", measured=fast, status="loss differs",
              loss=LossChange(largest_relative_difference=0.2, verdict="differs"), reason="gradients differ by 20%"),
        Tried(finding=None, arm="tf32", kind="numerics", text="t", status="refused", reason="this device has no TF32"),
    ]  # fmt: skip
    return Fix(
        target="train.py",
        device_name="a device",
        base=Unchanged(median_ns=1000, low_ns=990, high_ns=1010, peak_bytes=1 << 28, loss=[1.0]),
        noise_floor=0.01,
        remedies=tried,
        rounds=3,
    )


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


def test_the_headline() -> None:
    found = sample()
    assert headline(found) == "1.25x [1.22, 1.28] the speed, measured, with lora-fused."
    both = Together(arms=["lora-fused", "tf32"], measured=Measured(ratio=0.5, low=0.5, high=0.5, verdict="faster"))
    assert "lora-fused and tf32 together" in headline(msgspec.structs.replace(found, together=both))
    assert headline(msgspec.structs.replace(found, remedies=[])).startswith("No remedy")


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
    assert "| fused-optimizer | n/a | n/a |" in (tmp_path / "table.md").read_text()


def test_many_ranks_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["fix"]) == 4
    assert "in one process" in capsys.readouterr().err


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


def test_a_remedy_that_does_not_fit_is_refused_by_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = script(tmp_path)
    with pytest.raises(UsageError, match="no adapted layer"), RemedyArm(["lora-fused"]):
        run_script(command.target, False)
    with pytest.raises(UsageError, match="a script has full, frozen, lora"):
        arm_names("lora,dora", (), True)
    assert arm_names("lora,lora-fused+autocast", (), True) == ["lora", "lora-fused+autocast"]


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
    assert _gone(int((tmp_path / "pid").read_text()))
    assert not list(tmp_path.glob("loraprof-*"))


def test_a_recording_says_its_command() -> None:
    place = Path(__file__).parents[1] / "profiles/recordings/h100-sxm/minimind-26m.loraprof"
    command, name, _ = _of_recording(place)
    assert name == "minimind-26m"
    assert command.spec is not None
    assert (command.spec.rank, command.spec.adapter, command.spec.autocast) == (2, "handwritten", "bfloat16")


@pytest.mark.parametrize(
    ("ratio", "low", "high", "covered"),
    [(0.8, 0.78, 0.82, True), (0.6, 0.55, 0.65, False), (0.95, 0.92, 0.97, False), (0.65, 0.5, 0.8, None)],
)
def test_whether_a_prediction_held(ratio: float, low: float, high: float, covered: bool | None) -> None:
    """A measured interval that reaches into the predicted 1.1x to 1.4x from outside decides nothing."""
    gain = Gain(ns=10, speedup=1.3, low=1.1, high=1.4, basis="model")
    assert _covered(gain, Measured(ratio=ratio, low=low, high=high, verdict="faster")) is covered
    assert _covered(None, None) is None


def test_remedies_are_added_while_they_help() -> None:
    """c helps alone and not beside the others; d changes the loss only together with a."""
    speed = {"": 100, "a": 80, "b": 90, "c": 95, "d": 85, "a+d": 60, "a+b": 70, "a+b+c": 72}

    def answers(names: list[str]) -> Found:
        key = "+".join(names)
        return seen([speed[key], speed[key] + 1] * 5, [9.0, 9.0] if key == "a+d" else [1.0, 0.5])

    one = bench(FakeForks(answers))
    one.base_s = 1.0
    entries = [(name,) for name in "abcd"]
    for number in range(2):
        one.round(entries, "alone", number)
    known = repeats(one.rounds)
    alone = [
        Tried(finding=None, arm=name, kind="numerics", text="", measured=measured(name, one.rounds), status="kept")
        for (name,) in entries
    ]
    found = _together(one, alone, known, None, 0)
    assert found is not None
    assert found.arms == ["a", "b"]
    assert found.measured.ratio == pytest.approx(0.7, abs=0.01)
    assert _together(one, alone[:1], known, None, 0) is None
    one.deadline_ns = 0
    assert _together(one, alone, known, None, 0) is None


def test_what_is_settled_needs_no_further_round() -> None:
    def asked(*medians: int) -> int:
        turns = cycle(medians)
        fake = FakeForks(lambda names: seen([next(turns) if names else 100] * 4))
        _repeat(bench(fake), [REMEDIES["autocast"]], 0)
        return fake.asked.count("autocast")

    assert asked(50) == 3
    assert asked(80, 120) == 10
    assert asked(130) == 1  # clearly slower


def report_of(*findings: Finding) -> Report:
    return msgspec.structs.replace(sample_report.report(), findings=list(findings))


def cause(key: str, arm: str | None, gain: Gain | None, whole: Gain | None = None) -> Finding:
    remedy = RemedyReport(kind="same_training", stack="plain", text="do it", arm=arm, gain=gain)
    return Finding(
        id=key, severity="major", title="", evidence=[], remedy="", gain=whole or gain, see=[], remedies=[remedy]
    )


def test_what_a_remedy_promises_is_its_own_gain() -> None:
    """Never the whole of the cause's: that another remedy may gain more says nothing of this one."""
    large, small = (Gain(ns=ns, speedup=1.3, low=1.1, high=1.4, basis="model") for ns in (20, 10))
    compiled = REMEDIES["compile-blocks"]
    assert promise(compiled, report_of(cause("H1", "compile-blocks", None, large))) == 1.0
    assert promise(compiled, report_of(cause("H1", None, None, large))) == 1.0
    both = report_of(cause("H1", "compile-blocks", None, large), cause("L1", "compile-blocks", small))
    assert refused(compiled, "", both).predicted == small
    assert refused(compiled, "", both).finding == "L1"
    assert refused(compiled, "", report_of(cause("H1", None, None, large))).finding == "H1"
