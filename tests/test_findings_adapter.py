"""Findings about the adapter path: each is provoked on a real or simulated step, and stays silent nearby."""

import pytest
from provoke import facts, found, made, shaped
from recorded import recorded

TINY = "tiny-llama-cpu"
BF16 = "dtype=bfloat16"


def test_fp32_adapters_on_a_bf16_base() -> None:
    finding = found(recorded(TINY, BF16))["L2"]
    seen = facts(finding)
    assert seen["adapted layers with float32 adapters on a bfloat16 base"] == 14
    assert seen["their matrix products in float32"] == 14 * 6 - 3  # the first block's q, k, v need no input gradient
    assert "autocast_adapter_dtype=False" in finding.remedy
    assert finding.gain is not None
    assert finding.gain.low <= finding.gain.speedup <= finding.gain.high


@pytest.mark.parametrize("near", [(BF16, "adapter_dtype=same"), ("dtype=float32",), (BF16, "autocast=bfloat16")])
def test_no_fp32_products_no_finding(near: tuple[str, ...]) -> None:
    assert "L2" not in found(recorded(TINY, *near))


def test_fp32_adapters_on_a_gpu() -> None:
    large = {"hidden": 2048, "ffn": 5632, "tokens": 2048}
    finding = found(made(shaped(variant="V5", **large)))["L2"]
    assert finding.severity == "major"
    assert "L2" not in found(made(shaped(variant="V1", **large)))


def test_casts_that_autocast_undoes() -> None:
    finding = found(recorded(TINY, BF16, "autocast=bfloat16"))["L3"]
    seen = facts(finding)
    assert seen["inputs cast to float32 and back before A"] == 14
    hidden, wide, tokens, layers = 128, 352, 32, 2  # the shrunken preset
    assert seen["bytes of these casts, forward and backward"] == 24 * tokens * layers * (6 * hidden + wide)
    assert "disable_input_dtype_casting" in finding.remedy


@pytest.mark.parametrize(
    "near", [(BF16,), (BF16, "autocast=bfloat16", "adapter_dtype=same"), ("dtype=float32", "autocast=bfloat16")]
)
def test_casts_that_are_needed(near: tuple[str, ...]) -> None:
    assert "L3" not in found(recorded(TINY, *near))


def test_dropout_in_the_adapter() -> None:
    finding = found(recorded(TINY, "dropout=0.1"))["L4"]
    seen = facts(finding)
    assert seen["dropout probability"] == 0.1
    assert seen["masks drawn in the adapter"] == 14
    assert "lora_dropout=0.0" in finding.remedy


def test_dropout_of_the_base_only() -> None:
    assert "L4" not in found(recorded("gpt2-xl"))  # GPT-2 drops out in its blocks
    assert "L4" not in found(recorded(TINY))


def test_every_linear_is_a_target() -> None:
    finding = found(recorded(TINY))["L6"]
    seen = facts(finding)
    assert (seen["adapted layers"], seen["layers that stay adapted"]) == (14, 4)
    assert "target_modules=['q_proj', 'v_proj']" in finding.remedy


def test_the_remedy_for_too_many_targets_is_enough() -> None:
    narrow = recorded(TINY, "targets=q_proj,v_proj")
    assert "L6" not in found(narrow)
