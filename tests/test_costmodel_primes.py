"""The cost model at prime sizes, where no two terms and no two factors can be taken for one another."""

import pytest

from loraprof.analysis.costmodel import blocks, distributed, dora, launches, linear, optimizer
from loraprof.analysis.costmodel.linear import Pass
from loraprof.analysis.costmodel.shapes import gpt2, llama
from loraprof.analysis.costmodel.skinny import Machine, skinny_gemm
from loraprof.analysis.costmodel.variants import Coefficients, coefficients, detect_variant

T, K, N, R = 7, 11, 13, 3
ONE = T * K + K * N + T * N  # elements that one product of the layer moves


def test_a_pass_recomputes_its_forward() -> None:
    assert (Pass(17, 5).total(), Pass(17, 5).total(checkpointing=True)) == (22, 39)


def test_a_linear_layer() -> None:
    product = 2 * T * K * N
    assert linear.full_flops(T, K, N) == Pass(product, 2 * product)
    assert linear.full_flops(T, K, N, input_grad=False) == Pass(product, product)
    assert linear.frozen_flops(T, K, N, input_grad=False) == Pass(product, 0)
    assert linear.full_bytes(T, K, N, 4) == Pass(4 * ONE, 8 * ONE)
    assert linear.full_bytes(T, K, N) == Pass(2 * ONE, 4 * ONE)
    assert linear.gemm_bytes(T, K, N) == 2 * ONE
    assert linear.intensity(T, K, R) == 2 * T * K * R / (2 * (T * K + K * R + T * R))
    assert linear.full_bytes(T, K, N, 2, input_grad=False, accumulating=True) == Pass(2 * ONE, 2 * ONE + 6 * K * N)
    assert linear.frozen_bytes(T, K, N) == Pass(2 * ONE, 2 * ONE)
    assert linear.frozen_bytes(T, K, N, input_grad=False) == Pass(2 * ONE, 0)


def test_an_adapter_whose_input_needs_no_gradient_keeps_its_mask_in_forward_only() -> None:
    """V2: forward 7 Tk with the mask's one byte, backward 2 Tk for dA; in fp32 all but the mask is twice as wide."""
    small = 2 * K * R + 2 * N * R + 4 * T * R
    forward, backward = 7 * T * K + 12 * T * N + small, 2 * T * K + 8 * T * N + 2 * K * R + 4 * N * R + 6 * T * R
    assert linear.lora_extra_bytes("V2", T, K, N, R, False) == Pass(forward, backward)
    assert linear.lora_extra_bytes("V2", T, K, N, R, False, 4) == Pass(2 * forward - T * K, 2 * backward)


def test_the_fused_variant_reads_its_input_twice() -> None:
    assert coefficients("VF") == (Coefficients(tk=2), Coefficients(tk=2, tn=2))
    assert coefficients("VF", input_grad=False) == (Coefficients(tk=2), Coefficients(tn=2))


@pytest.mark.parametrize("dropout", [0.1, 1.0])
def test_a_suppressed_cast_with_dropout_is_no_known_variant(dropout: float) -> None:
    assert detect_variant("float32", "bfloat16", "bfloat16", dropout, True) is None
    assert detect_variant("float32", "bfloat16", "bfloat16", dropout) == "V4"


def test_attention() -> None:
    """Batch 2, 3 heads of width 11 over 5 tokens; then one head of keys and values for all three."""
    own, shared = blocks.AttentionShape(2, 3, 5, 11), blocks.AttentionShape(2, 3, 5, 11, 1)
    product = 2 * 2 * 3 * 5 * 5 * 11
    assert blocks.attention_flops(own) == blocks.attention_flops(shared) == Pass(2 * product, 5 * product)
    q, rows = 2 * 3 * 5 * 11, 2 * 3 * 5
    assert blocks.attention_bytes(own) == Pass(2 * 4 * q + 4 * rows, 2 * 8 * q + 4 * rows)
    kv = 2 * 2 * 1 * 5 * 11
    assert blocks.attention_bytes(shared, 4) == Pass(4 * (2 * q + kv) + 4 * rows, 4 * (4 * q + 2 * kv) + 4 * rows)


def test_a_trained_layer_norm_writes_two_gradients() -> None:
    frozen, trained = blocks.layer_norm_bytes(T, K, 4), blocks.layer_norm_bytes(T, K, 4, trained=True)
    assert frozen == Pass(8 * T * K + 8 * T + 8 * K, 12 * T * K + 8 * T + 4 * K)
    assert trained == Pass(frozen.forward, frozen.backward + 8 * K)
    assert blocks.layer_norm_bytes(T, K) == Pass(4 * T * K + 8 * T + 4 * K, 6 * T * K + 8 * T + 2 * K)


def test_dora_with_dropout_runs_the_base_product_again() -> None:
    shape, again = dora.DoraShape(T, K, N, R), 2 * T * K * N
    plain, dropped = dora.dora_flops(shape), dora.dora_flops(shape, dropout=True)
    assert plain.forward == 2 * T * R * (K + N) + 2 * K * R * K + 2 * K * R * N
    assert (dropped.forward - plain.forward, dropped.backward - plain.backward) == (again, again)
    few, many = dora.dora_bytes(shape), dora.dora_bytes(shape, dropout=True)
    assert many.forward - few.forward == 5 * T * K + 2 * ONE
    assert many.backward - few.backward == 11 * T * K + 2 * ONE - 6 * T * N
    assert (dora.dora_launches(), dora.dora_launches(dropout=True)) == (Pass(15, 15), Pass(17, 17))


def test_models() -> None:
    made = gpt2("g", 5, 3, 17)
    assert made.linears == ((5, 15), (5, 5), (5, 20), (20, 5))
    assert made.tied
    assert (made.layers, made.vocabulary) == (3, 17)
    assert made.parameters == 3 * 12 * 25 + 17 * 5
    other = llama("l", 7, 3, 11, 2, 17)
    assert other.linears == ((7, 7), (7, 3), (7, 3), (7, 7), (7, 11), (7, 11), (11, 7))
    assert other.parameters == 2 * (2 * 49 + 2 * 21 + 3 * 77) + 2 * 17 * 7


def test_a_split_product_has_as_many_times_more_blocks() -> None:
    machine = Machine(sms=10, peak_flops_per_s=1e12, bytes_per_s=1e12, efficiency=1.0)
    one = skinny_gemm(128, 384, 64, machine, split=5)  # 3 tiles, 15 blocks in two waves
    assert (one.tiles, one.waves, one.quantization) == (3, 2, 20 / 15)


def test_optimizers_and_exchange() -> None:
    assert [optimizer.sgd_bytes(4), optimizer.sgd_bytes(4, momentum=True), optimizer.sgd_bytes()] == [12, 20, 6]
    assert [optimizer.adamw_bytes(), optimizer.clip_bytes(), optimizer.accumulate_bytes()] == [40, 6, 6]
    assert distributed.sharded_bytes(100, 10, 4) == 3 / 4 * 210
    assert distributed.sharded_bytes(100, 10, 1) == 0


@pytest.mark.parametrize(("variant", "bias", "others"), [("full", True, 1), ("full", False, 0), ("frozen", True, 0)])
def test_only_a_trained_bias_is_summed(variant: str, bias: bool, others: int) -> None:
    rows = launches.launch_table(variant, bias=bias)
    assert [(row.phase, row.others) for row in rows] == [("forward", 0), ("backward", others)]


def test_eager_norms_and_losses() -> None:
    """In two bytes, then in four, where nothing is cast."""
    td = T * K
    assert blocks.rms_norm_bytes(T, K) == Pass(36 * td + 24 * T + 2 * K, 84 * td + 40 * T + 2 * K)
    assert blocks.rms_norm_bytes(T, K, 4) == Pass(28 * td + 24 * T + 4 * K, 76 * td + 40 * T + 4 * K)
    assert blocks.rms_norm_bytes(T, K, trained=True).backward == 92 * td + 40 * T + 4 * K
    assert [blocks.rms_norm_launches(), blocks.rms_norm_launches(4, trained=True)] == [Pass(8, 14), Pass(6, 14)]
    logits = T * N
    assert blocks.loss_bytes(T, N, 3) == Pass(14 * logits + 44 * T + 32, 22 * logits + 8 * T + 12)
    assert blocks.loss_bytes(T, N, 3, 4) == Pass(8 * logits + 44 * T + 32, 16 * logits + 8 * T + 12)
