"""Findings about the base model: each is provoked on a real or simulated step, and stays silent nearby."""

from typing import Any

import msgspec
import pytest
from provoke import CALIBRATION, advice, facts, found, made, shaped, synthetic, toy, workload
from recorded import recorded

from loraprof.model.recording import DeviceInfo, GemmRate, Memory

TINY = "tiny-llama-cpu"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reentrant", "non-reentrant"])
def test_checkpointing(mode: str) -> None:
    finding = found(recorded(TINY, f"checkpointing={mode}"))["B2"]
    assert ("use_reentrant" in advice(finding)) == (mode == "reentrant")
    seen = facts(finding)
    assert seen["mode"] == mode
    assert seen["time of recomputed work"] > 0
    assert "gradient_checkpointing=False" in finding.remedy
    assert "B2" not in found(recorded(TINY))


def test_needless_checkpointing() -> None:
    run = synthetic("checkpoint")
    spare = found(made(run, memory=Memory(peak_bytes=30, total_bytes=100)))["B2"]
    assert "if memory allows" not in spare.remedy
    tight = found(made(run, memory=Memory(peak_bytes=90, total_bytes=100)))["B2"]
    assert "if memory allows" in tight.remedy
    assert spare.gain is not None
    assert 1.3 < spare.gain.speedup < 1.45  # the recomputed forward is 28 % of this step


@pytest.mark.slow
def test_a_large_vocabulary() -> None:
    finding = found(toy("vocabulary"))["B6"]
    seen = facts(finding)
    assert seen["vocabulary"] == 50_000
    assert seen["of busy time"] > 0.5
    assert seen["float32 ops on logits"] > 0
    assert "B6" not in found(made(shaped(hidden=4096, ffn=11008, tokens=4096, vocab=1024)))


@pytest.mark.slow
def test_a_head_that_trains_in_full() -> None:
    seen = facts(found(toy("save"))["B7"])
    assert seen["parameters trained in full"] == 64 * 128
    assert ".lm_head.modules_to_save." in seen["first of them"]
    assert "B7" not in found(toy("plain"))


@pytest.mark.slow
def test_a_base_that_trains() -> None:
    finding = found(toy("unfrozen"))["G5"]
    assert finding.severity == "blocker"
    assert facts(finding)["base weights that train"] == 4
    assert "G5" not in found(toy("plain"))
    assert "G5" not in found(toy("save"))
    assert "G5" not in found(recorded(TINY, "arm=full"))


@pytest.mark.slow
def test_adapters_without_gradients() -> None:
    finding = found(toy("reentrant"))["G5"]
    assert facts(finding)["of them without a gradient after backward"] == 8
    assert "use_reentrant" in advice(finding)
    assert "G5" not in found(toy("non-reentrant"))


@pytest.mark.slow
def test_experts_one_by_one() -> None:
    seen = facts(found(toy("experts"))["B9"])
    assert seen["experts that ran one by one"] == 16
    assert seen["their products in forward"] == 16
    assert "B9" not in found(toy("grouped-experts"))


@pytest.mark.slow
def test_attention_in_pieces() -> None:
    """Attention dropout on a CPU keeps SDPA from its fused kernel."""
    seen = found(recorded("gpt2-xl"))
    assert "B3" not in seen  # dropout took the fused kernel away: that says more
    assert facts(seen["B13"])["the kernel that ran"] == "math"
    assert "B3" not in found(made(shaped(hidden=4096, ffn=11008, tokens=4096, vocab=1024)))


def test_dequantisation() -> None:
    finding = found(made(synthetic("dequant-bound")))["B4"]
    assert facts(finding)["weights expanded"] == 12
    assert "B4" not in found(made(shaped(hidden=4096, ffn=11008, tokens=4096, dequant=True)))  # amortised


def test_parts_in_fp32_beside_a_quantised_base() -> None:
    run = synthetic("dequant-bound")
    wide = [msgspec.structs.replace(p, dtype="float32") for p in run.recording.parameters]
    finding = found(made(run, parameters=wide))["B5"]
    assert facts(finding)["float32 parameters outside the adapters"] == 12
    assert "B5" not in found(made(run))
    plain = synthetic("bandwidth-v1")
    wide = [msgspec.structs.replace(p, dtype="float32") for p in plain.recording.parameters]
    assert "B5" not in found(made(plain, parameters=wide))


def test_bf16_on_an_old_gpu() -> None:
    run = synthetic("bandwidth-v1")

    def device(*capability: int) -> DeviceInfo:
        return msgspec.structs.replace(run.recording.device, capability=capability)

    assert facts(found(made(run, device=device(7, 5)))["B8"])["compute capability"] == "7.5"
    assert "B8" not in found(made(run, device=device(8, 0)))


def test_slow_products() -> None:
    slow: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 1024}
    finding = found(made(shaped(**slow, flops_per_ns=120_000)))["B10"]
    rate = facts(finding)["rate of the base's products"]
    assert 115e12 < rate < 121e12
    fast = shaped(**slow, flops_per_ns=200_000)
    assert "B10" not in found(made(fast))
    other = GemmRate(m=4096, n=4096, k=4096, dtype="float8_e4m3fn", ns=171_798)  # twice as fast, in a dtype not used
    both = msgspec.structs.replace(CALIBRATION, gemm=[*CALIBRATION.gemm, other])
    assert "B10" not in found(made(fast, calibration=both))


def test_tokens_without_a_label() -> None:
    """Head and loss of three quarters of the tokens are thrown away."""
    run = shaped(hidden=1024, ffn=2816, tokens=4096, vocab=64_000)
    tokens = run.recording.workload.tokens_per_step or 0
    few = found(made(run, **workload(run.recording, labelled_tokens_per_step=tokens // 4)))["B6"]
    every = found(made(run, **workload(run.recording, labelled_tokens_per_step=tokens)))["B6"]
    assert facts(few)["tokens with a label, of all"] == 0.25
    assert "labelled positions only" in few.remedy
    assert "labelled" not in every.remedy
    assert few.gain is not None
    share = facts(few)["of busy time"]
    assert few.gain.low < 1 / (1 - 0.75 * share) < few.gain.high
    assert every.gain is None or every.gain.ns < few.gain.ns
    assert [r.arm for f in (few, every) for r in f.remedies] == ["chunked-loss"] * 2
