"""What a profile announces: passes, time at the pace seen, memory; and what it refuses before it starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.memory import enough_memory, memory_plan
from loraprof.capture.passes.plan import CALIBRATION_S, COSTS_S, COUNTED, PROFILED, Plan
from loraprof.capture.passes.session import Session
from loraprof.cli.app import run
from loraprof.cli.profile import profile
from loraprof.errors import LoraprofError, MeasurementError, UsageError
from loraprof.store.specs import load_workload
from loraprof.workloads.models import make_model, weights_nbytes

CPU = torch.device("cpu")


def test_the_time_that_is_left() -> None:
    plan = Plan(skip=3, timed=10, count=1, warmup=3, steps=3)
    steps = 11 + COUNTED + 6 * PROFILED
    early = steps - COUNTED  # counted for the first recording already
    costs = COSTS_S + CALIBRATION_S
    assert plan.pace(10**9, 11, sampled=False).endswith(f"about {early + costs:.0f} s to go, calibration included")
    assert plan.pace(10**9, 11, sampled=True).endswith(f"about {steps + 5 + costs:.0f} s to go, calibration included")
    known = replace(plan, calibrated=True).pace(10**9, 11, sampled=False)
    assert known.endswith(f"about {early + COSTS_S:.0f} s to go, calibration included")


def test_memory_of_a_built_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(256, 512, bias=False)
    weights = 4 * 256 * 512  # 512 KiB; gradients and two moments are as large
    assert memory_plan(model, torch.optim.AdamW(model.parameters()), CPU).startswith("at least 2.00 MiB")
    assert memory_plan(model, torch.optim.SGD(model.parameters()), CPU).startswith("at least 1.00 MiB")
    model.requires_grad_(False)
    assert memory_plan(model, torch.optim.AdamW(model.parameters()), CPU).startswith("at least 512 KiB")
    model.requires_grad_(True)
    monkeypatch.setattr(Cpu, "available_bytes", lambda _: 3 * weights)
    memory_plan(model, torch.optim.AdamW(model.parameters()), CPU)
    monkeypatch.setattr(Cpu, "available_bytes", lambda _: 3 * weights - 1)
    with pytest.raises(MeasurementError, match=r"need 1\.50 MiB, 1\.50 MiB are free"):
        memory_plan(model, torch.optim.AdamW(model.parameters()), CPU)


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "minimind-26m", "resnet18"])
def test_weights_are_counted_before_they_are_made(name: str) -> None:
    spec = load_workload(name)
    model = make_model(spec, CPU)
    assert weights_nbytes(spec) == sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


def test_only_running_out_of_memory_is_an_answer() -> None:
    with pytest.raises(MeasurementError, match="out of memory: CUDA out of memory"), enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")
    with pytest.raises(MeasurementError, match="out of memory"), enough_memory():
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), enough_memory():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("field", "value", "code", "said"),
    [
        ("device", "mps", 4, "mps: torch knows this device, loraprof cannot measure it"),
        ("device", "xpu:0", 4, "xpu:0: torch knows"),
        ("device", "tpu", 2, "'tpu', not one of auto, cpu, cuda"),
        ("dtype", "int8", 2, "'int8', not one of float32, bfloat16, float16"),
        ("alpha", "nan", 2, "alpha` must be a finite number"),
        ("rank", "many", 2, "rank"),
    ],
)
def test_options_that_cannot_be(field: str, value: str, code: int, said: str) -> None:
    with pytest.raises(LoraprofError, match=said) as error:
        load_workload("tiny-llama-cpu", {field: value})
    assert error.value.exit_code == code


def test_a_model_on_a_device_that_cannot_be_measured() -> None:
    model = nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.SGD(model.parameters())
    stopped: list[int] = []
    session = Session(Plan(), lambda: stopped.append(1))
    session.install()
    try:
        optimizer.step()
    finally:
        session.remove()
    assert stopped == [1]
    assert isinstance(session.failure, MeasurementError)
    assert "meta devices cannot be measured" in session.failure.message


def test_the_pace_is_told_once() -> None:
    told: list[str] = []
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with Session(Plan(skip=2, timed=2), tell=told.append):
        for _ in range(4):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert [text[:21] for text in told] == ["a step takes about 0."] or len(told) == 1


def test_a_module_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-m needs a module"):
        profile(module=True, record=tmp_path / "x.loraprof")


def test_the_report_is_no_recording(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "-o", "x.loraprof"]) == 2
    assert "--record PATH says where the recording goes" in capsys.readouterr().err
