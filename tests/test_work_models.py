"""``work_of`` against a count made at dispatch, op by op, on real models: forward and backward, fp32 and bf16.

Both counts see the same calls, but the dispatch count looks at live storages and the rules only at what a trace
records. They may differ only where the rules know that an op does not touch what it is given.
"""

import pytest
import torch
import transformers
from dispatch import Call, count, worked
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten = torch.ops.aten
# What torch's FLOP counter does not know: attention on a CPU.
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, out_shape=None, **kw: sdpa_flop_count(
        q, k, v
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda g, q, k, v, *a, out_shape=None, **kw: sdpa_backward_flop_count(g, q, k, v)
    ),
}
# Ops that read less than all of their inputs: gathers, gradients that need no values, fills after a shape.
READ_LESS = {
    "aten::embedding", "aten::gather", "aten::index", "aten::nll_loss_forward", "aten::nll_loss_backward",
    "aten::native_layer_norm_backward", "aten::ones_like", "aten::zeros_like", "aten::new_ones", "aten::new_zeros",
}  # fmt: skip
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
WIDTHS = {"hidden_size": 64, "intermediate_size": 96}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name.startswith("llama"):
        attention = "eager" if name.endswith("eager") else "sdpa"
        config = transformers.LlamaConfig(**SIZES, **WIDTHS, num_key_value_heads=2, attn_implementation=attention)
        return transformers.LlamaForCausalLM(config)
    if name == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=128))
    config = transformers.RobertaConfig(**SIZES, **WIDTHS, max_position_embeddings=66, pad_token_id=1)
    return transformers.RobertaForSequenceClassification(config)


def step(name: str, dtype: torch.dtype) -> tuple[list[Call], int]:
    """Calls of one forward and backward, and torch's own FLOP count of it."""
    model = build(name).to(dtype).train()
    ids = torch.randint(2, 128, (3, 24))
    labels = torch.tensor([0, 1, 0]) if name == "roberta" else ids
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counter:
        calls = count(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward())
    return calls, counter.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["llama", "llama-eager", "gpt2", "roberta"])
def test_work_equals_the_dispatch_count(name: str, dtype: torch.dtype) -> None:
    calls, flops = step(name, dtype)
    works = [(c, worked(c)) for c in calls]
    assert sum(w.flops for _, w in works) == flops
    for call, work in works:
        read = call.read + call.duplicates
        if call.op == "aten::_unsafe_view":
            assert work.min_bytes == 0
        elif call.op in READ_LESS:
            assert work.read_bytes <= read
            assert work.write_bytes == call.written, call
        elif call.op == "aten::native_layer_norm" and dtype == torch.bfloat16:
            # On a GPU the statistics are fp32; this CPU kernel keeps them in bf16.
            assert work.write_bytes == call.written + 2 * 2 * 3 * 24
        else:
            assert (work.read_bytes, work.write_bytes) == (read, call.written), call
    total = sum(c.read + c.written for c in calls if c.op not in READ_LESS | {"aten::_unsafe_view"})
    assert sum(w.min_bytes for c, w in works if c.op not in READ_LESS) == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_the_rules_skip_is_small(name: str) -> None:
    calls, _ = step(name, torch.float32)
    works = [worked(c) for c in calls if c.op in READ_LESS]
    everything = sum(worked(c).min_bytes for c in calls)
    assert 0 < sum(w.min_bytes for w in works) < everything / 8


def test_ops_of_matrix_units_hold_all_flops() -> None:
    calls, flops = step("gpt2", torch.float32)
    works = [worked(c) for c in calls]
    products = ("gemm", "conv", "attention")
    assert sum(w.flops for w in works if w.kind in products) == flops
    assert all(w.flops == 0 for w in works if w.kind not in products)
