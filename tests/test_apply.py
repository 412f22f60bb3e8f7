"""Arms on a script's own model: what changes in place, and what is refused with its reason."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from benchmarks.shrink import shrink
from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import load_workload
from loraprof.workloads.apply import apply_arm
from loraprof.workloads.build import build
from loraprof.workloads.families import family_of, layers_of


def small(name: str, **changes: Any) -> WorkloadSpec:
    return replace(shrink(load_workload(name)), device="cpu", **changes)


def script(name: str = "tiny-llama-cpu", **changes: Any) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], Any]]:
    """What a script has: a model, an optimizer over what it trains, and its loop's body."""
    built = build(small(name, **changes))
    return built.model, built.optimizer, built.step


def changed_by(step: Callable[[], Any], model: nn.Module) -> set[str]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def is_adapter(name: str) -> bool:
    return ".lora_" in name or ".modules_to_save." in name


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "gpt2-xl", "roberta-base", "resnet18"])
def test_full_trains_the_base_in_place(name: str) -> None:
    model, optimizer, step = script(name, lr=0.1, clip=None)
    group, held = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step()
    apply_arm(model, optimizer, "full")
    changed = changed_by(step, model)
    schedule.step()
    assert changed == {name for name, _ in model.named_parameters() if not is_adapter(name)}
    assert optimizer.param_groups[0] is group
    assert group["params"] is held
    assert group["lr"] == pytest.approx(0.01)


def test_full_computes_what_the_full_arm_computes() -> None:
    model, optimizer, step = script(optimizer="sgd", lr=0.1, clip=None)
    apply_arm(model, optimizer, "full")
    reference = build(small("tiny-llama-cpu", optimizer="sgd", lr=0.1, clip=None), "full")
    by_hand = [float(reference.step()) for _ in range(3)]
    assert [float(step()) for _ in range(3)] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "roberta-base", "resnet18"])
def test_frozen_bypasses_the_adapters_and_lets_gradients_through(name: str) -> None:
    model, optimizer, step = script(name, lr=0.1)
    step()
    apply_arm(model, optimizer, "frozen")
    calls: list[str] = []
    gradients: list[bool] = []
    for path, module in model.named_modules():
        if path.endswith("lora_A.default"):
            module.register_forward_hook(lambda *_: calls.append("adapter"))
    bare: Any = model
    lowest = layers_of(bare.get_base_model(), family_of(small(name)))[0]
    lowest.register_full_backward_hook(lambda _m, into, _out: gradients.append(next(iter(into)) is not None))
    assert changed_by(step, model) == set()
    assert calls == []
    assert gradients == [True]


def test_lora_leaves_the_script_as_it_is() -> None:
    model, optimizer, step = script(lr=0.1)
    apply_arm(model, optimizer, "lora")
    step()
    assert changed_by(step, model) == {name for name, _ in model.named_parameters() if is_adapter(name)}


def test_a_script_without_adapters() -> None:
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="there is no adapter"):
        apply_arm(model, optimizer, "lora")
    apply_arm(model, optimizer, "full")
    assert all(p.requires_grad for p in model.parameters())
    apply_arm(model, optimizer, "frozen")
    hidden: list[Tensor] = []
    model[0].register_forward_hook(lambda _m, _i, out: hidden.append(out))
    model(torch.arange(8)).sum().backward()
    assert hidden[0].grad is not None
    assert all(p.grad is None for p in model.parameters())


class FSDPModule(nn.Linear):
    """Stands in for torch.distributed.fsdp.FSDPModule, which every module of a sharded model inherits."""


@pytest.fixture
def gloo(tmp_path: Any) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("arm", ["full", "frozen"])
def test_distributed_models_are_refused_unchanged(arm: str, gloo: None) -> None:
    model, optimizer, _ = script()
    trained = [p.requires_grad for p in model.parameters()]
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(UsageError, match="DistributedDataParallel"):
        apply_arm(wrapped, optimizer, arm)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert float(sum(p.numel() for g in optimizer.param_groups for p in g["params"])) == 18176


@pytest.mark.parametrize("arm", ["full", "frozen"])
def test_sharded_and_hand_written_models_are_refused(arm: str) -> None:
    sharded = FSDPModule(4, 4)
    with pytest.raises(UsageError, match="FSDP"):
        apply_arm(sharded, torch.optim.SGD(sharded.parameters()), arm)
    model, optimizer, _ = script("minimind-26m")
    with pytest.raises(UsageError, match="no PEFT layer"):
        apply_arm(model, optimizer, arm)
    apply_arm(model, optimizer, "lora")


def test_arms_for_built_in_workloads_are_refused_on_scripts() -> None:
    model, optimizer, _ = script()
    with pytest.raises(UsageError, match="full, frozen, lora"):
        apply_arm(model, optimizer, "dora")


def test_grad_scaler_limits_what_can_be_applied() -> None:
    model, optimizer, _ = script()
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(UsageError, match="GradScaler refuses a step without gradients"):
        apply_arm(model, optimizer, "frozen")
    half, half_optimizer, _ = script("tinyllama-1.1b", dtype="float16")
    with pytest.raises(UsageError, match="float16"):
        apply_arm(half, half_optimizer, "full")
    apply_arm(model, optimizer, "full")
    assert all(p.requires_grad for name, p in model.named_parameters() if not is_adapter(name))
    del scaler
    apply_arm(half, half_optimizer, "frozen")


def test_quantized_base_weights_cannot_be_trained() -> None:
    model, optimizer, _ = script()
    weight: Any = model.get_submodule("base_model.model.model.layers.0.mlp.down_proj.base_layer")
    weight.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UsageError, match="quantized"):
        apply_arm(model, optimizer, "full")
