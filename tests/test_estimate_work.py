"""The work of a step: FLOPs, bytes and launches against numbers worked out by hand, and the time made of them."""

from typing import Any

import pytest
from msgspec.structs import replace

from loraprof.analysis.costmodel.variants import VARIANTS
from loraprof.estimate.architecture import Architecture, Linear
from loraprof.estimate.block import step_work
from loraprof.estimate.config import architecture
from loraprof.estimate.crossover import crossover_width
from loraprof.estimate.schedule import Load, Pace, step_seconds
from loraprof.estimate.step import Question
from loraprof.estimate.work import Work, adapter_work, linear_work, optimizer_work, variant
from loraprof.model.estimate import Rate, Settings
from loraprof.store.efficiencies import load_rates, rates_of
from loraprof.store.gpus import gpu_files, load_gpu
from loraprof.store.specs import load_workload

# How each variant of the cost model is asked for.
ASKED: dict[str, dict[str, Any]] = {
    "V1": {"adapter_dtype": "same"},
    "V2": {"adapter_dtype": "same", "dropout": 0.1},
    "V3": {"autocast": "bfloat16"},
    "V4": {"autocast": "bfloat16", "dropout": 0.1},
    "V5": {},
    "V6": {"dropout": 0.1},
}
# T, k, n and by variant the adapter's extra bytes forward and backward: sums over its operators, by hand.
EXTRA_BYTES = {
    (4096, 1024, 1024): {
        "V1": (59047936, 76152832),
        "V2": (80019456, 97124352),
        "V3": (109576192, 126681088),
        "V4": (147324928, 164429824),
        "V5": (160038912, 202637312),
        "V6": (197787648, 240386048),
    },
    (2048, 4096, 14336): {
        "V1": (369819648, 320208896),
        "V2": (411762688, 362151936),
        "V3": (472252416, 422641664),
        "V4": (547749888, 498139136),
        "V5": (907411456, 992739328),
        "V6": (982908928, 1068236800),
    },
}


def preset(name: str) -> Architecture:
    spec = load_workload(name)
    return architecture({"model_type": spec.family, **spec.config}, name, name)


def settings(tokens: int = 4096, **changed: Any) -> Settings:
    return Settings(batch=1, seq=tokens, **changed)


def summed(works: list[Work], field: str, **where: str) -> float:
    found: list[float] = [getattr(w, field) for w in works if all(getattr(w, k) == v for k, v in where.items())]
    return sum(found)


@pytest.mark.parametrize("shape", EXTRA_BYTES)
@pytest.mark.parametrize("name", ASKED)
def test_the_adapters_bytes_are_the_cost_models(shape: tuple[int, int, int], name: str) -> None:
    t, k, n = shape
    asked = settings(t, **ASKED[name])
    assert variant(asked) == name
    works = list(adapter_work(Linear("x", k, n), asked, t))
    found = tuple(summed(works, "bytes", phase=phase) for phase in ("forward", "backward"))
    assert found == EXTRA_BYTES[shape][name]


@pytest.mark.parametrize(
    ("t", "k", "n", "full", "frozen", "extra"),
    [
        (4096, 4096, 4096, 412316860416, 274877906944, 3221225472),
        (2048, 4096, 14336, 721554505728, 481036337152, 3623878656),
        (4096, 2048, 2048, 103079215104, 68719476736, 1610612736),
    ],
)
def test_the_flops_of_one_linear_by_arm(t: int, k: int, n: int, full: int, frozen: int, extra: int) -> None:
    flops = {
        arm: summed(list(linear_work(Linear("x", k, n), settings(), arm, t)), "flops") for arm in ("full", "frozen")
    }
    lora = list(linear_work(Linear("x", k, n), settings(adapter_dtype="same"), "lora", t))
    assert flops == {"full": full, "frozen": frozen}
    assert summed(lora, "flops", key="adapter") == extra
    assert summed(lora, "flops", key="base.linear") == frozen


@pytest.mark.parametrize(
    ("name", "checkpointing", "launches"),
    [("V1", False, 2240), ("V4", False, 4480), ("V1", True, 3136), ("V4", True, 6496)],
)
def test_the_adapters_launches_of_llama_3_8b(name: str, checkpointing: bool, launches: int) -> None:
    works = step_work(preset("llama-3-8b"), settings(checkpointing=checkpointing, **ASKED[name]), "lora")
    assert summed(works, "kernels", key="adapter") == launches


def test_fp32_products_with_a_long_sum_run_in_two_kernels() -> None:
    works = step_work(preset("llama-3-8b"), settings(), "lora")
    per_module = len(VARIANTS["V5"].forward()) + len(VARIANTS["V5"].backward())
    assert summed(works, "kernels", key="adapter") == 224 * (per_module + 4)


def test_the_optimizers_bytes() -> None:
    model = preset("llama-3.2-3b")
    assert model.parameters == 3212749824
    foreach = list(optimizer_work(model, settings(accumulate=3), "full"))
    assert summed(foreach, "bytes", key="optimizer") == 40 * model.parameters
    assert summed(foreach, "bytes", key="grad_clip") == 6 * model.parameters
    assert summed(foreach, "bytes", key="accumulate") == 2 * 6 * model.parameters
    assert not list(optimizer_work(model, settings(), "frozen"))
    fused = list(optimizer_work(model, settings(optimizer="adamw-fused"), "full"))
    assert summed(fused, "bytes", key="optimizer") == 14 * model.parameters


def test_a_packed_weight_is_unpacked_for_every_product() -> None:
    works = list(linear_work(Linear("x", 4096, 1024), settings(quantized="nf4"), "frozen", 4096))
    assert [w.phase for w in works if w.role == "dequant"] == ["forward", "backward"]
    assert summed(works, "bytes", role="dequant") == 2 * 2.5 * 4096 * 1024


def test_dropout_forbids_fused_adapters() -> None:
    assert variant(settings(adapter_kernels="fused")) == "VF"
    assert variant(settings(adapter_kernels="fused", dropout=0.1)) == "V6"


def rate(shape: str, value: float) -> Rate:
    return Rate(shape=shape, value=value, low=value, high=value, source="by hand")


def by_hand(gpu: str, flops: float, bandwidth: float, **changed: Any) -> Question:
    """Llama 3 8B at two efficiencies and kernels that cost nothing by themselves."""
    shapes = {name: rate(name, bandwidth) for name in rates_of(gpu, load_rates())}
    free = {name: rate(name, 1e-9) for name in ("kernel_us", "skinny_us", "host_us")}
    rates = shapes | free | {"gemm": rate("gemm", flops), "cached": rate("cached", 1.0)}
    return Question(preset("llama-3-8b"), settings(**changed), load_gpu(gpu_files()[gpu]), rates)


@pytest.mark.parametrize(
    ("gpu", "flops", "v1", "v5"),
    [
        ("a100-80gb-sxm", 0.80, 2304.24, 6192.65),
        ("h200-sxm", 0.70, 2714.90, 7296.30),
        ("h100-sxm", 0.70, 3890.01, 10454.40),
    ],
)
def test_the_crossover_width(gpu: str, flops: float, v1: float, v5: float) -> None:
    assert crossover_width(by_hand(gpu, flops, 0.85, adapter_dtype="same")) == pytest.approx(v1, rel=1e-3)
    assert crossover_width(by_hand(gpu, flops, 0.85)) == pytest.approx(v5, rel=1e-3)


def test_the_whole_model_without_its_other_parts() -> None:
    """Llama 3 8B on an H200, V1: 1.2096 forward and backward over linears, head and adapters, worked out by hand."""
    question = by_hand("h200-sxm", 0.70, 0.85, adapter_dtype="same")

    def ns(arm: str) -> int:
        roles = ("base.linear", "head", "weight gradients", "adapter.down", "adapter.up", "adapter.elementwise")
        return sum(row.ns for row in question.rows(arm) if row.role in roles and row.phase != "optimizer")

    embedding = 3 * 2 * 4096 * 4096 + 2 * 128256 * 4096  # its gradient counts among the full arm's weight gradients
    embedding_ns = embedding / (4.8e12 * 0.85) * 1e9
    assert ns("full") - embedding_ns == pytest.approx(1.5 * ns("frozen"), rel=1e-3)
    assert (ns("full") - embedding_ns) / ns("lora") == pytest.approx(1.2096, rel=2e-3)


RATES = {"kernel_us": 1.0, "gemm": 0.5, "elementwise": 0.5, "cached": 2.0}


def load(segment: int, kernels: int, byte_s: float, cached: bool = False) -> Load:
    return Load(segment, kernels, 0.0, byte_s, "kernel_us", "gemm", "elementwise", cached)


def test_a_segment_ends_with_the_later_of_gpu_and_host() -> None:
    # Forward: 100 launches of 10 us each take the host 1 ms, the GPU 0.1 ms + 0.2 ms of bytes: the host decides.
    # Backward: 10 launches end at 1.1 ms, the GPU needs 0.01 + 2 ms from 1 ms on: the GPU decides, 3.01 ms.
    parts = [load(0, 100, 1e-4), load(3, 10, 1e-3)]
    assert step_seconds(parts, RATES, Pace(10e-6, {}, 1)) == pytest.approx(3.01e-3)


def test_micro_batches_share_a_steps_work() -> None:
    parts = [load(0, 100, 1e-4), load(3, 10, 1e-3)]
    twice = [load(0, 200, 2e-4), load(3, 20, 2e-3)]
    once = step_seconds(parts, RATES, Pace(10e-6, {}, 1))
    # The second forward is launched while the first backward runs: 0.3 + 0.01 ms less the wait.
    assert step_seconds(twice, RATES, Pace(10e-6, {}, 2)) == pytest.approx(once + 0.3e-3 + 2.01e-3)


@pytest.mark.parametrize("host_us", [1.0, 20.0, 60.0])
def test_many_micro_batches_take_as_long_as_each_for_itself(host_us: float) -> None:
    parts = [load(0, 100, 1e-4), load(1, 2, 2e-3), load(2, 2, 2e-3), load(3, 100, 1e-4), load(4, 30, 1e-3)]

    def many(count: int) -> float:
        repeated = [replace(p, kernels=count * p.kernels, byte_s=count * p.byte_s) for p in parts[:4]]
        return step_seconds([*repeated, parts[4]], RATES, Pace(host_us * 1e-6, {}, count))

    steps = [many(count) for count in (4, 5, 6, 7)]
    assert steps[1] - steps[0] == pytest.approx(steps[3] - steps[2])
    assert many(1000) == pytest.approx(steps[0] + 996 * (steps[1] - steps[0]))


def test_tensors_that_stay_in_the_l2_move_faster() -> None:
    pace = Pace(1e-12, {}, 1)
    assert step_seconds([load(0, 0, 1e-3, cached=True)], RATES, pace) == pytest.approx(1e-3)
    assert step_seconds([load(0, 0, 1e-3)], RATES, pace) == pytest.approx(2e-3)


def test_transfers_count_where_nothing_hides_them() -> None:
    parts = [load(0, 0, 1e-3), load(3, 0, 1e-3)]
    assert step_seconds(parts, RATES, Pace(1e-12, {"backward": 1e-3}, 1)) == pytest.approx(4e-3)
    assert step_seconds(parts, RATES, Pace(1e-12, {"backward": 5e-3}, 1)) == pytest.approx(7e-3)


def test_full_sharding_moves_three_to_two() -> None:
    question = Question(
        preset("llama-3-8b"),
        settings(gpus=8, parallel="fsdp"),
        load_gpu(gpu_files()["h100-sxm"]),
        rates_of("h100-sxm", load_rates()),
    )
    full, frozen = (sum(question.pace(arm, question.values()).comm.values()) for arm in ("full", "frozen"))
    assert full / frozen == pytest.approx(1.5)
