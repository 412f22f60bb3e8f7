"""Remedies that train something else: each equals the change made by hand, and is gone when it is taken back."""

import copy
from collections.abc import Callable

import pytest
import torch
from live import Handwritten, causal, gradients, llama, same, tokens, trained
from torch import nn

from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.program import Program

pytestmark = pytest.mark.usefixtures("seeded")


def test_no_dropout() -> None:
    model, batch = llama(lora_dropout=0.5), tokens()
    program, _ = causal(model, batch)
    remedy = REMEDIES["lora-nodropout"]
    assert remedy.fits(program) is None
    by_hand = copy.deepcopy(model)
    for module in by_hand.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    undo()
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in model.modules()) == 6
    assert remedy.fits(causal(llama(), batch)[0]) == "no adapter has dropout"


def test_query_and_value_only() -> None:
    model, batch = llama(), tokens()
    program, _ = causal(model, batch)
    by_hand = copy.deepcopy(model)
    for name, module in by_hand.named_modules():
        if name.endswith("up_proj"):
            module.enable_adapters(False)
            module.requires_grad_(False)
    remedy = REMEDIES["lora-qv"]
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    undo()
    assert len(trained(model)) == 12
    few = causal(llama(target_modules=["q_proj", "v_proj"]), batch)[0]
    assert remedy.fits(few) == "no layer beside query and value is adapted, or neither of them is"


def _without(model: nn.Module, layers: Callable[[str], bool]) -> nn.Module:
    """A copy whose adapters of these layers are left out."""
    by_hand = copy.deepcopy(model)
    for name, module in by_hand.named_modules():
        if hasattr(module, "adapter_layer_names") and layers(name):
            module.enable_adapters(False)
            module.requires_grad_(False)
    return by_hand


def test_adapters_of_the_upper_layers_alone() -> None:
    model, batch = llama(), tokens()
    program, step = causal(model, batch)
    by_hand, remedy = _without(model, lambda name: ".layers.0." in name), REMEDIES["upper-layers"]
    before = step()
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    assert len(trained(model)) == 6
    undo()
    assert len(trained(model)) == 12
    assert step() == before
    lower = causal(llama(layers_to_transform=[1]), batch)[0]
    assert "lower and in their upper half" in (remedy.fits(lower) or "")


@pytest.mark.parametrize("name", ["full", "upper-whole"])
def test_weights_of_the_base_in_place_of_adapters(name: str) -> None:
    model, batch = llama(), tokens()
    program, step = causal(model, batch)
    by_hand, remedy, before = _without(model, lambda name: True), REMEDIES[name], step()
    owned = list(program.optimizer.param_groups[0]["params"])
    for path, p in by_hand.named_parameters():
        p.requires_grad_("lora_" not in path and (name == "full" or ".layers.1." in path))
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    assert program.trained == trained(model)
    step()
    undo()
    assert step() == before
    assert program.optimizer.param_groups[0]["params"] == owned == trained(model)


def test_columns_of_the_base_in_place_of_adapters() -> None:
    model, batch = llama(), tokens()
    program, step = causal(model, batch)
    by_hand, remedy, before = _without(model, lambda name: True), REMEDIES["paca"], step()
    for path, p in by_hand.named_parameters():
        p.requires_grad_(
            path.endswith(("q_proj.base_layer.weight", "v_proj.base_layer.weight", "up_proj.base_layer.weight"))
        )
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    loss = model(**batch).loss
    torch.testing.assert_close(loss, by_hand(**batch).loss)
    loss.backward()
    draw, whole = torch.Generator().manual_seed(0), gradients(by_hand, batch)
    assert len(program.trained) == len(whole) == 6
    index = [torch.randperm(g.shape[1], generator=draw)[:4].sort().values for g in whole]
    same([p.grad for p in program.trained if p.grad is not None], [g[:, i] for g, i in zip(whole, index, strict=True)])
    program.optimizer.param_groups[0]["lr"] = 0.1
    step()
    assert step() != before
    undo()
    program.optimizer.param_groups[0]["lr"] = 0.0
    assert step() == before


def test_handwritten_adapters_are_bypassed_too() -> None:
    layers, x = [Handwritten(), Handwritten()], torch.randn(4, 16)
    model, bases = nn.Sequential(*layers), nn.Sequential(*(layer.base for layer in layers))
    program = Program(model=model, optimizer=torch.optim.SGD(trained(model), lr=0.0))
    before, undo = model(x), REMEDIES["full"].apply(program)
    torch.testing.assert_close(model(x), bases(x))
    assert {id(p) for p in program.trained} == {id(p) for p in bases.parameters()}
    undo()
    assert torch.equal(model(x), before)


def test_what_trains_something_else_is_refused() -> None:
    plain = nn.Linear(4, 4)
    program = Program(model=plain, optimizer=torch.optim.SGD(plain.parameters()))
    for name in ("full", "paca", "upper-whole", "upper-layers", "lora-qv"):
        assert REMEDIES[name].fits(program) == "there is no adapted layer"
    odd = nn.Sequential(Handwritten(drop=0.5))
    other = Program(model=odd, optimizer=torch.optim.SGD(trained(odd)))
    assert REMEDIES["full"].fits(other) == "0: its adapter cannot be left out from outside"
