"""The cost model's worked numbers of one layer, one optimizer step and one model: FLOPs, bytes, launches, limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraprof.analysis.costmodel import distributed, launches, linear, optimizer
from loraprof.analysis.costmodel.shapes import MODELS
from loraprof.analysis.costmodel.speedup import attention_share, ideal_speedup, partial_cost, partial_speedup
from loraprof.analysis.costmodel.variants import VARIANTS, coefficients, detect_variant, full_size, total


@pytest.mark.parametrize(
    ("t", "k", "n", "full", "frozen", "extra"),
    [
        (4096, 4096, 4096, 412316860416, 274877906944, 3221225472),
        (2048, 4096, 14336, 721554505728, 481036337152, 3623878656),
        (4096, 2048, 2048, 103079215104, 68719476736, 1610612736),
    ],
)
def test_flops(t: int, k: int, n: int, full: int, frozen: int, extra: int) -> None:
    assert linear.full_flops(t, k, n).total() == full
    assert linear.frozen_flops(t, k, n).total() == frozen
    assert linear.lora_extra_flops(t, k, n, 16).total() == extra
    assert extra / frozen == pytest.approx(1.5 * 16 * (k + n) / (k * n))


def test_break_even_rank() -> None:
    found = [linear.break_even_rank(k, n) for k, n in ((4096, 4096), (4096, 14336), (8192, 28672))]
    assert found == pytest.approx([682.667, 1061.926, 2123.852], abs=5e-4)


BYTES = {
    (4096, 1024, 1024): {
        "V1": (59047936, 76152832), "V2": (80019456, 97124352), "V3": (109576192, 126681088),
        "V4": (147324928, 164429824), "V5": (160038912, 202637312), "V6": (197787648, 240386048),
    },
    (2048, 4096, 14336): {
        "V1": (369819648, 320208896), "V2": (411762688, 362151936), "V3": (472252416, 422641664),
        "V4": (547749888, 498139136), "V5": (907411456, 992739328), "V6": (982908928, 1068236800),
    },
    (2048, 4096, 4096): {
        "V1": (117833728, 151781376), "V2": (159776768, 193724416), "V3": (219283456, 253231104),
        "V4": (294780928, 328728576), "V5": (319553536, 404226048), "V6": (395051008, 479723520),
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", BYTES)
def test_extra_bytes(shape: tuple[int, int, int]) -> None:
    for variant, expected in BYTES[shape].items():
        found = linear.lora_extra_bytes(variant, *shape, 16)
        assert (found.forward, found.backward) == expected


def test_frozen_forward_bytes() -> None:
    assert [linear.frozen_bytes(*shape).forward for shape in BYTES] == [18874368, 192937984, 67108864]
    full = linear.full_bytes(4096, 4096, 4096, accumulating=True)
    assert full.backward - linear.full_bytes(4096, 4096, 4096).backward == 6 * 4096 * 4096


COEFFICIENTS = {
    "V1": (2, 12, 2, 2, 4, 10, 8, 4, 4, 8), "V2": (7, 12, 2, 2, 4, 15, 8, 4, 4, 8),
    "V3": (14, 12, 8, 8, 4, 22, 8, 10, 10, 8), "V3b": (2, 12, 8, 8, 4, 10, 8, 10, 10, 8),
    "V4": (23, 12, 8, 8, 4, 31, 8, 10, 10, 8), "V5": (10, 28, 4, 4, 8, 20, 28, 8, 8, 16),
    "V6": (19, 28, 4, 4, 8, 29, 28, 8, 8, 16),
}  # fmt: skip


@pytest.mark.parametrize("variant", COEFFICIENTS)
def test_coefficients(variant: str) -> None:
    f, b = coefficients(variant)
    assert (f.tk, f.tn, f.kr, f.nr, f.tr, b.tk, b.tn, b.kr, b.nr, b.tr) == COEFFICIENTS[variant]


def test_launches_per_layer() -> None:
    expected = {"V1": (4, 6), "V2": (5, 7), "V3": (8, 10), "V4": (9, 11), "V5": (6, 9), "V6": (7, 10), "V3b": (6, 8)}
    assert {v: (len(x.forward()), len(x.backward())) for v, x in VARIANTS.items()} == expected
    lowest = {v: (len(VARIANTS[v].backward(False)), total(VARIANTS[v].backward(False))) for v in ("V1", "V3", "V5")}
    assert {v: (n, c.tk, c.tn) for v, (n, c) in lowest.items()} == {"V1": (4, 2, 8), "V3": (6, 2, 8), "V5": (5, 4, 22)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gemm_counts_per_role(variant: str) -> None:
    assert launches.gemm_counts(variant) == {
        ("base.linear", "forward"): 1, ("base.linear", "backward"): 1,
        ("adapter.down", "forward"): 1, ("adapter.down", "backward"): 2,
        ("adapter.up", "forward"): 1, ("adapter.up", "backward"): 2,
    }  # fmt: skip
    again = launches.gemm_counts(variant, checkpointing=True)
    assert {role: n for (role, phase), n in again.items() if phase == "recompute"} == {
        "base.linear": 1, "adapter.down": 1, "adapter.up": 1,
    }  # fmt: skip
    lowest = launches.gemm_counts(variant, input_grad=False)
    assert ("base.linear", "backward") not in lowest
    assert lowest["adapter.down", "backward"] == 1
    assert lowest["adapter.up", "backward"] == 2


def test_gemm_counts_without_adapter() -> None:
    assert launches.gemm_counts("full") == {("base.linear", "forward"): 1, ("base.linear", "backward"): 2}
    assert launches.gemm_counts("frozen") == {("base.linear", "forward"): 1, ("base.linear", "backward"): 1}
    biased = launches.launch_table("full", bias=True)
    assert sum(row.total for row in biased) == 4


LAUNCHES = {
    "GPT2-xl": (192, 1920, 2304, 3456, 3840, 2880, 3264, 2688, 5568),
    "TinyLlama-1.1B": (154, 1540, 1848, 2772, 3080, 2310, 2618, 2156, 4466),
    "Llama-3.2-1B": (112, 1120, 1344, 2016, 2240, 1680, 1904, 1568, 3248),
    "Llama-3.2-3B": (196, 1960, 2352, 3528, 3920, 2940, 3332, 2744, 5684),
    "Mistral-7B": (224, 2240, 2688, 4032, 4480, 3360, 3808, 3136, 6496),
    "Llama-3-8B": (224, 2240, 2688, 4032, 4480, 3360, 3808, 3136, 6496),
    "Llama-3-70B": (560, 5600, 6720, 10080, 11200, 8400, 9520, 7840, 16240),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_per_step(name: str) -> None:
    modules = MODELS[name].modules
    plain = [launches.step_launches(f"V{i}", modules) for i in range(1, 7)]
    checkpointed = [launches.step_launches(v, modules, checkpointing=True) for v in ("V1", "V4")]
    assert (modules, *plain, *checkpointed) == LAUNCHES[name]


def test_model_shapes() -> None:
    table = {
        "GPT2-xl": (1474560000, 1554971200, 537600, 691200),
        "TinyLlama-1.1B": (968884224, 1099956224, 394240, 394240),
        "Llama-3.2-1B": (973078528, 1235746816, 327680, 376832),
        "Llama-3.2-3B": (2818572288, 3212574720, 745472, 774144),
        "Mistral-7B": (6979321856, 7241465856, 1245184, 1376256),
        "Llama-3-8B": (6979321856, 8029995008, 1245184, 1376256),
        "Llama-3-70B": (68451041280, 70552387584, 6225920, 6717440),
    }
    assert {m.name: (m.block_parameters, m.parameters, m.sum_k, m.sum_n) for m in MODELS.values()} == table


def test_optimizer_bytes() -> None:
    assert (optimizer.adamw_bytes(2, fused=True), optimizer.adamw_bytes(4, fused=True)) == (14, 28)
    assert (optimizer.adamw_bytes(2), optimizer.adamw_bytes(4)) == (40, 80)
    assert optimizer.adamw_bytes(master=True) == 28
    assert (optimizer.clip_bytes(2), optimizer.clip_bytes(4), optimizer.accumulate_bytes(2)) == (6, 12, 6)


@given(
    st.sampled_from(sorted(VARIANTS)), st.integers(1024, 30000), st.integers(1024, 30000), st.integers(1, 16),
    st.integers(2048, 32768),
)  # fmt: skip
def test_small_terms_are_small(variant: str, k: int, n: int, r: int, t: int) -> None:
    c_k, c_n = full_size(variant)
    leading = t * (c_k * k + c_n * n)
    forward, backward = coefficients(variant)
    small = sum(c.kr * k * r + c.nr * n * r + c.tr * t * r for c in (forward, backward))
    exact = linear.lora_extra_bytes(variant, t, k, n, r).total()
    assert exact - leading == small
    assert small < 0.015 * leading  # V3b at the smallest layer and rank 16: 1.46 %


@pytest.mark.parametrize("variant", VARIANTS)
def test_rank_to_zero(variant: str) -> None:
    assert linear.lora_extra_flops(4096, 1024, 2048, 0).total() == 0
    c_k, c_n = full_size(variant)
    assert linear.lora_extra_bytes(variant, 4096, 1024, 2048, 0).total() == 4096 * (c_k * 1024 + c_n * 2048)


def test_fp32_throughout_moves_twice_the_bytes_but_the_mask() -> None:
    narrow, wide = (linear.lora_extra_bytes("V2", 64, 32, 16, 4, width=w) for w in (2, 4))
    assert wide.forward == 2 * narrow.forward - 64 * 32
    assert wide.backward == 2 * narrow.backward - 64 * 32
    with pytest.raises(ValueError, match="16-bit base"):
        linear.lora_extra_bytes("V5", 64, 32, 16, 4, width=4)


def test_saved_and_merged() -> None:
    assert linear.saved_bytes("V1", 64, 32, 4) == 2 * 64 * 32 + 2 * 64 * 4
    assert linear.saved_bytes("V6", 64, 32, 4) == 5 * 64 * 32 + 4 * 64 * 4
    assert [linear.merged_weight_bytes(8, 4, f) for f in ("folded", "scaled", "addmm")] == [256, 384, 128]


def test_distributed() -> None:
    assert distributed.sharded_bytes(100, 100, 4) / distributed.sharded_bytes(100, 0, 4) == 1.5
    assert distributed.ddp_bytes(1000, 4) == 1500
    assert distributed.ddp_bytes(1000, 1) == 0
    assert distributed.bubble_share(4, 4) == pytest.approx(3 / 7)
    assert distributed.bubble_share(1, 4) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("bfloat16", "bfloat16", None, 0.0), "V1"),
        (("bfloat16", "bfloat16", "bfloat16", 0.1), "V2"),
        (("float32", "bfloat16", "bfloat16", 0.0), "V3"),
        (("float32", "bfloat16", "bfloat16", 0.1), "V4"),
        (("float32", "bfloat16", "none", 0.0), "V5"),
        (("float32", "bfloat16", None, 0.1), "V6"),
        (("float32", "bfloat16", "bfloat16", 0.0, True), "V3b"),
        (("float32", "float32", None, 0.0), "V1"),
        (("float32", "float16", "float16", 0.0), "V3"),
        (("float32", "float32", "bfloat16", 0.0), None),
        (("bfloat16", "float32", None, 0.0), None),
        (("float32", "bfloat16", None, 0.0, True), None),
        (("float32", "int8", "bfloat16", 0.0), None),
    ],
)
def test_detect_variant(arguments: tuple[str, str, str | None, float], expected: str | None) -> None:
    assert detect_variant(*arguments) == expected


def test_without_anything_else_lora_saves_a_third_and_a_quarter_under_checkpointing() -> None:
    assert ideal_speedup() == 3 / 2
    assert ideal_speedup(checkpointing=True) == 4 / 3
    assert ideal_speedup(optimizer=1.0) == 4 / 2
    assert ideal_speedup(head=1.0) == 6 / 4
    assert ideal_speedup(head=1.0, head_trained="both") == 6 / 5
    assert ideal_speedup(head=1.0, head_trained="neither") == 5 / 4
    assert ideal_speedup(attention=1.0) == (3 + 3.5) / (2 + 3.5)
    assert ideal_speedup(attention=1.0, checkpointing=True) == (4 + 4.5) / (3 + 4.5)
    assert ideal_speedup(other=1.0) == 4 / 3
    assert partial_cost(0.5, lora=True) == 1.5
    assert partial_cost(0.5, lora=False, checkpointing=True) == 1 + 3 * 0.5
    assert partial_speedup(0.5, lora=True) == 3 / 1.5
    assert attention_share(2048, 4096, 32, 2**33) == 2048 * 4096 * 32 / 2**33


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("GPT2-xl", 1.555),
        ("TinyLlama-1.1B", 1.100),
        ("Llama-3.2-1B", 1.236),
        ("Llama-3.2-3B", 3.213),
        ("Mistral-7B", 7.241),
        ("Llama-3-8B", 8.030),
        ("Llama-3-70B", 70.55),
    ],
)
def test_models_have_the_parameters_that_they_are_published_with(name: str, billions: float) -> None:
    """Norms, biases and positions left out: under a thousandth, of GPT-2 two."""
    model = MODELS[name]
    assert model.parameters / 1e9 == pytest.approx(billions, rel=2e-3)
    assert model.modules == model.layers * len(model.linears)
    assert model.sum_k == model.layers * sum(k for k, _ in model.linears)
    assert model.sum_n == model.layers * sum(n for _, n in model.linears)
