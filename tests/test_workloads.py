"""The built-in workloads: every preset, shrunk, builds and steps on a CPU; shapes, counts, seeds, options."""

import math
import sys
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from benchmarks.shrink import shrink
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import list_workloads, load_workload
from loraprof.workloads.build import Built, build
from loraprof.workloads.families import embedding_of, family_of, layers_of
from loraprof.workloads.models import make_model

PRESETS = [spec.name for spec in list_workloads()]
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def small(name: str, **changes: Any) -> WorkloadSpec:
    return replace(shrink(load_workload(name)), device="cpu", **changes)


def lora_size(built: Built) -> int:
    """LoRA's parameters by formula: r (in + out) per linear, r (in k k + out) per convolution; and a head."""
    total, rank = 0, built.spec.rank
    for name, module in built.model.named_modules():
        layer: Any = module
        if isinstance(module, nn.Linear | nn.Conv2d) and "lora" not in name:
            is_site = name.endswith("base_layer") or hasattr(module, "lora")
            total += is_site * rank * (layer.weight[0].numel() + layer.weight.shape[0])
        elif type(module).__name__ == "Conv1D":
            total += rank * sum(layer.weight.shape)
        elif name.endswith("classifier.modules_to_save"):
            total += sum(p.numel() for p in module.parameters())
    return total


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shrunk_steps_and_counts_its_parameters(name: str) -> None:
    built = build(small(name))
    losses = [float(built.step()) for _ in range(2)]
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]
    assert built.trainable == lora_size(built) > 0
    assert built.trainable == sum(p.numel() for p in built.model.parameters() if p.requires_grad)
    assert built.tokens_per_step == (2 if name == "resnet18" else 2 * 16)
    assert all(p.grad is None for p in built.model.parameters())


@pytest.mark.parametrize(
    ("name", "total", "adapted"),
    [  # total: parameters of the published model; adapted: sum of in + out over adapted layers
        ("gpt2-xl", 1_557_611_200, 537_600 + 691_200),
        ("tinyllama-1.1b", 1_100_048_384, 394_240 + 394_240),
        ("llama-3.2-1b", 1_235_814_400, 327_680 + 376_832),
        ("llama-3.2-3b", 3_212_749_824, 745_472 + 774_144),
        ("llama-3-8b", 8_030_261_248, 1_245_184 + 1_376_256),
        ("qwen2.5-0.5b", 494_032_768, 24 * (9 * 896 + 3 * 4864 + 2 * 128)),
        ("opt-125m", 125_239_296, 12 * 4 * 768),
        ("roberta-base", 124_647_170, 12 * 4 * 768),
        ("minimind-26m", 25_829_888, 8 * (9 * 512 + 3 * 1408 + 2 * 128)),
        ("resnet18", 11_181_642, None),
    ],
)
def test_presets_have_the_shapes_of_the_published_models(name: str, total: int, adapted: int | None) -> None:
    from loraprof.workloads.adapters import is_conv1d, targets_of

    spec = load_workload(name)
    base = make_model(spec, torch.device("meta"))
    assert sum(p.numel() for p in base.parameters()) == total
    if adapted is not None:
        layers: list[Any] = [base.get_submodule(target) for target in targets_of(base, spec)]
        assert all(isinstance(layer, nn.Linear) or is_conv1d(layer) for layer in layers)
        assert sum(sum(layer.weight.shape) for layer in layers) == adapted


def test_shrinking_keeps_what_makes_the_workload() -> None:
    for spec in list_workloads():
        little = shrink(spec)
        ours, theirs = little.config, spec.config
        assert ours.keys() == theirs.keys()
        assert (little.adapter, little.targets, little.dtype, little.autocast, little.dropout) == (
            spec.adapter, spec.targets, spec.dtype, spec.autocast, spec.dropout,
        )  # fmt: skip
        if "num_key_value_heads" in theirs:
            ratio = [int(str(c["num_attention_heads"])) / int(str(c["num_key_value_heads"])) for c in (ours, theirs)]
            assert ratio[0] == ratio[1]


@pytest.mark.parametrize("name", ["gpt2-xl", "resnet18", "minimind-26m"])
def test_a_seed_names_one_run(name: str) -> None:
    def losses(seed: int) -> list[float]:
        built = build(small(name, seed=seed))
        return [float(built.step()) for _ in range(3)]

    first = losses(0)
    assert first == losses(0)
    assert first != losses(1)


def test_every_arm_sees_the_same_weights_and_tokens() -> None:
    spec = small("qwen2.5-0.5b")
    assert len({float(build(spec, arm).forward_loss().detach()) for arm in ("full", "frozen", "lora")}) == 1


def test_accumulation_averages_micro_batches_and_steps_once() -> None:
    spec = small("minimind-26m", autocast="none", accumulate=3)
    built, steps = build(spec), 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    built.optimizer.register_step_post_hook(count)
    micro = build(spec)
    expected = torch.stack([micro.forward_loss().detach() for _ in range(3)]).mean()
    assert built.tokens_per_step == 3 * 2 * 16
    assert float(built.step()) == pytest.approx(float(expected), rel=1e-6)
    assert steps == 1


def gradients(built: Built) -> dict[str, Tensor]:
    built.forward_loss().backward()
    return {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["reentrant", "non-reentrant"])
@pytest.mark.parametrize("arm", ["lora", "full", "top:1", "lora-top:1", "frozen", "paca"])
@pytest.mark.parametrize("name", ["tiny-llama-cpu", "minimind-26m", "gpt2-xl", "roberta-base", "opt-125m"])
def test_checkpointing_changes_no_gradient(name: str, arm: str, mode: str) -> None:
    spec = small(name, dtype="float32", autocast="none", dropout=0.0)
    if name == "gpt2-xl":
        spec = replace(spec, config=spec.config | NO_DROPOUT)
    elif name == "opt-125m":
        spec = replace(spec, config=spec.config | {"dropout": 0.0})
    elif name == "roberta-base":
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        spec = replace(spec, config=spec.config | off)
    plain = gradients(build(spec, arm))
    checkpointed = build(replace(spec, checkpointing=mode), arm)
    calls = _recomputed_layers(checkpointed)
    again = gradients(checkpointed)
    assert plain.keys() == again.keys()
    assert bool(plain) == (arm != "frozen")
    for key, gradient in plain.items():
        torch.testing.assert_close(again[key], gradient)
    assert calls == [1, 2] if arm.endswith("top:1") else [2, 2]


def _recomputed_layers(built: Built) -> list[int]:
    """How often each layer's first norm runs: twice where a layer is recomputed."""
    model: Any = built.model
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    calls: list[int] = []
    for layer in layers_of(bare, family_of(built.spec)):
        calls.append(0)
        norm = next(m for m in layer.modules() if "Norm" in type(m).__name__)

        def count(_module: nn.Module, _inputs: object, _output: object, at: int = len(calls) - 1) -> None:
            calls[at] += 1

        norm.register_forward_hook(count)
    return calls


def test_frozen_sends_a_gradient_to_the_embedding_and_steps_without_a_kernel() -> None:
    for name in ("tiny-llama-cpu", "gpt2-xl", "roberta-base", "resnet18", "minimind-26m", "opt-125m"):
        built = build(small(name), "frozen")
        outputs: list[Tensor] = []
        embedding_of(built.model, family_of(built.spec)).register_forward_hook(
            lambda _m, _i, output, kept=outputs: kept.append(output)
        )
        built.forward_loss().backward()
        assert outputs[0].grad is not None, name
        assert outputs[0].grad.abs().sum() > 0, name
        assert built.trainable == 0
        before = {key: value.clone() for key, value in built.model.state_dict().items() if "running" not in key}
        built.step()
        after = built.model.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items() if "num_batches" not in key)


@pytest.mark.parametrize(("layers", "blocks"), [(1, 1), (3, 3)])
@pytest.mark.parametrize("name", ["tiny-llama-cpu", "gpt2-xl", "minimind-26m"])
def test_layers_option_sets_the_depth(name: str, layers: int, blocks: int) -> None:
    built = build(small(name, layers=layers), "full")
    assert len(layers_of(built.model, family_of(built.spec))) == blocks


def test_layers_of_a_residual_network_are_its_lowest_blocks() -> None:
    spec = replace(load_workload("resnet18"), layers=3)
    base = make_model(spec, torch.device("meta"))
    assert len(layers_of(base, family_of(spec))) == 3
    with pytest.raises(UsageError, match="8 blocks"):
        make_model(replace(spec, layers=9), torch.device("meta"))


@pytest.mark.parametrize(
    ("targets", "modules"),
    [(("qv",), 2 * 2), (("q_proj",), 2), (("self_attn.o_proj", "down_proj"), 4), ((), 2 * 7)],
)
def test_targets_select_modules(targets: tuple[str, ...], modules: int) -> None:
    built = build(small("tiny-llama-cpu", targets=targets))
    assert sum(name.endswith("lora_A.default.weight") for name, _ in built.model.named_parameters()) == modules


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("tiny-llama-cpu", {"targets": ("q_prj",)}, "no layer named 'q_prj'"),
        ("tiny-llama-cpu", {"targets": ("lm_head",)}, "no layer named 'lm_head'"),
        ("tiny-llama-cpu", {"adapter": "none"}, "has no adapter"),
        ("resnet18", {"targets": ("qv",)}, "no query and value"),
        ("resnet18", {"checkpointing": "reentrant"}, "no gradient checkpointing"),
        ("minimind-26m", {"dtype": "bfloat16", "adapter_dtype": "float32"}, "the base's dtype"),
        ("minimind-26m", {"config": {"hidden": 3}}, "hidden"),
        ("tiny-llama-cpu", {"config": {"hidden_size": 511}}, "config.hidden_size=511 is refused: The hidden size"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(small(name, **changes))


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    spec = small("tiny-llama-cpu")
    with pytest.raises(UsageError, match=r"`config\.vocab_size` must be above 4, got 4"):
        build(replace(spec, config={**spec.config, "vocab_size": 4}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_device_is_said() -> None:
    with pytest.raises(MeasurementError, match="no CUDA device"):
        build(replace(small("tiny-llama-cpu"), device="cuda"))


def test_without_transformers_the_hint_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MeasurementError) as caught:
        build(small("tiny-llama-cpu"))
    assert "loraprof[hf]" in str(caught.value.hint)
    assert math.isfinite(float(build(small("minimind-26m")).step()))


def test_dtypes_of_base_and_adapters() -> None:
    def dtypes(**changes: Any) -> tuple[set[torch.dtype], set[torch.dtype]]:
        named = list(build(small("tinyllama-1.1b", **changes)).model.named_parameters())
        return ({p.dtype for n, p in named if "lora" not in n}, {p.dtype for n, p in named if "lora" in n})

    assert dtypes() == ({torch.bfloat16}, {torch.float32})
    assert dtypes(adapter_dtype="same") == ({torch.bfloat16}, {torch.bfloat16})
    assert torch.get_default_dtype() == torch.float32


def test_optimizers() -> None:
    spec = small("tiny-llama-cpu")
    assert build(replace(spec, optimizer="adamw-fused")).optimizer.defaults["fused"] is True
    assert isinstance(build(replace(spec, optimizer="sgd")).optimizer, torch.optim.SGD)
    assert isinstance(build(spec).optimizer, torch.optim.AdamW)


def test_building_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("gpt2-xl", "llama-3-8b", "roberta-base", "resnet18"):
        build(small(name)).step()
    assert capfd.readouterr() == ("", "")
