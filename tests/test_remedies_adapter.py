"""Remedies of the adapters' path: each equals the change made by hand, and is gone when it is taken back."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from live import Handwritten, causal, gradients, llama, observed, same, tokens, trained
from torch import Tensor, nn

from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.lora_sites import lora_sites
from loraprof.live_remedies.program import Program
from loraprof.workloads.arms.lowrank import LowRankLinear

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_fused_function_has_the_gradient_of_the_plain_one() -> None:
    x, w, bias = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, 5), (7, 5), (7,)))
    a, b = torch.randn(2, 5, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    for t in (x, a, b):
        t.requires_grad_()

    def fused(x: Tensor, a: Tensor, b: Tensor) -> Any:
        return LowRankLinear.apply(x, w, bias, a, b, 1.5, torch.float64, False)

    assert torch.autograd.gradcheck(fused, (x, a, b))
    torch.testing.assert_close(fused(x, a, b), F.linear(x, w, bias) + 1.5 * F.linear(F.linear(x, a), b))


@pytest.mark.parametrize("kind", ["peft", "handwritten"])
def test_fused_adapters(kind: str) -> None:
    if kind == "peft":
        model, batch = llama(), tokens()
        program, _ = causal(model, batch)
        run = lambda: gradients(model, batch)  # noqa: E731
    else:
        model = nn.Sequential(Handwritten(), Handwritten())
        x = torch.randn(8, 16)

        def run() -> list[Tensor]:
            model.zero_grad()
            model(x).square().mean().backward()
            return [p.grad.clone() for p in trained(model) if p.grad is not None]

        program = observed(model, torch.optim.SGD(trained(model), lr=0.0), run)
    weights = [p.detach().clone() for p in model.parameters()]
    forwards = [m.forward for m in model.modules()]
    plain, remedy = run(), REMEDIES["lora-fused"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    sites = lora_sites(program.model)
    assert isinstance(sites, list)
    assert len(sites) == (6 if kind == "peft" else 2)
    assert all("forward" in vars(site.module) for site in sites)
    same(run(), plain)
    undo()
    assert [m.forward for m in model.modules()] == forwards
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(
    ("lora", "reason"),
    [({"lora_dropout": 0.5}, "not W x + s B A x"), ({"use_dora": True}, "not W x + s B A x")],
)
def test_what_is_more_than_plain_lora_is_not_fused(lora: dict[str, Any], reason: str) -> None:
    program, _ = causal(llama(**lora), tokens())
    assert reason in (REMEDIES["lora-fused"].fits(program) or "")


def test_a_layer_without_adapters_is_not_fused() -> None:
    model = nn.Linear(4, 4)
    program = Program(model=model, optimizer=torch.optim.SGD(model.parameters()))
    assert REMEDIES["lora-fused"].fits(program) == "there is no adapted layer"


def test_adapters_in_the_bases_dtype() -> None:
    model = llama(dtype=torch.bfloat16)
    program, step = causal(model, tokens())
    remedy = REMEDIES["lora-bf16"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {s["exp_avg"].dtype for s in program.optimizer.state.values()} == {torch.bfloat16}
    assert torch.isfinite(torch.tensor(step()))
    undo()
    assert {p.dtype for p in trained(model)} == {torch.float32}
    assert {s["exp_avg"].dtype for s in program.optimizer.state.values()} == {torch.float32}
    assert REMEDIES["lora-bf16"].fits(causal(llama(), tokens())[0]) == "the adapters already have the base's dtype"


@pytest.mark.parametrize("kind", ["peft", "handwritten"])
def test_layers_that_share_one_product(kind: str) -> None:
    if kind == "peft":
        model, batch = llama(target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]), tokens()
        program, _ = causal(model, batch)
        run = lambda: gradients(model, batch)  # noqa: E731
    else:
        model = nn.ModuleDict({"query": Handwritten(), "key": Handwritten()})
        x = torch.randn(8, 16)

        def run() -> list[Tensor]:
            model.zero_grad()
            sum(layer(x).square().mean() for layer in model.values()).backward()
            return [p.grad.clone() for p in trained(model) if p.grad is not None]

        program = Program(model=model, optimizer=torch.optim.SGD(trained(model), lr=0.0))
    forwards = [m.forward for m in model.modules()]
    plain, remedy, products = run(), REMEDIES["shared-a"], _products(run)
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    same(run(), plain)
    fewer = 3 * (2 + 1) * 2 - 2 if kind == "peft" else 2  # A x, dA and dx of q, k, v and gate, up; no dx of the first
    assert products - _products(run) == fewer
    undo()
    assert [m.forward for m in model.modules()] == forwards


def _products(run: Callable[[], Any]) -> int:
    with torch.profiler.profile() as seen:
        run()
    return sum(e.count for e in seen.key_averages() if e.key in ("aten::mm", "aten::addmm"))


def test_layers_that_share_no_input() -> None:
    program, _ = causal(llama(target_modules=["q_proj", "up_proj"]), tokens())
    assert REMEDIES["shared-a"].fits(program) == "no two adapted layers read the same input"
    model = nn.ModuleDict({"query": Handwritten(), "key": Handwritten()})
    undo = REMEDIES["shared-a"].apply(Program(model=model, optimizer=torch.optim.SGD(trained(model))))
    xs = torch.randn(2, 8, 16)
    found = [layer(x) for layer, x in zip(model.values(), xs, strict=True)]  # named alike, called with different inputs
    undo()
    same(found, [layer(x) for layer, x in zip(model.values(), xs, strict=True)])


def test_narrow_ends_around_adapted_layers_are_no_adapter() -> None:
    """8 to 32 and 32 to 8 beside 32 to 32 have the shapes of one."""
    names = ["to_in", "to_hidden", "to_out"]
    ends = nn.ModuleDict(dict(zip(names, (nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8)), strict=True)))

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_in, self.to_hidden, self.to_out = ends.values()

        def forward(self, x: Tensor) -> Any:
            return self.to_out(self.to_hidden(self.to_in(x)))

    sites = lora_sites(peft.get_peft_model(Chain(), peft.LoraConfig(r=2, target_modules=names)))
    assert isinstance(sites, list)
    assert [site.path.rpartition(".")[2] for site in sites] == names
