"""A LoRA layer whose forward one autograd function of the script does: its products are told apart by their shapes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from attached import FEW, attached_to_nothing
from torch import Tensor, nn

import loraprof
from loraprof.analysis.prediction.gradients import gradients
from loraprof.model.recording import Recording
from loraprof.model.report import Report
from loraprof.model.vocabulary import Phase, Role

T, K, N, R = 20, 48, 96, 4


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        h = x @ a.t()
        ctx.save_for_backward(x, w, a, b, h)
        ctx.scale = scale
        return (x @ w.t()).addmm_(h, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        x, w, a, b, h = ctx.saved_tensors
        (g,) = upstream
        narrow = (g @ b).mul_(ctx.scale)
        into = (g @ w).addmm_(narrow, a) if ctx.needs_input_grad[0] else None
        return into, None, narrow.t() @ x, (g.t() @ h).mul_(ctx.scale), None


def training(wide: int) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(K, wide, bias=False), nn.GELU(), nn.Linear(wide, K, bias=False))
    model = peft.get_peft_model(layers, peft.LoraConfig(r=R, lora_alpha=8, target_modules=["0", "2"]))
    for layer in model.modules():
        if hasattr(layer, "lora_A") and layer.lora_A:

            def forward(x: Tensor, m: Any = layer) -> Any:
                weights = (m.base_layer.weight, m.lora_A["default"].weight, m.lora_B["default"].weight)
                return Fused.apply(x, *weights, m.scaling["default"])

            layer.forward = forward
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(12):
        model(torch.randn(T, K)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


Measured = tuple[int, Report, Recording]


@pytest.fixture(scope="module", params=[N, K], ids=["wide", "square"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    with pytest.MonkeyPatch.context() as patch, attached_to_nothing(patch):
        place: Path = tmp_path_factory.mktemp("own") / "x.loraprof"
        with loraprof.profile(place, **FEW) as p:
            training(request.param)
        yield request.param, p.report, p.recording


def test_each_product_has_its_role_forward_and_backward(measured: Measured) -> None:
    wide, report, _ = measured
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (2, R)
    flops: Counter[tuple[Role, Phase]] = Counter()
    for kernel in report.kernels:
        if kernel.op in ("aten::mm", "aten::addmm", "aten::addmm_"):
            flops[kernel.role, kernel.phase] += kernel.flops or 0
    base, a, b = 2 * T * K * wide, 2 * T * R * (K + wide), 2 * T * R * (wide + K)  # of both layers; a layer for base
    assert flops["base.linear", "forward"] == 2 * base
    assert flops["base.linear", "backward"] == base  # the first layer's input needs no gradient
    assert flops["adapter.down", "forward"] == a
    assert flops["adapter.up", "forward"] == b
    assert flops["adapter.up", "backward"] == 2 * b
    assert flops["adapter.down", "backward"] == a + 2 * T * R * wide


def test_full_fine_tuning_would_need_the_gradients_of_weights_whose_modules_were_not_called(measured: Measured) -> None:
    asked: set[tuple[int, int, int]] = set()

    class Rates:
        def gemm_ns(self, m: int, n: int, k: int, _: str) -> float:
            asked.add((m, n, k))
            return 1000.0

    wide, _, recording = measured
    bases = {m.id for m in recording.modules if m.part == "base"}
    assert len(bases) == 2
    assert bases.isdisjoint(call.module for call in recording.calls)
    found = gradients(recording, cast(Any, Rates()))
    assert {g.module for g in found or []} == bases
    assert asked == {(wide, K, T), (T, K, wide), (K, wide, T), (T, wide, K)}  # rows as counted
