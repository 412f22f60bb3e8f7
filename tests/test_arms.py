"""The arms: what each trains, that it computes what it claims, and how it refuses."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from benchmarks.shrink import shrink
from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import load_workload
from loraprof.workloads.arms import ARMS, resolve_arm
from loraprof.workloads.arms.lowrank import LowRankLinear
from loraprof.workloads.build import Built, build
from loraprof.workloads.families import family_of, layers_of
from loraprof.workloads.quality import DEFAULT_STEPS, train


def small(name: str, **changes: Any) -> WorkloadSpec:
    return replace(shrink(load_workload(name)), device="cpu", **changes)


# Which parameters each arm may change, by name, on a model of two layers.
INTENDED: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "frozen": lambda name: False,
    "lora": lambda name: ".lora_" in name,
    "lora-bf16": lambda name: ".lora_" in name,
    "lora-nodropout": lambda name: ".lora_" in name,
    "lora-qv": lambda name: ".lora_" in name and ("q_proj" in name or "v_proj" in name),
    "lora-top:1": lambda name: ".lora_" in name and ".layers.1." in name,
    "top:1": lambda name: ".layers.1." in name,
    "bitfit": lambda name: name.endswith(".bias"),
    "dora": lambda name: ".lora_" in name,
    "paca": lambda name: name.endswith(".paca_columns"),
    "lora-fused": lambda name: ".lora_" in name,
    "lora-merged": lambda name: ".lora_" in name,
    "lora-compile": lambda name: ".lora_" in name,
}


def test_every_arm_is_covered_and_described() -> None:
    assert {name.partition(":")[0] for name in INTENDED} == set(ARMS)
    assert all(arm.summary and arm.method and "\n" not in arm.summary for arm in ARMS.values())


@pytest.mark.parametrize("arm", [name for name in INTENDED if name != "lora-compile"])
def test_a_step_changes_the_intended_parameters_and_all_of_them(arm: str) -> None:
    spec = small("qwen2.5-0.5b", dropout=0.1 if arm == "lora-nodropout" else 0.0, lr=0.1)
    built = build(spec, arm)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    assert all(math.isfinite(float(built.step())) for _ in range(2))
    # PaCA writes its trained columns into the base weight, in the forward pass.
    own = {name for name in before if not (arm == "paca" and name.endswith(".weight"))}
    after = dict(built.model.named_parameters())
    changed = {name for name in own if not torch.equal(before[name], after[name])}
    assert changed == {name for name in own if INTENDED[arm](name)}
    assert built.trainable == sum(before[name].numel() for name in changed)


@pytest.mark.slow
def test_compiled_lora_agrees_with_eager() -> None:
    spec = small("tiny-llama-cpu", optimizer="sgd", lr=1.0)
    eager, compiled = build(spec), build(spec, "lora-compile")
    losses = [[float(built.step()) for _ in range(3)] for built in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != losses[0][2]


def test_arm_variations_set_dtype_and_dropout() -> None:
    spec = small("opt-125m")
    bf16 = build(spec, "lora-bf16")
    assert {p.dtype for p in bf16.model.parameters()} == {torch.bfloat16}
    dropouts = [m for n, m in build(spec, "lora-nodropout").model.named_modules() if n.endswith("lora_dropout.default")]
    assert len(dropouts) == 4
    assert all(isinstance(m, nn.Identity) for m in dropouts)


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "gpt2-xl", "opt-125m", "minimind-26m", "roberta-base", "resnet18"])
@pytest.mark.parametrize("arm", ["top:1", "lora-top:1"])
def test_backward_stops_below_the_top_layers(name: str, arm: str) -> None:
    built = build(small(name), arm)
    model: Any = built.model
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    outputs: list[Tensor] = []
    for layer in layers_of(bare, family_of(built.spec)):
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    built.forward_loss()
    assert len(outputs) == (4 if name == "resnet18" else 2)
    assert all(out.grad_fn is None and not out.requires_grad for out in outputs[:-1])
    assert outputs[-1].grad_fn is not None


@pytest.mark.parametrize(
    ("arm", "words", "hint"),
    [
        ("lora-fusd", "no arm 'lora-fusd'", "did you mean 'lora-fused'?"),
        ("ful", "no arm 'ful'", "did you mean 'full'?"),
        ("lora-tp:2", "no arm 'lora-tp:2'", "did you mean 'lora-top:K'?"),
        ("top", "needs a number", "write top:2"),
        ("top:0", "needs a number", "write top:2"),
        ("top:x", "needs a number", "write top:2"),
        ("lora:2", "takes no number", None),
    ],
)
def test_a_wrong_arm_name_is_explained(arm: str, words: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        resolve_arm(arm)
    assert caught.value.hint == hint


def test_k_is_part_of_the_arm() -> None:
    assert (resolve_arm("top:3").k, resolve_arm("top:3").label) == (3, "top:3")
    assert resolve_arm("lora").label == "lora"


@pytest.mark.parametrize(
    ("name", "arm", "words"),
    [
        ("tiny-llama-cpu", "top:3", "top:3 asks for more layers than the model's 2"),
        ("tiny-llama-cpu", "lora-top:3", "lora-top:3 asks for more layers"),
        ("resnet18", "top:5", "the model's 4"),
        ("tiny-llama-cpu", "bitfit", "no bias"),
        ("tiny-llama-cpu", "lora-bf16", "already have the base's dtype"),
        ("tiny-llama-cpu", "lora-nodropout", "have no dropout"),
        ("roberta-base", "lora-qv", "already adapts query and value"),
        ("resnet18", "lora-qv", "no query and value"),
        ("minimind-26m", "dora", "hand-written"),
        ("opt-125m", "lora-fused", "no dropout"),
        ("resnet18", "lora-merged", "linear layers only"),
        ("resnet18", "paca", "linear layers only"),
    ],
)
def test_an_arm_that_does_not_fit_is_refused(name: str, arm: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(small(name), arm)


# Fused and merged LoRA against PEFT (and the hand-written one), in float64, layer by layer.


def lora_layers(built: Built) -> dict[str, Any]:
    built.model.double()
    modules: list[tuple[str, Any]] = list(built.model.named_modules())
    found = {name: module for name, module in modules if hasattr(module, "lora_A") or hasattr(module, "lora")}
    generator = torch.Generator().manual_seed(1)
    for module in found.values():  # B starts at zero, which would hide half of the arithmetic
        up = module.lora.B if hasattr(module, "lora") else module.lora_B["default"]
        up.weight.data = torch.randn(up.weight.shape, generator=generator, dtype=torch.float64)
    return found


def layer_results(layer: Any, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_(True)
    y = layer(x)
    trained = [p for p in layer.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    assert len(trained) == 2
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *trained])]


@pytest.mark.parametrize("arm", ["lora-fused", "lora-merged"])
@pytest.mark.parametrize("name", ["tiny-llama-cpu", "qwen2.5-0.5b", "gpt2-xl", "minimind-26m"])
def test_fused_and_merged_equal_plain_lora(name: str, arm: str) -> None:
    spec = small(name, alpha=5.0)
    plain, other = lora_layers(build(spec)), lora_layers(build(spec, arm))
    assert plain.keys() == other.keys()
    assert len(plain) == (8 if name == "gpt2-xl" else 14)
    for key, layer in plain.items():
        base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        width = base.weight.shape[0 if type(base).__name__ == "Conv1D" else 1]
        x = torch.randn(2, 3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for ours, theirs in zip(layer_results(other[key], x), layer_results(layer, x), strict=True):
            assert float((ours - theirs).abs().max()) <= 1e-10


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_low_rank_linear_passes_gradcheck(merge: bool, biased: bool, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, grad: bool = True) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)

    x, down, up = random(2, 3, 5), random(2, 5), random(4, 2)
    weight = random(5, 4, grad=False).t() if transposed else random(4, 5, grad=False)
    bias = random(4, grad=False) if biased else None

    def function(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        apply: Any = LowRankLinear.apply
        out: Tensor = apply(x, weight, bias, down, up, 1.5, torch.float64, merge)
        return out

    assert torch.autograd.gradcheck(function, (x, down, up))
    expected = x @ weight.t() + 1.5 * x @ down.t() @ up.t() + (0 if bias is None else bias)
    torch.testing.assert_close(function(x, down, up), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arm", ["lora-fused", "lora-merged"])
def test_low_rank_arms_add_no_full_size_operator(arm: str) -> None:
    """Per layer: fused 3 GEMMs forward and 5 backward, merged 2 and 6; no mul, no add, no copy."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.ops: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not func.is_view:
                self.ops.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    layer = next(iter(lora_layers(build(small("tiny-llama-cpu"), arm)).values()))
    x = torch.randn(6, layer.in_features, dtype=torch.float64, requires_grad=True)
    with Count() as forward:
        y = layer(x)
    with Count() as backward:
        torch.autograd.grad(y, [x, *(p for p in layer.parameters() if p.requires_grad)], torch.ones_like(y))
    gemms = {"mm", "addmm", "addmm_"}
    assert [op for op in forward.ops if op in gemms] == (
        ["mm", "mm", "addmm_"] if arm == "lora-fused" else ["addmm", "mm"]
    )
    assert sum(op in gemms for op in backward.ops) == (5 if arm == "lora-fused" else 6)
    allowed = gemms | {"new_empty", "ones_like", "_unsafe_view", "detach"}
    assert set(forward.ops) | set(backward.ops) <= allowed


def test_low_rank_arms_save_few_tensors() -> None:
    """Fused keeps x and h, merged keeps x; the rest of what is saved are parameters."""
    for arm, kept in (("lora-fused", 2), ("lora-merged", 1)):
        layer = next(iter(lora_layers(build(small("tiny-llama-cpu"), arm)).values()))
        parameters = {p.data_ptr() for p in layer.parameters()}
        saved: set[int] = set()
        x = torch.randn(6, layer.in_features, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.add(t.data_ptr()), t)[1], lambda t: t):  # type: ignore[misc]
            layer(x)
        assert len(saved - parameters) == kept


@pytest.mark.parametrize("arm", ["lora-fused", "lora-merged", "paca"])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_custom_functions_follow_autocast(arm: str, autocast: str) -> None:
    spec = small("minimind-26m", autocast=autocast, optimizer="sgd", lr=1.0, clip=None)
    reference = build(spec, "lora" if arm.startswith("lora") else "full")
    built = build(spec, arm)
    tolerance = 1e-5 if autocast == "none" else 2e-2
    assert float(built.step()) == pytest.approx(float(reference.step()), rel=tolerance)
    assert math.isfinite(float(built.step()))


# PaCA


@pytest.mark.parametrize("name", ["tiny-llama-cpu", "gpt2-xl"])
def test_paca_gradient_is_the_full_gradients_columns(name: str) -> None:
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if name == "gpt2-xl" else {}
    spec = small(name, dtype="float32")
    spec = replace(spec, config=spec.config | off)
    built, full = build(spec, "paca"), build(spec, "full")
    for each in (built, full):
        each.forward_loss().backward()
    reference = dict(full.model.named_modules())
    layers: list[tuple[str, Any]] = [(n, m) for n, m in built.model.named_modules() if hasattr(m, "paca_index")]
    assert len(layers) == (8 if name == "gpt2-xl" else 14)
    for key, layer in layers:
        weight: Any = reference[key]
        dense = weight.weight.grad.t() if name == "gpt2-xl" else weight.weight.grad
        torch.testing.assert_close(layer.paca_columns.grad, dense[:, layer.paca_index])
        assert len(set(layer.paca_index.tolist())) == spec.rank


def test_paca_changes_only_its_columns() -> None:
    built = build(small("tiny-llama-cpu", lr=0.1), "paca")
    layer: Any = built.model.get_submodule("model.layers.0.mlp.down_proj")
    before = layer.weight.detach().clone()
    built.step()
    built.forward_loss()
    changed = (layer.weight != before).any(dim=0).nonzero().flatten()
    assert changed.tolist() == layer.paca_index.tolist()
    assert torch.equal(layer.weight[:, layer.paca_index], layer.paca_columns)


# Quality


def test_the_full_arm_learns_and_the_frozen_one_does_not() -> None:
    spec = small("tiny-llama-cpu")
    losses = {arm: train(spec, arm) for arm in ("full", "lora", "frozen")}
    assert all(len(run) == DEFAULT_STEPS for run in losses.values())
    assert sum(losses["full"][-5:]) / 5 < losses["full"][0] / 2
    assert sum(losses["lora"][-5:]) / 5 < losses["lora"][0] * 0.9
    assert sum(losses["frozen"][-5:]) / 5 > losses["frozen"][0] * 0.95
    assert train(spec, "full", steps=5, seed=0) == losses["full"][:5] != train(spec, "full", steps=5, seed=1)


@pytest.mark.parametrize("name", ["roberta-base", "resnet18", "gpt2-xl", "minimind-26m"])
def test_every_kind_of_task_can_be_learnt(name: str) -> None:
    losses = train(small(name), "full")
    assert sum(losses[-5:]) / 5 < losses[0] * 0.8
