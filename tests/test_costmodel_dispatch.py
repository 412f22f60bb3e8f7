"""The cost model against a count made at dispatch: LoRA's variants, PEFT's own layer, DoRA, norms, loss, AdamW.

Equalities, to the byte: the count sees real tensors, the model only shapes.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from dispatch import Call, count

from loraprof.analysis.costmodel import linear, optimizer
from loraprof.analysis.costmodel.blocks import (
    layer_norm_bytes,
    loss_bytes,
    rms_norm_bytes,
    rms_norm_launches,
)
from loraprof.analysis.costmodel.dora import DoraShape, dora_bytes, dora_flops, dora_launches
from loraprof.analysis.costmodel.variants import VARIANTS, Variant
from loraprof.analysis.work import work_of

SHAPES = [(64, 48, 80, 5), (33, 96, 40, 7), (128, 64, 64, 16)]
BF16, FP32 = torch.bfloat16, torch.float32
Layer = Callable[[torch.Tensor], torch.Tensor]


def moved(calls: list[Call]) -> int:
    return sum(c.read + c.written for c in calls)


def flops(calls: list[Call]) -> int:
    works = [work_of(c.op, c.shapes) for c in calls if c.op != "aten::eye"]  # DoRA's: made of zero_ and fill_
    assert None not in works
    return sum(w.flops for w in works if w is not None)


def both(layer: Layer, x: torch.Tensor, wanted: list[torch.Tensor], autocast: bool) -> tuple[list[Call], list[Call]]:
    """Ops of forward and backward; ``wanted`` get gradients, x too where it requires one."""
    outputs: list[torch.Tensor] = []
    with torch.autocast("cpu", BF16) if autocast else nullcontext():
        forward = count(lambda: outputs.append(layer(x)))
    leaves = wanted + ([x] if x.requires_grad else [])
    if not leaves:
        return forward, []
    upstream = torch.randn_like(outputs[0]) if outputs[0].dim() else None
    return forward, count(lambda: torch.autograd.grad(outputs[0], leaves, upstream))


def frozen(w: torch.Tensor) -> Layer:
    return lambda x: torch.nn.functional.linear(x, w)


def adapted(v: Variant, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Layer:
    """PEFT's ``Linear.forward``, with dropout as one op."""
    product = torch.nn.functional.linear

    def run(x: torch.Tensor) -> torch.Tensor:
        base = product(x, w)
        inner = x.to(a.dtype) if v.input_up else x
        if v.dropout:
            inner = torch.native_dropout(inner, 0.1, True)[0]
        return (base + product(product(inner, a), b) * 2.0).to(base.dtype)

    return run


def extra(
    layer: Layer, w: torch.Tensor, x: torch.Tensor, wanted: list[torch.Tensor], autocast: bool
) -> list[tuple[int, int, int]]:
    """(bytes, FLOPs, launches) that ``layer`` adds to the frozen one, forward and backward."""
    ours, base = both(layer, x, wanted, autocast), both(frozen(w), x, [], autocast)
    return [
        (moved(mine) - moved(theirs), flops(mine) - flops(theirs), len(mine) - len(theirs))
        for mine, theirs in zip(ours, base, strict=True)
    ]


def predicted(v: Variant, shape: tuple[int, int, int, int], input_grad: bool) -> list[tuple[int, int, int]]:
    nbytes = linear.lora_extra_bytes(v.id, *shape, input_grad)
    work = linear.lora_extra_flops(*shape, input_grad)
    return [
        (nbytes.forward, work.forward, len(v.forward())),
        (nbytes.backward, work.backward, len(v.backward(input_grad))),
    ]


@pytest.mark.parametrize("input_grad", [True, False], ids=["inner", "lowest"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, shape: tuple[int, int, int, int], input_grad: bool) -> None:
    t, k, n, r = shape
    v = VARIANTS[variant]
    wide = v.input_up or v.weight_down
    a, b = (torch.randn(s, dtype=FP32 if wide else BF16).requires_grad_() for s in ((r, k), (n, r)))
    w = torch.randn(n, k, dtype=BF16)
    x = torch.randn(t, k, dtype=BF16).requires_grad_(input_grad)
    found = extra(adapted(v, w, a, b), w, x, [a, b], autocast=v.weight_down)
    assert found == predicted(v, shape, input_grad)


def test_one_fp32_layer_without_gradient() -> None:
    t, d, r = 2048, 4096, 16
    w, a, b = torch.empty(d, d), torch.empty(r, d), torch.empty(d, r)
    x = torch.empty(t, d)
    with torch.no_grad():
        calls = count(lambda: adapted(VARIANTS["V1"], w, a, b)(x))
    assert [(c.read, c.written) for c in calls] == [
        (100663296, 33554432), (33816576, 131072), (393216, 33554432), (33554432, 33554432), (67108864, 33554432),
    ]  # fmt: skip
    added = moved(calls[1:])
    assert moved(calls[:1]) == 134217728
    assert added == 235667456 == linear.lora_extra_bytes("V1", t, d, d, r, width=4).forward
    assert moved(calls) / 134217728 == pytest.approx(2.755859, abs=5e-7)
    assert moved(calls[3:]) / added == pytest.approx(0.7119, abs=5e-5)


def peft_layer(t: int, k: int, n: int, r: int, adapter_fp32: bool, **options: object) -> tuple[torch.nn.Module, object]:
    peft = pytest.importorskip("peft")

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(k, n, bias=False, dtype=BF16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    config = peft.LoraConfig(r=r, lora_alpha=2 * r, target_modules=["layer"], init_lora_weights=False, **options)
    model = peft.get_peft_model(Toy(), config, autocast_adapter_dtype=adapter_fp32)
    return model, model.base_model.model.layer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("variant", "adapter_fp32", "autocast", "suppressed"),
    [("V1", False, False, False), ("V3", True, True, False), ("V5", True, False, False), ("V3b", True, True, True)],
)
def test_pefts_own_layer(
    variant: str, adapter_fp32: bool, autocast: bool, suppressed: bool, shape: tuple[int, int, int, int]
) -> None:
    t, k = shape[:2]
    model, layer = peft_layer(*shape, adapter_fp32)
    from peft.helpers import disable_input_dtype_casting

    x = torch.randn(t, k, dtype=BF16).requires_grad_()
    wanted = [p for p in model.parameters() if p.requires_grad]
    with disable_input_dtype_casting(model) if suppressed else nullcontext():
        found = extra(layer, layer.base_layer.weight, x, wanted, autocast)  # type: ignore[arg-type, attr-defined]
    assert found == predicted(VARIANTS[variant], shape, True)


@pytest.mark.parametrize("shape", SHAPES)
def test_dora(shape: tuple[int, int, int, int]) -> None:
    t, k = shape[:2]
    model, layer = peft_layer(*shape, False, use_dora=True)
    x = torch.randn(t, k, dtype=BF16).requires_grad_()
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = extra(layer, layer.base_layer.weight, x, wanted, False)  # type: ignore[arg-type, attr-defined]
    s = DoraShape(*shape)
    nbytes, work, launches = dora_bytes(s), dora_flops(s), dora_launches()
    assert found == [
        (nbytes.forward, work.forward, launches.forward),
        (nbytes.backward, work.backward, launches.backward),
    ]


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_rms_norm(dtype: torch.dtype, trained: bool) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    t, d = 24, 56
    norm = llama.LlamaRMSNorm(d).to(dtype).requires_grad_(trained)
    x = torch.randn(t, d, dtype=dtype).requires_grad_()
    forward, backward = both(norm, x, [norm.weight] if trained else [], False)
    nbytes = rms_norm_bytes(t, d, dtype.itemsize, trained)
    launches = rms_norm_launches(dtype.itemsize, trained)
    assert (moved(forward), moved(backward)) == (nbytes.forward, nbytes.backward)
    assert (len(forward), len(backward)) == (launches.forward, launches.backward)


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_loss(dtype: torch.dtype) -> None:
    """By the rules, not by storages: one log-probability per token is gathered, not all of them read."""
    loss = pytest.importorskip("transformers.loss.loss_utils").ForCausalLMLoss
    sequences, length, vocabulary = 3, 16, 40
    logits = torch.randn(sequences, length, vocabulary, dtype=dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (sequences, length))
    forward, backward = both(lambda x: loss(x, labels, vocabulary), logits, [], False)
    nbytes = loss_bytes(sequences * length, vocabulary, sequences, dtype.itemsize)
    by_rule = [sum(w.min_bytes for c in calls if (w := work_of(c.op, c.shapes))) for calls in (forward, backward)]
    assert by_rule == [nbytes.forward, nbytes.backward]


def test_layer_norm() -> None:
    t, d = 24, 56
    norm = torch.nn.LayerNorm(d).requires_grad_(False)
    x = torch.randn(t, d).requires_grad_()
    forward, backward = both(norm, x, [], False)
    nbytes = layer_norm_bytes(t, d, 4)
    by_rule = [sum(w.min_bytes for c in calls if (w := work_of(c.op, c.shapes))) for calls in (forward, backward)]
    assert by_rule == [nbytes.forward, nbytes.backward]


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_adamw(dtype: torch.dtype) -> None:
    """Second step, when the state exists. The fused op's schema names the gradients as mutated: they are not."""
    sizes = ((40, 30), (64, 16))
    numel = sum(m * n for m, n in sizes)
    for fused in (False, True):
        parameters = [torch.randn(s, dtype=dtype).requires_grad_() for s in sizes]
        made = torch.optim.AdamW(parameters, fused=fused, foreach=not fused)
        for p in parameters:
            p.grad = torch.randn_like(p)
        made.step()
        calls = [c for c in count(made.step) if max(c.read, c.written) >= numel]
        works = [work_of(c.op, c.shapes) for c in calls]
        found = sum(w.min_bytes for w in works if w is not None)
        expected = numel * optimizer.adamw_bytes(dtype.itemsize, fused)
        scalars = 4 * len(sizes) * 2 * len(calls)  # step counters and bias corrections
        assert expected <= found <= expected + scalars
        assert moved(calls) >= found
