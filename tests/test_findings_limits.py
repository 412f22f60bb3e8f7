"""A step just beyond a limit shows its cause, one just short of it does not: where the limits lie."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import json_of, kernel, op, step, write
from provoke import facts, found, made, shaped, synthetic, timing, workload
from said import say

from loraprof.diagnosis.judge import RULES
from loraprof.model.recording import Memory, Nvml, NvmlSample

LARGE: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 32000}


def simulated(field: str, value: int, **shape: Any) -> Path:
    return made(shaped(**{**LARGE, **shape, field: value}))


def sampled(
    *, held: int = 0, power: int = 600, utilization: int = 99, tensor: float | None = None, reserved: int = 50
) -> Path:
    """A hundred samples, ``held`` of them under the power limit of 1000 W; shares in percent and per mille."""
    samples = [
        NvmlSample(monotonic_ns=i, reasons=4 * (i < held), power_mw=1000 * power, utilization=utilization)
        for i in range(100)
    ]
    nvml = Nvml(
        uuid="GPU-x", driver="575", steps=10, loop_ns=10**9, samples=samples, power_limit_mw=1_000_000,
        tensor_active=tensor,
    )  # fmt: skip
    memory = Memory(reserved_bytes=reserved, total_bytes=1000, allocator_retries=0)
    return made(synthetic("launch-bound"), nvml, memory=memory)


def violated(share: float) -> Path:
    run = synthetic("launch-bound")
    grown = {"power": round(share * 10**9)}
    return made(run, Nvml(uuid="x", driver=None, steps=1, loop_ns=10**9, samples=[], violations_ns=grown))


def timed(first: float = 1.0, spread: float = 0.0) -> Path:
    """Steps of which the first takes ``first`` times as long; their median's interval is ``spread`` of it."""
    run = synthetic("bandwidth-v1")
    usual = timing(run).samples_ns[0]
    low, high = round((1 - spread / 2) * usual), round((1 + spread / 2) * usual)
    samples = [round(first * usual), *[low] * 6, usual, *[high] * 6]
    return made(run, timing=msgspec.structs.replace(timing(run), samples_ns=samples if first > 1 else samples[1:]))


def padded(real: int) -> Path:
    run = synthetic("bandwidth-v1")
    return made(run, **workload(run.recording, tokens_per_step=1000, real_tokens_per_step=real))


def paused(pause_ns: int, folder: Path) -> Path:
    """Four pauses in front of a kernel, in a step of 4 ms."""
    host, device, at = [step(0, 0, 4_000_000)], [], 10_000
    for _ in range(4):
        at += pause_ns
        host.append(op("aten::mm", at, at + 20_000))
        device.append(kernel(at + 15_000, at + 700_000, launch=(at + 5_000, at + 9_000)))
        at += 700_000
    return write(folder / f"{pause_ns}.json", json_of(host, device))


def on_two_devices(overlap: int, second: int, folder: Path) -> Path:
    """A device that works for ``second``, then one for 400 us, ``overlap`` of it meanwhile; with it ends the step."""
    host = [step(0, 0, 400_000), op("aten::mm", 10_000, 30_000), op("aten::mm", 40_000, 60_000)]
    begin = 70_000 + second - overlap
    device = [
        kernel(70_000, 70_000 + second, launch=(12_000, 15_000), device=1, stream=8),
        kernel(begin, begin + 400_000, launch=(42_000, 45_000), device=0),
    ]
    return write(folder / f"{overlap}-{second}.json", json_of(host, device))


LIMITS: dict[str, tuple[str, Callable[[], Path], Callable[[], Path]]] = {
    "an eighth for dequantisation": (
        "B4",
        partial(simulated, "tokens", 512, dequant=True),
        partial(simulated, "tokens", 768, dequant=True),
    ),
    "a tenth for the head": ("B6", partial(simulated, "vocab", 11_000), partial(simulated, "vocab", 10_000)),
    "two fifths of the products' rate": (
        "B10",
        partial(simulated, "flops_per_ns", 155_000, vocab=1024),
        partial(simulated, "flops_per_ns", 165_000, vocab=1024),
    ),
    "half of the bandwidth": (
        "L1",
        partial(simulated, "bytes_per_ns", 1050),
        partial(simulated, "bytes_per_ns", 950),
    ),
    "one sample of twenty": ("N1", partial(sampled, held=6), partial(sampled, held=5)),
    "a twentieth of the loop": ("N1", partial(violated, 0.051), partial(violated, 0.049)),
    "half of the power": ("N2", partial(sampled, power=499), partial(sampled, power=500)),
    "nine tenths used": (
        "N2",
        partial(sampled, power=300, utilization=90),
        partial(sampled, power=300, utilization=89),
    ),
    "a tenth of the tensor pipe": ("N2", partial(sampled, tensor=0.099), partial(sampled, tensor=0.101)),
    "memory that is full": ("N3", partial(sampled, reserved=950), partial(sampled, reserved=949)),
    "full, busy and drawing little": (
        "N5",
        partial(sampled, reserved=950, power=499, utilization=90),
        partial(sampled, reserved=950, power=500, utilization=90),
    ),
    "full and used by name": (
        "N5",
        partial(sampled, reserved=950, power=300, utilization=90),
        partial(sampled, reserved=950, power=300, utilization=89),
    ),
    "half full": (
        "N5",
        partial(sampled, reserved=950, power=300),
        partial(sampled, reserved=949, power=300),
    ),
    "a cold first step": ("G3", partial(timed, 1.55), partial(timed, 1.45)),
    "steps that do not repeat": ("G3", partial(timed, 1.0, 0.55), partial(timed, 1.0, 0.45)),
    "a fifth of padding": ("G4", partial(padded, 799), partial(padded, 801)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_beyond_and_short_of_a_limit(name: str) -> None:
    id, beyond, short = LIMITS[name]
    assert [id in found(beyond()), id in found(short())] == [True, False]


def test_a_tenth_and_a_fifth_of_the_step_in_long_pauses(tmp_path: Path) -> None:
    """From 200 us on a pause is long; a fifth of the step is to be idle for the host at all."""
    assert "H2" in found(paused(230_000, tmp_path))
    assert "H2" not in found(paused(180_000, tmp_path))


def test_two_devices_in_turn_hardly_overlap_and_both_work(tmp_path: Path) -> None:
    assert "H5" in found(on_two_devices(38_000, 300_000, tmp_path))
    assert "H5" not in found(on_two_devices(42_000, 300_000, tmp_path))  # a tenth of the busier one's time
    assert "H5" in found(on_two_devices(0, 26_000, tmp_path))
    assert "H5" not in found(on_two_devices(0, 23_000, tmp_path))  # a twentieth of the step


def test_what_a_full_and_waiting_device_shows_is_said_in_shares() -> None:
    seen = facts(found(sampled(reserved=960, power=300, utilization=93))["N5"])
    assert seen["reserved memory, of the device's"] == 0.96
    assert seen["power draw, of the limit"] == 0.3
    assert seen["utilisation, as nvidia-smi shows it"] == pytest.approx(0.93)
    idle = facts(found(sampled(power=300, utilization=93, tensor=0.05))["N2"])
    assert idle["utilisation, as nvidia-smi shows it"] == pytest.approx(0.93)
    assert (idle["power draw, of the limit"], idle["tensor pipe active"]) == (0.3, 0.05)


def test_a_cold_start_says_how_cold() -> None:
    seen = facts(found(timed(1.55))["G3"])
    assert seen["first step that was timed"] == round(1.55 * seen["median step"])


def test_the_numbers_of_rules_and_of_what_helps() -> None:
    """What a rule asks for at least, and what others saw that a change takes away."""
    for rule in RULES.values():
        say(rule.id, *(f"{name} {value:g}" for name, value in rule.thresholds.items()))
        for one in rule.remedies:
            part = (one.assumed.low, one.assumed.likely, one.assumed.high) if one.assumed else ()
            say(f"  {one.kind}", one.arm, *one.text, *part)
