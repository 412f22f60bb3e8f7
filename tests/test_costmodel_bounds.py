"""The cost model's bounds and thresholds, by worked numbers: speed-up, crossover, host-bound, whole models.

The machine constants are data-sheet peaks times an assumed efficiency.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraprof.analysis.costmodel import hostbound, linear, optimizer, speedup
from loraprof.analysis.costmodel.shapes import MODELS, predict
from loraprof.analysis.costmodel.skinny import Machine, skinny_gemm
from loraprof.analysis.costmodel.variants import VARIANTS, full_size

F = {"A100": 249.60e12, "H200": 692.30e12, "H100": 692.30e12, "RTX4090": 140.25e12, "L40S": 217.20e12}
BW = {"A100": 2.039e12 * 0.85, "H200": 4.8e12 * 0.85, "H100": 3.35e12 * 0.85, "RTX4090": 1.008e12 * 0.88,
      "L40S": 0.864e12 * 0.85}  # fmt: skip
RHO = {gpu: F[gpu] / BW[gpu] for gpu in F}


def test_machine_balances() -> None:
    expected = {"A100": 144.02, "H200": 169.68, "H100": 243.13, "RTX4090": 158.11, "L40S": 295.75}
    assert pytest.approx(expected, abs=0.006) == RHO


def test_ideal_speedups() -> None:
    assert speedup.ideal_speedup() == 3 / 2
    assert speedup.ideal_speedup(checkpointing=True) == 4 / 3
    assert speedup.ideal_speedup(0.3) == pytest.approx(1.327869, abs=5e-7)
    assert speedup.ideal_speedup(0.3, checkpointing=True) == pytest.approx(1.229885, abs=5e-7)
    cases = [("A100", 28, 1024, 1.96896, 2.48448, 1.98965), ("H200", 28, 4096, 0.57997, 1.78998, 1.52666),
             ("L40S", 40, 1024, 5.77640, 4.38820, 3.25880)]  # fmt: skip
    for gpu, beta, tokens, o, plain, checkpointed in cases:
        share = optimizer.optimizer_share(beta, RHO[gpu], tokens)
        assert share == pytest.approx(o, abs=6e-6)
        assert speedup.ideal_speedup(0, share) == pytest.approx(plain, abs=6e-6)
        assert speedup.ideal_speedup(0, share, True) == pytest.approx(checkpointed, abs=6e-6)


OPTIMIZER = {
    (14, "A100"): ((1.99, 1.66), (1.62, 1.42), (1.53, 1.35), (1.51, 1.34)),
    (14, "H200"): ((2.08, 1.72), (1.64, 1.43), (1.54, 1.36), (1.51, 1.34)),
    (14, "H100"): ((2.33, 1.89), (1.71, 1.47), (1.55, 1.37), (1.51, 1.34)),
    (14, "L40S"): ((2.51, 2.01), (1.75, 1.50), (1.56, 1.38), (1.52, 1.34)),
    (28, "A100"): ((2.48, 1.99), (1.75, 1.50), (1.56, 1.37), (1.52, 1.34)),
    (28, "H200"): ((2.66, 2.11), (1.79, 1.53), (1.57, 1.38), (1.52, 1.35)),
    (28, "H100"): ((3.16, 2.44), (1.92, 1.61), (1.60, 1.40), (1.53, 1.35)),
    (28, "L40S"): ((3.52, 2.68), (2.01, 1.67), (1.63, 1.42), (1.53, 1.35)),
    (40, "A100"): ((2.91, 2.27), (1.85, 1.57), (1.59, 1.39), (1.52, 1.35)),
    (40, "H200"): ((3.16, 2.44), (1.91, 1.61), (1.60, 1.40), (1.53, 1.35)),
    (40, "H100"): ((3.87, 2.92), (2.09, 1.73), (1.65, 1.43), (1.54, 1.36)),
    (40, "L40S"): ((4.39, 3.26), (2.22, 1.81), (1.68, 1.45), (1.55, 1.36)),
    (80, "A100"): ((4.31, 3.21), (2.20, 1.80), (1.68, 1.45), (1.54, 1.36)),
    (80, "H200"): ((4.81, 3.54), (2.33, 1.89), (1.71, 1.47), (1.55, 1.37)),
    (80, "H100"): ((6.25, 4.50), (2.69, 2.12), (1.80, 1.53), (1.57, 1.38)),
    (80, "L40S"): ((7.28, 5.18), (2.94, 2.30), (1.86, 1.57), (1.59, 1.39)),
}  # (beta, GPU): without and with checkpointing at 1024, 4096, 16384 and 65536 tokens per step


@pytest.mark.parametrize("case", OPTIMIZER)
def test_the_optimizer_raises_the_bound(case: tuple[int, str]) -> None:
    beta, gpu = case
    for tokens, expected in zip((1024, 4096, 16384, 65536), OPTIMIZER[case], strict=True):
        share = optimizer.optimizer_share(beta, RHO[gpu], tokens)
        found = [speedup.ideal_speedup(0, share, ck) for ck in (False, True)]
        assert found == pytest.approx(expected, abs=0.0051)


def test_attention_lowers_the_bound() -> None:
    table = {0: (1.5, 1.333), 0.1: (1.426, 1.290), 0.3: (1.328, 1.230), 1.0: (1.182, 1.133)}
    for a, expected in table.items():
        assert [speedup.ideal_speedup(a, checkpointing=ck) for ck in (False, True)] == pytest.approx(expected, abs=6e-4)


def test_the_head_moves_the_bound() -> None:
    assert speedup.ideal_speedup(head=0.2) == pytest.approx(1.5)
    assert speedup.ideal_speedup(head=0.2, head_trained="neither") == pytest.approx(3.4 / 2.4)
    assert speedup.ideal_speedup(head=0.2, head_trained="both") == pytest.approx(3.6 / 2.6)
    assert speedup.ideal_speedup(other=1.0) == pytest.approx(4 / 3)


def test_attention_share() -> None:
    shares = [
        speedup.attention_share(s, MODELS[m].hidden, MODELS[m].layers, MODELS[m].block_parameters)
        for m, s in (("Llama-3-70B", 4096), ("Llama-3-8B", 4096), ("TinyLlama-1.1B", 1024))
    ]
    assert shares == pytest.approx([0.039, 0.077, 0.048], abs=5e-4)


@given(st.floats(0, 5), st.floats(0, 5), st.floats(0, 5), st.booleans())
def test_speedup_falls_with_attention_and_rises_with_optimizer(a: float, o: float, more: float, ck: bool) -> None:
    same = 1e-12
    assert speedup.ideal_speedup(a + more, o, ck) <= speedup.ideal_speedup(a, o, ck) + same
    assert speedup.ideal_speedup(a, o + more, ck) >= speedup.ideal_speedup(a, o, ck) - same


@given(st.sampled_from(sorted(VARIANTS)), st.floats(10, 500), st.floats(1, 100))
def test_crossover_rises_with_balance_and_traffic(variant: str, rho: float, more: float) -> None:
    assert speedup.crossover_hidden(variant, rho + more) > speedup.crossover_hidden(variant, rho)
    assert speedup.crossover_hidden(variant, rho, True) > speedup.crossover_hidden(variant, rho)
    for other in VARIANTS:
        if sum(full_size(other)) > sum(full_size(variant)):
            assert speedup.crossover_hidden(other, rho) > speedup.crossover_hidden(variant, rho)


CROSSOVER = {
    "V1": ((2304, 2715, 3890, 2530, 4732), (3312, 3903, 5592, 3637, 6802)),
    "V2": ((3024, 3563, 5106, 3320, 6211), (4392, 5175, 7415, 4822, 9020)),
    "V3": ((4032, 4751, 6808, 4427, 8281), (5905, 6957, 9968, 6483, 12126)),
    "V4": ((5329, 6278, 8996, 5850, 10943), (7849, 9248, 13250, 8617, 16118)),
    "V5": ((6193, 7296, 10454, 6799, 12717), (8929, 10520, 15074, 9803, 18337)),
    "V6": ((7489, 8823, 12643, 8222, 15379), (10873, 12811, 18356, 11937, 22329)),
    "VF": ((432, 509, 729, 474, 887), (576, 679, 973, 632, 1183)),
}


@pytest.mark.parametrize("variant", CROSSOVER)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_crossover_table(variant: str, checkpointing: bool) -> None:
    found = [
        speedup.crossover_hidden(variant, RHO[gpu], checkpointing)
        for gpu in ("A100", "H200", "H100", "RTX4090", "L40S")
    ]
    assert found == pytest.approx(CROSSOVER[variant][checkpointing], abs=0.6)


def test_crossovers_to_the_digit() -> None:
    found = [speedup.crossover_hidden(v, RHO[g]) for v in ("V1", "V5") for g in ("A100", "H200", "H100")]
    assert found == pytest.approx([2304.24, 2714.90, 3890.01, 6192.65, 7296.30, 10454.40], abs=0.006)
    assert speedup.crossover_hidden("V3", RHO["H200"], True) == pytest.approx(6956.94, abs=0.006)


MARGINS = {
    (4096, 4096): (256.0, 195.0, 146.3, 110.7, 95.3, 78.8),
    (4096, 1024): (120.5, 75.9, 50.0, 34.7, 46.5, 33.0),
    (4096, 14336): (349.7, 311.7, 270.5, 231.2, 126.9, 117.5),
    (14336, 4096): (462.5, 295.6, 196.4, 137.2, 178.1, 128.0),
}


@pytest.mark.parametrize("shape", MARGINS)
def test_layer_margins(shape: tuple[int, int]) -> None:
    found = [speedup.layer_margin(f"V{i}", *shape) for i in range(1, 7)]
    assert found == pytest.approx(MARGINS[shape], abs=0.06)


SLOWDOWN = {
    ("A100", "V1"): (1.98, 1.63, 1.49, 1.25, 1.12),
    ("A100", "V3"): (2.83, 2.17, 1.91, 1.46, 1.23),
    ("A100", "V5"): (3.67, 2.71, 2.34, 1.67, 1.33),
    ("H200", "V1"): (2.16, 1.74, 1.58, 1.29, 1.14),
    ("H200", "V3"): (3.15, 2.38, 2.08, 1.54, 1.27),
    ("H200", "V5"): (4.15, 3.01, 2.57, 1.79, 1.39),
    ("H100", "V1"): (2.66, 2.06, 1.83, 1.42, 1.21),
    ("H100", "V3"): (4.09, 2.98, 2.54, 1.77, 1.39),
    ("H100", "V5"): (5.51, 3.89, 3.26, 2.13, 1.56),
}  # at d = 1024, 1600, 2048, 4096, 8192


def test_forward_slowdown() -> None:
    for (gpu, variant), expected in SLOWDOWN.items():
        found = [speedup.forward_slowdown(variant, RHO[gpu], d) for d in (1024, 1600, 2048, 4096, 8192)]
        assert found == pytest.approx(expected, abs=0.0051)
    assert speedup.forward_slowdown("V1", RHO["H100"], 4096) == pytest.approx(1.41550, abs=6e-6)
    assert speedup.forward_slowdown("V5", RHO["H100"], 2048) == pytest.approx(3.25556, abs=6e-6)


def test_partial_training() -> None:
    costs = [
        speedup.partial_cost(0.25, lora, ck)
        for lora, ck in ((False, False), (True, False), (False, True), (True, True))
    ]
    gains = [
        speedup.partial_speedup(0.25, lora, ck)
        for lora, ck in ((False, False), (True, False), (False, True), (True, True))
    ]
    assert costs == [1.5, 1.25, 1.75, 1.5]
    assert gains == pytest.approx([2.0, 2.4, 2.285714, 2.666667], abs=5e-7)
    assert [speedup.partial_cost(1, lora, ck) for lora in (False, True) for ck in (False, True)] == [3, 4, 2, 3]
    assert speedup.partial_cost(0.5, False) == speedup.partial_cost(1, True)
    assert 3 / speedup.partial_cost(3 / 80, False, True) == pytest.approx(2.70, abs=0.005)


HOST_BOUND = {
    ("GPT2-xl", "A100", 24): ((585, 975, 1268), (1462, 2438, 3169), (3412, 5688, 7394)),
    ("GPT2-xl", "H100", 24): ((1623, 2704, 3516), (4056, 6761, 8789), (9465, 15775, 20508)),
    ("TinyLlama-1.1B", "A100", 27): ((459, 935, 1292), (1148, 2338, 3231), (2678, 5455, 7538)),
    ("TinyLlama-1.1B", "H100", 27): ((1273, 2594, 3584), (3183, 6484, 8960), (7428, 15130, 20907)),
    ("Llama-3.2-1B", "A100", 27): ((332, 677, 936), (831, 1693, 2339), (1939, 3950, 5458)),
    ("Llama-3.2-1B", "H100", 27): ((922, 1878, 2595), (2305, 4696, 6488), (5379, 10956, 15140)),
    ("Llama-3.2-3B", "A100", 27): ((201, 409, 565), (502, 1023, 1413), (1172, 2387, 3298)),
    ("Llama-3.2-3B", "H100", 27): ((557, 1135, 1568), (1393, 2837, 3920), (3250, 6619, 9147)),
    ("Mistral-7B", "A100", 27): ((93, 189, 261), (232, 472, 652), (541, 1101, 1522)),
    ("Mistral-7B", "H100", 27): ((257, 524, 724), (643, 1309, 1809), (1500, 3055, 4222)),
    ("Llama-3-8B", "A100", 27): ((93, 189, 261), (232, 472, 652), (541, 1101, 1522)),
    ("Llama-3-8B", "H100", 27): ((257, 524, 724), (643, 1309, 1809), (1500, 3055, 4222)),
    ("Llama-3-70B", "A100", 27): ((24, 48, 67), (59, 120, 166), (138, 281, 388)),
    ("Llama-3-70B", "H100", 27): ((66, 134, 184), (164, 334, 461), (382, 779, 1076)),
}  # (model, GPU, base launches per layer): base, V1 and V6 at 6, 15 and 35 us per launch


@pytest.mark.parametrize("case", HOST_BOUND)
def test_host_bound_thresholds(case: tuple[str, str, int]) -> None:
    name, gpu, launches = case
    model = MODELS[name]
    assert len(model.linears) + hostbound.BASE_KERNELS == launches
    for launch_s, expected in zip((6e-6, 15e-6, 35e-6), HOST_BOUND[case], strict=True):
        found = [
            hostbound.host_bound_tokens(len(model.linears), model.layer_parameters, F[gpu], launch_s, v)
            for v in (None, "V1", "V6")
        ]
        assert found == pytest.approx(expected, abs=0.51)


SHORT = {"A100": (635, 1587, 3702), "H200": (1494, 3735, 8716), "H100": (1043, 2607, 6083)}
EQUAL = {  # variant: tokens at 6, 15 and 35 us on A100, H200, H100
    "V1": ((793, 1983, 4628), (1868, 4669, 10895), (1303, 3259, 7604)),
    "V2": ((725, 1813, 4231), (1708, 4269, 9961), (1192, 2979, 6952)),
    "V3": ((816, 2040, 4760), (1921, 4803, 11206), (1341, 3352, 7821)),
    "V4": ((686, 1715, 4003), (1615, 4038, 9423), (1127, 2818, 6576)),
    "V5": ((443, 1107, 2583), (1042, 2606, 6081), (728, 1819, 4244)),
    "V6": ((415, 1037, 2421), (977, 2442, 5699), (682, 1705, 3977)),
}
SLOTS = (6e-6, 15e-6, 35e-6)


def test_launch_slots() -> None:
    for gpu, expected in SHORT.items():
        assert [hostbound.short_kernel_tokens(t, BW[gpu], 4096) for t in SLOTS] == pytest.approx(expected, abs=0.51)
    for variant, per_gpu in EQUAL.items():
        for gpu, expected in zip(("A100", "H200", "H100"), per_gpu, strict=True):
            found = [hostbound.traffic_equals_launch_tokens(variant, t, BW[gpu], 4096) for t in SLOTS]
            assert found == pytest.approx(expected, abs=0.51)


WHOLE = {
    ("GPT2-xl", "A100"): ((1.02, 1.19), (0.85, 0.99), (0.66, 0.77), (1.39, 1.61)),
    ("TinyLlama-1.1B", "A100"): ((1.04, 1.22), (0.85, 1.00), (0.69, 0.81), (1.39, 1.63)),
    ("TinyLlama-1.1B", "H200"): ((0.99, 1.19), (0.79, 0.95), (0.63, 0.76), (1.37, 1.65)),
    ("Llama-3.2-1B", "H100"): ((0.96, 1.22), (0.77, 0.98), (0.59, 0.76), (1.36, 1.74)),
    ("Llama-3.2-3B", "H100"): ((1.03, 1.31), (0.83, 1.06), (0.67, 0.85), (1.38, 1.76)),
    ("Llama-3.2-3B", "H200"): ((1.13, 1.35), (0.96, 1.15), (0.80, 0.96), (1.42, 1.69)),
    ("Llama-3-8B", "A100"): ((1.25, 1.46), (1.11, 1.31), (0.97, 1.14), (1.45, 1.70)),
    ("Llama-3-8B", "H100"): ((1.12, 1.45), (0.95, 1.23), (0.78, 1.01), (1.41, 1.83)),
    ("Llama-3-8B", "H200"): ((1.21, 1.46), (1.06, 1.28), (0.91, 1.10), (1.44, 1.73)),
    ("Llama-3-70B", "H200"): ((1.33, 1.59), (1.23, 1.47), (1.12, 1.34), (1.47, 1.75)),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_models(case: tuple[str, str]) -> None:
    model, gpu = case
    for variant, (plain, with_adamw) in zip(("V1", "V3", "V5", "VF"), WHOLE[case], strict=True):
        found = predict(MODELS[model], variant, 4096, F[gpu], BW[gpu])
        assert found.speedup == pytest.approx(plain, abs=0.0051)
        assert found.speedup_with_optimizer == pytest.approx(with_adamw, abs=0.0051)


def test_whole_models_to_the_digit() -> None:
    large = predict(MODELS["Llama-3-8B"], "V1", 4096, F["H200"], BW["H200"])
    tiny = predict(MODELS["TinyLlama-1.1B"], "V5", 4096, F["A100"], BW["A100"])
    assert (large.speedup, large.speedup_with_optimizer) == pytest.approx((1.2096, 1.4598), abs=5.1e-5)
    assert (tiny.speedup, tiny.speedup_with_optimizer) == pytest.approx((0.6880, 0.8081), abs=5.1e-5)


SKINNY = {
    ("A100", 512): (128, 2, 123.89, 20.57, 4, 1, 7.74, 2.13, 0.48, 2.13),
    ("A100", 2048): (512, 5, 309.73, 32.91, 16, 1, 7.74, 8.32, 1.21, 8.32),
    ("A100", 16384): (4096, 38, 2353.97, 148.11, 128, 2, 15.49, 66.15, 9.20, 66.15),
    ("H100", 512): (128, 1, 23.89, 12.52, 4, 1, 2.99, 1.30, 0.09, 1.30),
    ("H100", 2048): (512, 4, 95.54, 20.03, 16, 1, 2.99, 5.07, 0.37, 5.07),
    ("H100", 16384): (4096, 32, 764.32, 90.15, 128, 1, 2.99, 40.26, 2.99, 40.26),
    ("H200", 512): (128, 1, 23.89, 8.74, 4, 1, 2.99, 0.90, 0.09, 0.90),
    ("H200", 2048): (512, 4, 95.54, 13.98, 16, 1, 2.99, 3.54, 0.37, 3.54),
    ("H200", 16384): (4096, 32, 764.32, 62.91, 128, 1, 2.99, 28.10, 2.99, 28.10),
}
MACHINES = {
    "A100": Machine(108, 312e12, 2.039e12),
    "H100": Machine(132, 989e12, 3.35e12),
    "H200": Machine(132, 989e12, 4.8e12),
}


@pytest.mark.parametrize("case", SKINNY)
def test_skinny_gemms(case: tuple[str, int]) -> None:
    gpu, m = case
    base = skinny_gemm(m, 4096, 4096, MACHINES[gpu])
    down = skinny_gemm(m, 16, 4096, MACHINES[gpu], tile=(128, 16))
    up = skinny_gemm(m, 4096, 16, MACHINES[gpu])
    found = (base.tiles, base.waves, base.flop_ns / 1e3, base.memory_ns / 1e3, down.tiles, down.waves,
             down.flop_ns / 1e3, down.memory_ns / 1e3, up.flop_ns / 1e3, up.memory_ns / 1e3)  # fmt: skip
    assert found == pytest.approx(SKINNY[case], abs=0.0051)


@given(st.integers(1, 20000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300))
def test_skinny_gemm_properties(m: int, n: int, k: int, more: int) -> None:
    machine = MACHINES["H100"]
    one = skinny_gemm(m, n, k, machine)
    assert one.quantization >= 1
    assert one.tiles == -(-m // 128) * -(-n // 128)
    assert skinny_gemm(m, n, k + more, machine).flop_ns > one.flop_ns
    inside = min(m + more, -(-m // 128) * 128)  # the same tile count
    assert skinny_gemm(inside, n, k, machine).flop_ns == one.flop_ns
    assert skinny_gemm(m, n, k, machine, split=4).quantization >= 1
    assert skinny_gemm(m, 16, k, machine, tile=(128, 16)).tiles == -(-m // 128)


def test_one_sm_draws_little_bandwidth() -> None:
    limited = Machine(132, 989e12, 3.35e12, sm_bytes_per_s=3.35e12 / 132, fixed_ns=2000)
    few = skinny_gemm(2048, 16, 4096, limited, tile=(128, 16))
    assert few.memory_ns == pytest.approx(132 / 16 * 5070, rel=1e-3)
    assert few.ns == pytest.approx(2000 + few.memory_ns)


def test_accumulation_share() -> None:
    found = [optimizer.accumulate_share(RHO[gpu], 1024) for gpu in ("A100", "H100", "H200")]
    assert found == pytest.approx([0.42, 0.71228, 0.50], abs=0.005)
    assert found[1] == pytest.approx(0.71228, abs=5e-6)


DEQUANTISE = {
    "A100": (0.70, 0.35, 0.18, 0.09, 0.04, 0.01),
    "H200": (0.83, 0.41, 0.21, 0.10, 0.05, 0.01),
    "H100": (1.19, 0.59, 0.30, 0.15, 0.07, 0.02),
    "RTX4090": (0.77, 0.39, 0.19, 0.10, 0.05, 0.01),
    "L40S": (1.44, 0.72, 0.36, 0.18, 0.09, 0.02),
}


def test_quantised_base() -> None:
    for gpu, expected in DEQUANTISE.items():
        found = [linear.dequantize_share(RHO[gpu], t) for t in (256, 512, 1024, 2048, 4096, 16384)]
        assert found == pytest.approx(expected, abs=0.0051)
    assert linear.dequantize_share(RHO["H100"], 512) == pytest.approx(0.59357, abs=5e-6)
    assert linear.dequantize_bytes(4096, 4096) == 5 * 4096 * 4096
    assert linear.dequantize_bytes(4096, 4096, checkpointing=True) == 7.5 * 4096 * 4096


def test_intensity() -> None:
    found = [linear.intensity(2048, 4096, r) for r in (16, 64, 128)]
    assert found == pytest.approx([15.81467, 61.13433, 117.02857], abs=5e-6)
    assert linear.intensity(2048, 4096, 16, width=4) == pytest.approx(15.81467 / 2, abs=5e-6)
