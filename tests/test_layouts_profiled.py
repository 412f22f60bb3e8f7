"""The same from the step to the report: roles of single ops, networks, sampling, dense changes. Counts alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import layouts_models
import pytest
import torch
from attached import FEW, NEEDED, attached_to_nothing
from layouts import D, R, stack
from torch import nn

import loraprof
from loraprof.analysis.attribution.networks import SAMPLED
from loraprof.model.report import Report


@pytest.fixture(autouse=True)
def detached(monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[misc]
    with attached_to_nothing(monkeypatch):
        yield


def profiled(place: Path, model: nn.Module, before: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Report:
    """``before`` runs in every step on the batch, without gradient; what it gives is added to the output."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        x = torch.randn(6, D)
        with torch.no_grad():
            extra = before(x) if before else torch.zeros(())
        (model(x) + extra).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    loraprof.profile(step, place / "x.loraprof", **FEW)
    return loraprof.diagnose(place / "x.loraprof")


def products(report: Report, phase: str = "forward") -> dict[str, int]:
    rows = [k for k in report.kernels if k.op in ("aten::mm", "aten::addmm", "aten::bmm") and k.phase == phase]
    return {role: sum(k.count for k in rows if k.role == role) for role in sorted({k.role for k in rows})}


def test_one_module_that_does_everything(tmp_path: Path) -> None:
    report = profiled(tmp_path, layouts_models.Inline())
    assert report.adapter is not None
    assert [(s.path, s.rank, s.how) for s in report.adapter.sites] == [("wq", R, "observed"), ("wv", R, "observed")]
    forward, backward = products(report), products(report, "backward")
    assert (forward["adapter.down"], forward["adapter.up"]) == (2, 2)
    assert forward["base.linear"] >= 2
    assert backward["adapter.up"] == 4  # to its input and to its weight
    sums = [k for k in report.kernels if k.op == "aten::add" and k.phase == "forward"]
    assert sum(k.count for k in sums if k.role == "adapter.elementwise") == 2
    assert sum(k.count for k in sums if k.role not in ("adapter.elementwise", "loss")) == 1


class LowRank(nn.Module):
    """Both parts in one module, bare, multiplied from the right."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.A, self.B = layouts.matrix(inputs, R), layouts.matrix(R, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = 2.0 * (x @ self.A @ self.B)
        return out


class Beside(nn.Module):
    """The adapter is a module beside the linear."""

    def __init__(self, k: int, n: int) -> None:
        super().__init__()
        self.linear, self.delta = layouts.frozen(k, n), LowRank(k, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) + self.delta(x)
        return out


class Children(nn.Module):
    """The layer holds the frozen weight itself, A and B as linears, and calls its widths what it likes."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.weight = layouts.matrix(out_dim, in_dim).requires_grad_(False)
        self.lora_a, self.lora_b = nn.Linear(in_dim, R, bias=False), nn.Linear(R, out_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = nn.functional.linear(x, self.weight) + 2.0 * self.lora_b(self.lora_a(x))
        return out


@pytest.mark.parametrize("make", [layouts.OwnWeight, layouts.InFunction, layouts.Grouped, Beside, Children])
def test_base_and_adapter_in_one_module(tmp_path: Path, make: Callable[[int, int], nn.Module]) -> None:
    report = profiled(tmp_path, stack(make))
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (2, 2 * R if make is layouts.Grouped else R)
    busy = {role: report.steps[0].ns(kind="busy", role=role) for role in ("base.linear", "adapter.down", "adapter.up")}
    assert all(busy.values())
    assert products(report)["adapter.down"] == 2


def test_a_frozen_network_is_a_part_of_its_own(tmp_path: Path) -> None:
    wide = 4096  # most of the step, on any machine
    encoder = nn.Sequential(*(m for _ in range(20) for m in (layouts.frozen(D, wide), layouts.frozen(wide, D))))
    report = profiled(tmp_path, stack(layouts.Wrapper), encoder)
    rows = [(n.name, n.trained, n.adapters, n.phase, n.calls) for n in report.networks]
    assert rows == [("Sequential", False, 0, "forward", 1), ("Sequential_2", True, 2, "forward", 1)]
    step = report.steps[0]
    for n in report.networks:
        assert n.busy_ns == sum(p.ns for p in step.partition if p.kind == "busy" and p.network == n.name)
    assert sum(n.share for n in report.networks) < 1
    found = {f.id: f for f in report.findings}
    assert "B11" in found, (report.networks, list(found))
    assert found["B11"].evidence[1].value == "Sequential"
    assert "cache" in found["B11"].remedy


def test_sampling_is_a_phase(tmp_path: Path) -> None:
    model = stack(layouts.Wrapper)

    def sample(x: torch.Tensor) -> torch.Tensor:
        for _ in range(SAMPLED + 2):
            x = model(x)
        return x

    report = profiled(tmp_path, model, sample)
    rows = [(n.name, n.phase, n.calls) for n in report.networks]
    assert rows == [("Sequential", "forward", 1), ("Sequential", "generate", SAMPLED + 2)]
    assert products(report)["adapter.down"] == 2
    assert products(report, "generate")["adapter.down"] == 2 * (SAMPLED + 2)
    assert "B12" in {f.id for f in report.findings}


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_sampling_in_a_script_that_goes_on(tmp_path: Path, quiet: Callable[[], Any]) -> None:
    """The profiler stops in the step after the last one."""
    model, rewards = stack(layouts.Wrapper), layouts.frozen(D, D)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with loraprof.profile(tmp_path / "x.loraprof", **FEW) as p:
        for _ in range(NEEDED + 2):
            with quiet():
                x = torch.randn(6, D)
                for _ in range(SAMPLED + 2):
                    x = model(x)
                reward = rewards(x)
            (model(x.clone()) * reward.clone()).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    rows = [(n.name, n.trained, n.phase, n.calls) for n in p.report.networks]
    assert rows == [
        ("Sequential", True, "forward", 1),
        ("Sequential", True, "generate", SAMPLED + 2),
        ("Linear", False, "forward", 1),
    ]
    assert p.recording.notes == ["NVML: the step runs on the CPU"]


@pytest.mark.parametrize("rows", [6, D])
def test_a_change_as_large_as_its_weight_is_known_by_what_it_is_made_of(tmp_path: Path, rows: int) -> None:
    """Whatever the tokens: as many as the layer is wide tell nothing by shape."""

    class Net(nn.Module):
        def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
            super().__init__()
            self.layer = make(D, D)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(torch.randn(rows, D))
            return out[:6]

    for name, make in (("dense", layouts.Magnitude), ("plain", layouts.OwnWeight)):
        (tmp_path / name).mkdir()
        found = {f.id for f in profiled(tmp_path / name, Net(make)).findings}
        assert ("L7" in found) == (make is layouts.Magnitude)
