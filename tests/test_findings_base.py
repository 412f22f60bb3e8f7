"""Findings about the base model: each is provoked on a real or simulated step, and stays silent nearby."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provoke import CALIBRATION, advice, facts, found, made, shaped, synthetic, toy, with_ops, workload
from recorded import recorded
from synthetic.lora import Shape, program
from synthetic.program import Op
from synthetic.simulate import simulate

import loraprof
from loraprof.model.recording import DeviceInfo, GemmRate, Memory, ParameterInfo

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


HEAD = ParameterInfo(
    id=36, name="weight", module=62, shape=(32_000, 4096), dtype="bfloat16", trainable=True, device="cuda:0"
)  # of bandwidth-v1


def test_a_head_in_full_costs_its_gradient_and_its_share_of_the_optimizer() -> None:
    def gradient(op: Op) -> Op:
        if op.role != "head" or not op.grad:
            return op
        inputs = {"Input Dims": [[32_000, 4096], [4096, 4096]], "Input type": ["c10::BFloat16"] * 2}
        return replace(op, grad=(*op.grad, replace(op.grad[0], args=inputs)))

    run = synthetic("bandwidth-v1", lambda made: with_ops(made, gradient))
    assert run.recording.modules[HEAD.module].path == "lm_head"
    adapters = 2 * 16 * (4 * (4096 + 4096) + 2 * (4096 + 11_008))  # two layers of four square and two long ones
    path = made(run, parameters=[*run.recording.parameters, HEAD])
    finding, step = found(path)["B7"], loraprof.diagnose(path).step()
    seen = facts(finding)
    assert seen["parameters trained in full"] == 32_000 * 4096
    base = 2 * (4 * 4096 * 4096 + 2 * 4096 * 11_008)
    assert seen["of all parameters"] == pytest.approx(32_000 * 4096 / (32_000 * 4096 + adapters + base))
    share = 32_000 * 4096 / (32_000 * 4096 + adapters)
    assert seen["of the trained parameters"] == pytest.approx(share)
    assert step is not None
    assert finding.gain is not None
    product = 2 * 32_000 * 4096 * 4096 // 400_000  # at 400 TFLOP/s; its input gradient stays
    assert finding.gain.ns == pytest.approx(product + share * step.ns(role="optimizer"), abs=3000)


def test_a_small_head_that_trains_is_no_cause_and_a_whole_vocabulary_is() -> None:
    run = synthetic("bandwidth-v1")

    def seen(rows: int, name: str = "score") -> dict[str, Any]:
        modules = [msgspec.structs.replace(m, path=name) if m.id == 62 else m for m in run.recording.modules]
        small = msgspec.structs.replace(HEAD, shape=(rows, 4096))
        return found(made(run, modules=modules, parameters=[*run.recording.parameters, small], timing=None))

    everything = 2 * (4 * 4096 * 4096 + 2 * 4096 * 11_008 + 16 * (4 * (4096 + 4096) + 2 * (4096 + 11_008)))
    enough = everything * 0.02 / 0.98 / 4096  # rows that are 2 % of all parameters
    assert "B7" not in seen(int(0.98 * enough))
    assert "B7" in seen(int(1.02 * enough))
    assert "B7" not in seen(int(1.02 * enough), name="projector")
    assert "B7" in seen(int(0.98 * enough), name="lm_head")  # a vocabulary, whatever its share


def experts(count: int, pick: str = "aten::index_select") -> Path:
    """The first layer's linears as experts that a loop runs, tokens picked for each."""
    run = synthetic(
        "bandwidth-v1",
        lambda made: with_ops(made, lambda op: replace(op, name=pick) if op.role == "embedding" else op),
    )
    linears = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    place = {f"model.layers.0.{name}": f"model.experts.{i}" for i, name in enumerate(linears[:count])}

    def named(path: str) -> str:
        old = next((old for old in place if path.startswith(old)), "")
        return place[old] + path.removeprefix(old) if old else path

    return made(run, modules=[msgspec.structs.replace(m, path=named(m.path)) for m in run.recording.modules])


def test_four_experts_and_three_tenths_of_the_products_are_a_loop() -> None:
    """Twelve linears with an adapter are 36 products, the head one more."""
    finding = found(experts(4))["B9"]
    seen = facts(finding)
    assert (seen["experts that ran one by one"], seen["their products in forward"]) == (4, 12)
    assert seen["of all products in forward"] == pytest.approx(12 / 37)
    assert seen["median rows per product"] == 4096
    assert finding.severity == "major"
    assert "B9" not in found(experts(3))
    assert "B9" not in found(experts(4, pick="aten::embedding"))  # nothing picks tokens for them


def test_products_at_half_the_rate_of_the_others_could_run_like_them() -> None:
    """Those of the forward pass take twice as long as those of the backward pass: half their time is too much."""
    shape = Shape(hidden=4096, ffn=11008, tokens=4096, vocab=1024, flops_per_ns=120_000)

    def slower(op: Op) -> Op:
        kernels = tuple(replace(kernel, ns=2 * kernel.ns) for kernel in op.kernels)
        return replace(op, kernels=kernels) if op.role == "base.linear" else op

    finding = found(made(simulate(with_ops(program(shape), slower))))["B10"]
    forward = 2 * 4096 * 2 * (4 * 4096 * 4096 + 2 * 4096 * 11_008)
    backward = forward - 3 * 2 * 4096 * 4096 * 4096  # the first q, k and v need no input gradient
    rate = facts(finding)["rate of the base's products"]
    assert rate == pytest.approx((forward + backward) / (2 * forward + backward) * 120e12, rel=1e-3)
    assert finding.gain is not None
    assert finding.gain.ns == pytest.approx(forward / 120_000, rel=1e-3)
    assert finding.gain.low == 1


def test_memory_is_tight_from_seven_tenths_on() -> None:
    run = synthetic("checkpoint")
    told = [found(made(run, memory=Memory(peak_bytes=n, total_bytes=100)))["B2"].remedy for n in (69, 70)]
    assert ["if memory allows" in text for text in told] == [False, True]


def test_ops_on_logits_in_float32_are_counted_where_the_vocabulary_is_known() -> None:
    run = shaped(hidden=1024, ffn=2816, tokens=4096, vocab=64_000)
    count = len(run.recording.parameters)
    table = msgspec.structs.replace(HEAD, id=count, module=1, shape=(64_000, 1024), trainable=False)
    known = facts(found(made(run, parameters=[*run.recording.parameters, table]))["B6"])
    assert (known["vocabulary"], known["float32 ops on logits"]) == (64_000, 0)  # all in bfloat16
    unknown = facts(found(made(run))["B6"])
    assert (unknown["vocabulary"], unknown["float32 ops on logits"]) == (None, None)
