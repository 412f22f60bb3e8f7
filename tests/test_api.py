"""The Python door: ``loraprof.profile`` around a loop, a step or a trainer; ``loraprof.load``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from attached import FEW, NEEDED, attached_to_nothing
from recordings import trace_bytes, write_recording
from torch import nn

import loraprof
from loraprof.capture.device.cpu import Cpu
from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.errors import InputError, MeasurementError, UsageError


class LoRA(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.a, self.b = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.b(self.a(x))
        return out


class Training:
    """One step at a time; ``whole`` counts the steps that ran to their end."""

    def __init__(self) -> None:
        self.model = nn.Sequential(LoRA(16), nn.GELU(), LoRA(16))
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad])
        self.whole = 0

    def loss(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.model(torch.randn(8, 16)).square().mean()
        loss.backward()
        return loss

    def step(self) -> None:
        self.loss()
        self.optimizer.step()
        self.whole += 1

    def closure_step(self) -> None:
        self.optimizer.step(self.loss)  # a tensor, as torch's own documentation does

    def train(self, steps: int = 50) -> None:
        for _ in range(steps):
            self.step()


@pytest.fixture
def training() -> Training:
    torch.manual_seed(0)
    return Training()


@pytest.fixture(autouse=True)
def detached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with attached_to_nothing(monkeypatch):
        yield


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_loop_stops_when_enough_was_seen(training: Training, tmp_path: Path) -> None:
    said: list[str] = []
    with loraprof.profile(tmp_path / "x.loraprof", **FEW, name="toy", progress=said.append) as p:
        p.describe(autocast="none", grad_clip=False)
        for _ in range(50):
            training.step()
            assert p.path is None
            if p.done:
                break
    assert (training.whole, p.done, p.path) == (NEEDED, True, tmp_path / "x.loraprof")
    assert said[0].startswith("plan: 1 steps to warm up, 2 timed")
    assert p.report.adapter is not None
    assert (p.report.adapter.modules, p.report.adapter.rank, p.report.source.workload) == (2, 4, "toy")
    assert p.report == loraprof.diagnose(str(p.path))
    recording = loraprof.load(p.path)  # type: ignore[arg-type]
    assert recording == p.recording
    assert recording.timing is not None
    assert len(recording.timing.samples_ns) == 2
    assert (recording.workload.autocast, recording.workload.grad_clip, recording.workload.micro_batches) == (
        "none",
        False,
        1,
    )


def test_a_function_of_one_step_is_called_and_never_cut_short(training: Training, tmp_path: Path) -> None:
    p = loraprof.profile(training.step, tmp_path / "x.loraprof", **FEW)
    assert training.whole == NEEDED
    assert p.path is not None
    assert len(p.report.steps) == 1


def test_a_trainer_is_left_when_enough_was_seen(training: Training, tmp_path: Path) -> None:
    caught: list[Exception] = []

    def train() -> None:
        try:
            training.train()
        except Exception as error:
            caught.append(error)

    loraprof.profile(train, tmp_path / "x.loraprof", **FEW)
    assert (training.whole, caught) == (NEEDED - 1, [])
    assert files(tmp_path) == ["x.loraprof"]


def test_a_loop_may_go_on(training: Training, tmp_path: Path) -> None:
    with loraprof.profile(tmp_path / "x.loraprof", **FEW):
        training.train(12)
    assert (training.whole, files(tmp_path)) == (12, ["x.loraprof"])


@pytest.mark.parametrize(("steps", "written"), [(2, []), (12, ["x.loraprof"])])
def test_what_the_loop_raises_passes_through(
    training: Training, tmp_path: Path, steps: int, written: list[str]
) -> None:
    def broken() -> None:
        with loraprof.profile(tmp_path / "x.loraprof", **FEW):
            training.train(steps)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert files(tmp_path) == written


def test_a_step_given_a_closure_is_described_as_any_other(training: Training, tmp_path: Path) -> None:
    """The gradients are there after the step only, as in Lightning."""
    plain = loraprof.profile(training.step, tmp_path / "plain.loraprof", **FEW).recording
    closed = loraprof.profile(training.closure_step, tmp_path / "closed.loraprof", **FEW).recording
    assert closed.workload.missing_gradients == []
    assert closed.memory is not None
    assert closed.memory.gradients_bytes
    assert closed.memory == plain.memory


@pytest.mark.parametrize("steps", [0, 2])
def test_too_few_steps_say_how_many(training: Training, tmp_path: Path, steps: int) -> None:
    needs = f"the recording needs {NEEDED} optimizer steps, {steps} were seen"
    with pytest.raises(MeasurementError, match=needs), loraprof.profile(tmp_path / "x.loraprof", **FEW):
        training.train(steps)
    p = loraprof.profile(tmp_path / "x.loraprof", **FEW).start()
    training.train(steps)
    with pytest.warns(UserWarning, match=needs):
        p.close()
    assert files(tmp_path) == []


def test_a_call_without_a_step_ends_it(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="made no optimizer step") as caught:
        loraprof.profile(lambda: None, tmp_path / "x.loraprof")
    assert caught.value.__notes__ == ["loraprof finds steps by the hooks of torch.optim optimizers"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda place: loraprof.profile(place / "x.json"), "ends in .loraprof"),
        (lambda place: loraprof.profile(place / "there.loraprof"), "exists already"),
        (lambda place: loraprof.profile(place / "x.loraprof", timed=0), "timed=0: at least one step"),
        (lambda place: loraprof.profile(lambda: None), "a function and a recording"),
        (lambda place: loraprof.profile("a.loraprof", "b.loraprof"), "a function and a recording"),
        (lambda place: loraprof.profile(place / "x.loraprof").report, "not written here"),
        (lambda place: loraprof.profile(place / "x.loraprof").finish(), "not being recorded"),
    ],
)
def test_misuse_is_told_before_anything_runs(call: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    (tmp_path / "there.loraprof").mkdir()
    with pytest.raises(UsageError, match=text):
        call(tmp_path)


def test_one_profile_at_a_time(training: Training, tmp_path: Path) -> None:
    first = loraprof.profile(tmp_path / "a.loraprof", **FEW).start()
    second = loraprof.profile(tmp_path / "b.loraprof", **FEW)
    with pytest.warns(UserWarning, match="0 were seen"):
        second.start()
    with pytest.raises(UsageError, match="another profile was started"):
        first.finish()
    with pytest.raises(MeasurementError, match="at work in this process already"):
        Session(Plan(), lambda: None).install()
    while not second.poll():
        training.step()
    second.close()
    assert files(tmp_path) == ["b.loraprof"]


def test_a_second_session_on_a_gpu_is_refused(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loraprof.profile(training.step, tmp_path / "x.loraprof", **FEW)
    monkeypatch.setattr(Cpu, "profiles_again", False)
    with pytest.raises(MeasurementError, match="profiled before"):
        loraprof.profile(training.step, tmp_path / "y.loraprof", **FEW)


def test_a_recording_is_written_where_it_was_asked_for(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with loraprof.profile("x.loraprof", **FEW) as p:
        monkeypatch.chdir(elsewhere)
        training.train(NEEDED)
    assert p.path == tmp_path / "x.loraprof"
    assert (files(tmp_path), files(elsewhere)) == (["elsewhere", "x.loraprof"], [])


def test_recordings_are_compared(training: Training, tmp_path: Path) -> None:
    one = loraprof.profile(training.step, tmp_path / "one.loraprof", **FEW).path
    two = loraprof.profile(training.step, tmp_path / "two.loraprof", **FEW).path
    assert one is not None
    assert two is not None
    found = loraprof.compare(one, str(two))
    assert (list(found.arms), found.interleaved) == (["one", "two"], False)
    assert found.waterfall is not None
    assert sum(bar.ns for bar in found.waterfall.bars) == found.waterfall.to_ns - found.waterfall.from_ns
    with pytest.raises(UsageError, match="one recording"):
        loraprof.compare(one)


def test_public_names_resolve() -> None:
    assert set(loraprof.__all__) <= set(dir(loraprof))
    assert all(getattr(loraprof, name).__name__ == name for name in loraprof.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        loraprof.nothing  # noqa: B018


def test_a_profiler_of_the_loops_own_ends_it(training: Training, tmp_path: Path) -> None:
    refused = "a profiler of its own"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        for train in (training.step, training.train):
            with pytest.raises(MeasurementError, match=refused):
                loraprof.profile(train, tmp_path / "x.loraprof", **FEW)
        p = loraprof.profile(tmp_path / "x.loraprof", **FEW).start()
        training.step()
        assert p.done
        with pytest.warns(UserWarning, match=refused):
            assert not p.poll(warn=True)
    training.train(12)  # goes on unwatched
    p.close()
    assert (p.done, files(tmp_path)) == (False, [])


def test_load_reads_recordings_only(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof")
    assert loraprof.load(place).workload.name == "toy"
    trace = tmp_path / "trace.json"
    trace.write_bytes(trace_bytes())
    with pytest.raises(InputError, match="a trace without a recording"):
        loraprof.load(trace)
