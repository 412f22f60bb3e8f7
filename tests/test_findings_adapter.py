"""Findings about the adapter path: each is provoked on a real or simulated step, and stays silent nearby."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from provoke import CALIBRATION, advice, facts, found, made, shaped, synthetic, toy, with_ops, workload
from recorded import recorded
from synthetic.lora import Shape, program
from synthetic.machine import Kernel
from synthetic.program import Module, Op, Program
from synthetic.simulate import simulate

import loraprof
from loraprof.diagnosis.findings.adapter import _typical_rate
from loraprof.model.recording import Calibration, GemmRate, ParameterInfo

TINY = "tiny-llama-cpu"
BF16 = "dtype=bfloat16"


@pytest.mark.slow
def test_fp32_adapters_on_a_bf16_base() -> None:
    finding = found(recorded(TINY, BF16))["L2"]
    seen = facts(finding)
    assert seen["adapted layers with float32 adapters on a bfloat16 base"] == 14
    assert seen["their matrix products in float32"] == 14 * 6 - 3  # the first block's q, k, v need no input gradient
    assert "autocast_adapter_dtype=False" in finding.remedy
    assert "set_float32_matmul_precision" not in advice(finding)  # a CPU has no TF32
    assert finding.gain is not None
    assert finding.gain.low <= finding.gain.speedup <= finding.gain.high


@pytest.mark.slow
@pytest.mark.parametrize("near", [(BF16, "adapter_dtype=same"), ("dtype=float32",), (BF16, "autocast=bfloat16")])
def test_no_fp32_products_no_finding(near: tuple[str, ...]) -> None:
    assert "L2" not in found(recorded(TINY, *near))


def test_fp32_adapters_on_a_gpu() -> None:
    large: dict[str, Any] = {"hidden": 2048, "ffn": 5632, "tokens": 2048}
    finding = found(made(shaped(variant="V5", **large)))["L2"]
    assert finding.severity == "major"
    assert "set_float32_matmul_precision" in advice(finding)  # no kernel's name says TF32
    assert "L2" not in found(made(shaped(variant="V1", **large)))


@pytest.mark.slow
def test_casts_that_autocast_undoes() -> None:
    finding = found(recorded(TINY, BF16, "autocast=bfloat16"))["L3"]
    seen = facts(finding)
    assert seen["inputs cast to float32 and back before A"] == 14
    hidden, wide, tokens, layers = 128, 352, 32, 2  # the shrunken preset
    assert seen["bytes of these casts, forward and backward"] == 24 * tokens * layers * (6 * hidden + wide)
    assert "disable_input_dtype_casting" in finding.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    "near", [(BF16,), (BF16, "autocast=bfloat16", "adapter_dtype=same"), ("dtype=float32", "autocast=bfloat16")]
)
def test_casts_that_are_needed(near: tuple[str, ...]) -> None:
    assert "L3" not in found(recorded(TINY, *near))


@pytest.mark.slow
def test_dropout_in_the_adapter() -> None:
    finding = found(recorded(TINY, "dropout=0.1"))["L4"]
    seen = facts(finding)
    assert seen["dropout probability"] == 0.1
    assert seen["masks drawn in the adapter"] == 14
    assert "lora_dropout=0.0" in finding.remedy


@pytest.mark.slow
def test_dropout_of_the_base_only() -> None:
    assert "L4" not in found(recorded("gpt2-xl"))  # GPT-2 drops out in its blocks
    assert "L4" not in found(recorded(TINY))


@pytest.mark.slow
def test_every_linear_is_a_target() -> None:
    finding = found(recorded(TINY))["L6"]
    seen = facts(finding)
    assert (seen["adapted layers"], seen["layers that stay adapted"]) == (14, 4)
    assert "target_modules=['q_proj', 'v_proj']" in finding.remedy


@pytest.mark.slow
def test_the_remedy_for_too_many_targets_is_enough() -> None:
    narrow = recorded(TINY, "targets=q_proj,v_proj")
    assert "L6" not in found(narrow)


LARGE: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 32000}


def test_elementwise_traffic() -> None:
    finding = found(made(synthetic("bandwidth-v1")))["L1"]
    seen = facts(finding)
    typical = seen["bandwidth at which half of them move, caches included"]
    assert typical == pytest.approx(seen["bandwidth of this device's memory"], rel=1e-4)  # as the program was made
    assert finding.gain is not None
    assert finding.gain.low < finding.gain.speedup < finding.gain.high
    assert "L1" not in found(made(shaped(**LARGE, bytes_per_ns=800)))  # 40 % of the bandwidth: something else
    assert "L1" not in found(made(synthetic("frozen")))


def test_rank_r_products_are_bandwidth_bound() -> None:
    seen = facts(found(made(synthetic("bandwidth-v1")))["L5"])
    expected = 1 / (1 / 4096 + 1 / 4096 + 1 / 16)  # of a square layer
    assert abs(seen["arithmetic intensity of A and B"] - expected) < 0.05
    assert seen["A products that read an input another A reads too"] == 4 / 12
    assert "L5" not in found(made(shaped(**LARGE, rank=512)))  # beyond the ridge


def test_the_ridge_is_that_of_the_adapters_own_dtype() -> None:
    """fp32 products leave the memory system idle far earlier than the bf16 ones of the base."""

    def calibrated(float32_ns: int) -> Calibration:
        wide = GemmRate(m=4096, n=4096, k=4096, dtype="float32", ns=float32_ns)
        return msgspec.structs.replace(CALIBRATION, gemm=[*CALIBRATION.gemm, wide])

    run = shaped(variant="V5", flops_per_ns=12_000, **LARGE)  # slow products: a third of the adapter's time

    def untimed(float32_ns: int) -> Path:
        """Without a step time no gain is too small to be told."""
        return made(run, calibration=calibrated(float32_ns), timing=None)

    finding = found(untimed(3_435_974))["L5"]  # 40 TFLOP/s
    assert facts(finding)["ridge of this device in their dtype"] == pytest.approx(20)
    assert "r up to 64" not in advice(finding)  # 64 would do 31 FLOP per byte
    assert "r up to 64" in advice(found(untimed(1_717_987))["L5"])
    assert "L5" not in found(untimed(4_581_298))  # 30 TFLOP/s: 7.9 of 15 FLOP/B
    assert "L5" not in found(made(run))  # no rate is known


@pytest.mark.slow
def test_a_dense_weight_difference() -> None:
    finding = found(toy("dora"))["L7"]
    assert facts(finding)["layers that build a matrix as large as their weight"] == 4
    assert "use_dora=False" in finding.remedy
    assert "L7" not in found(toy("plain"))


@pytest.mark.slow
def test_a_value_read_in_the_adapter() -> None:
    finding = found(toy("item"))["L8"]
    seen = facts(finding)
    assert seen["reads of a device value inside adapted layers"] == 2
    assert seen["first of them in"].endswith("blocks.0.up.lora_dropout.default")
    assert "L8" not in found(toy("item-outside"))


def test_a_synchronising_adapter_on_a_gpu() -> None:
    small: dict[str, Any] = {"hidden": 512, "ffn": 1376, "tokens": 256}
    finding = found(made(shaped(sync_in_adapter=True, **small)))["L8"]
    assert facts(finding)["reads of a device value inside adapted layers"] == 12
    assert "L8" not in found(made(shaped(**small)))  # the loss is read at the end of the step: not an adapter's


def test_adapters_on_the_cpu() -> None:
    run = synthetic("bandwidth-v1")

    def moved(part: str) -> list[ParameterInfo]:
        table = run.recording.modules
        astray = [p for p in run.recording.parameters if table[p.module].part == part]
        return [msgspec.structs.replace(p, device="cpu") if p in astray else p for p in run.recording.parameters]

    finding = found(made(run, parameters=moved("down")))["L9"]
    assert facts(finding)["adapter parameters on another device than the base"] == 12
    assert 'model.to("cuda:0")' in finding.remedy
    assert "L9" not in found(made(run))


def split(which: int, strides: list[list[int]] | None = None, **fields: int) -> Path:
    """One of an adapter's two backward products as split-K, the last one being the weight gradient."""
    reduction = Kernel("splitKreduce_kernel", 1500)

    def visit(item: Op | Module) -> Op | Module:
        if isinstance(item, Module):
            return replace(item, body=tuple(visit(i) for i in item.body))
        if not item.grad or item.role not in ("adapter.down", "adapter.up") or which >= len(item.grad):
            return item
        grad = list(item.grad)
        args = grad[which].args | ({"Input Strides": strides} if strides else {})
        grad[which] = replace(grad[which], kernels=(*grad[which].kernels, reduction), args=args)
        return replace(item, grad=tuple(grad))

    made_program = program(Shape(**LARGE | fields))
    root = visit(made_program.root)
    assert isinstance(root, Module)
    return made(simulate(replace(made_program, root=root)))


def test_split_weight_gradients() -> None:
    finding = found(split(-1, tokens=2048))["L10"]
    seen = facts(finding)
    assert seen["reductions after split weight gradients"] == 24
    assert seen["reductions with fewer blocks than the device has SMs"] == 24
    assert "L10" not in found(made(synthetic("bandwidth-v1")))
    assert "L10" not in found(split(0, tokens=2048))  # input gradients that are split are something else


def test_split_weight_gradients_of_as_many_outputs_as_tokens() -> None:
    """B's two gradients have one shape then; only strides tell which is the weight's."""
    transposed, plain = [[1, 4096], [16, 1]], [[4096, 1], [16, 1]]
    both = facts(found(split(-1, transposed))["L10"])
    assert both["reductions after split weight gradients"] == 24
    assert "L10" not in found(split(0, plain))


def fused(slowdown: float) -> Path:
    """Frozen products as one fused kernel that takes ``slowdown`` times as long, adapters gone into it."""

    def visit(item: Op | Module) -> Op | Module:
        if isinstance(item, Module):
            return replace(item, body=tuple(visit(i) for i in item.body))
        if item.role != "base.linear":
            return item
        kernels = (replace(k, name="fused_lora_fwd", ns=int(slowdown * k.ns)) for k in item.kernels)
        return replace(item, kernels=tuple(kernels))

    def change(program: Program) -> Program:
        root = visit(program.root)
        assert isinstance(root, Module)
        return replace(program, root=root)

    run = synthetic("bandwidth-v1", change)
    return made(run, **workload(run.recording, tokens_per_step=4096, micro_batches=1))


def test_a_fused_kernel_that_loses() -> None:
    seen = facts(found(fused(1.5))["L11"])
    assert seen["fused LoRA kernels in forward"] == 12
    assert 0.6 < seen["rate reached, of that"] < 0.8
    assert "L11" not in found(fused(1.1))
    assert "L11" not in found(made(synthetic("bandwidth-v1")))


def dropped(*masks: str) -> Path:
    """The adapters of bandwidth-v1 scale by a dropout of the given modules' inputs instead of a product."""

    def change(op: Op) -> Op:
        if op.role != "adapter.elementwise" or op.name != "aten::mul":
            return op
        back = tuple(replace(b, name="NativeDropoutBackward0") for b in op.grad or ())
        return replace(op, name="aten::native_dropout", grad=back)

    run = synthetic("bandwidth-v1", lambda program: with_ops(program, change))
    sites = [msgspec.structs.replace(site, dropout=0.1) for site in run.recording.sites]
    return made(run, sites=sites)


def test_the_time_of_dropout_is_that_of_its_ops() -> None:
    path = dropped()
    seen, step = facts(found(path)["L4"]), loraprof.diagnose(path).step()
    assert step is not None
    elements = 4096 * 2 * (4 * 4096 + 11_008 + 4096)  # outputs of all linears
    assert seen["busy time of dropout, forward and backward"] == pytest.approx(2 * 2 * elements * 2 / 2000, rel=0.01)
    assert seen["dropout probability"] == 0.1
    assert "L4" not in found(made(synthetic("bandwidth-v1")))


def test_the_time_of_adapters_that_would_go() -> None:
    """Four of six linears of a layer: all but q and v; o, up and down among them, which are the large ones."""
    run = synthetic("bandwidth-v1")
    path = made(run)
    seen, report = facts(found(path)["L6"]), loraprof.diagnose(path)
    assert (seen["adapted layers"], seen["layers that stay adapted"]) == (12, 4)
    kept = sum(
        row.busy_ns + row.idle_ns
        for row in report.modules or ()
        if row.role.startswith("adapter") and re.search(r"\.[qv]_proj\b", row.path)
    )
    every = sum(
        row.busy_ns + row.idle_ns for row in report.modules or () if row.role.startswith("adapter") and row.path
    )
    assert seen["time of the adapters that would go"] == every - kept


def test_half_of_the_bytes_move_at_the_typical_rate_or_faster() -> None:
    assert _typical_rate([(10, 1)]) == 1e10
    assert _typical_rate([(10, 0)]) == 1e10  # below what the clock resolves
    assert _typical_rate([(600, 300), (400, 400)]) == 2e9
    assert _typical_rate([(600, 600), (400, 200)]) == 1e9
    assert _typical_rate([(500, 500), (500, 250)]) == 1e9


def building(tokens: int, *, dims: tuple[int, int] = (4096, 4096), kind: str = "dora") -> Path:
    """The scale of every adapter works on a matrix of ``dims`` instead of activations, forward and backward."""

    def change(op: Op) -> Op:
        if op.role != "adapter.elementwise" or op.name != "aten::mul":
            return op
        back = tuple(replace(b, args={**b.args, "Input Dims": [list(dims)]}) for b in op.grad or ())
        return replace(op, args={**op.args, "Input Dims": [list(dims)]}, grad=back)

    run = simulate(with_ops(program(Shape(**LARGE | {"tokens": tokens})), change))
    sites = [msgspec.structs.replace(site, kind=kind) for site in run.recording.sites]
    return made(run, sites=sites, **workload(run.recording, tokens_per_step=tokens, micro_batches=1))


def test_a_matrix_as_large_as_the_weight_is_built_in_square_layers() -> None:
    """Eight of twelve layers are 4096 by 4096: there it is a weight's; in the others no weight is that large."""
    path = building(2048)
    finding = found(path)["L7"]
    seen = facts(finding)
    assert seen["layers that build a matrix as large as their weight"] == 8
    assert seen["ops on such matrices in forward"] == 8
    assert seen["their time, whatever the number of tokens"] == 8 * (2 * 2048 * 4096 * 2 // 2000)
    assert "use_dora=False" in finding.remedy
    assert finding.gain is not None
    twice = 16 * 2 * 2048 * 4096 * 2 // 2000  # forward and backward
    assert finding.gain.ns == pytest.approx(twice, rel=0.1)
    assert "use_dora=False" not in advice(found(building(2048, kind="lora"))["L7"])


def test_what_grows_with_the_tokens_is_no_weight() -> None:
    assert "L7" not in found(building(4096))  # as many tokens as features: activations look like that
    assert "L7" not in found(building(2048, dims=(2048, 4096)))
    assert "L7" not in found(building(2048, dims=(2048 * 16, 256)))
