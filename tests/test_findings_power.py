"""Findings about clocks, power and memory, from scripted NVML samples and allocator figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import call, json_of, kernel, op, step, write
from provoke import facts, found, made, synthetic
from synthetic.program import Program

from loraprof.model.recording import Memory, Nvml, NvmlSample


def sampled(bits: list[int], power: int = 600_000, utilization: int = 99, **more: Any) -> Nvml:
    samples = [
        NvmlSample(monotonic_ns=i, reasons=b, power_mw=power, utilization=utilization, sm_clock_mhz=1500)
        for i, b in enumerate(bits)
    ]
    return Nvml(
        uuid="GPU-x", driver="575", steps=10, loop_ns=10**9, samples=samples, power_limit_mw=700_000,
        sm_clock_max_mhz=1980, **more,
    )  # fmt: skip


@pytest.mark.parametrize("bit", [0x4, 0x8, 0x20, 0x40, 0x80])
def test_a_limit_in_more_than_one_sample_of_twenty(bit: int) -> None:
    run = synthetic("bandwidth-v1")
    finding = found(made(run, sampled([bit] * 2 + [0] * 18)))["N1"]
    assert 0.1 in facts(finding).values()
    assert "N1" not in found(made(run, sampled([bit] * 1 + [0] * 19)))


def test_a_throttle_counter_that_grows() -> None:
    run = synthetic("bandwidth-v1")
    grown = sampled([0] * 20, violations_ns={"power": 10**8})
    assert facts(found(made(run, grown))["N1"])["throttled by power during the loop"] == 10**8
    assert "N1" not in found(made(run, sampled([0] * 20, violations_ns={"power": 10**7})))
    assert "N1" not in found(made(run, sampled([0x1, 0x2] * 10)))  # idle and application clocks are no limits
    idle = sampled([0] * 20, violations_ns={"low_utilization": 10**9})
    assert "N1" not in found(made(run, idle))  # the driver slows a device that waits


def test_busy_by_name_only() -> None:
    run = synthetic("launch-bound")
    finding = found(made(run, sampled([0] * 20, power=245_000)))["N2"]
    assert facts(finding)["power draw, of the limit"] == 0.35
    assert "N2" in found(made(run, sampled([0] * 20, tensor_active=0.05)))
    assert "N2" not in found(made(run, sampled([0] * 20, power=400_000)))
    assert "N2" not in found(made(run, sampled([0] * 20, power=245_000, utilization=60)))


def test_memory_at_capacity() -> None:
    run = synthetic("bandwidth-v1")
    full = Memory(reserved_bytes=96, total_bytes=100, allocator_retries=0)
    assert facts(found(made(run, memory=full))["N3"])["reserved memory, of the device's"] == 0.96
    assert found(made(run, memory=full))["N3"].title == "Memory is full"
    assert "N3" in found(made(run, memory=Memory(reserved_bytes=50, total_bytes=100, allocator_retries=2)))
    assert "N3" not in found(made(run, memory=Memory(reserved_bytes=90, total_bytes=100, allocator_retries=0)))
    assert "N3" not in found(made(run))


def test_allocation_inside_the_step() -> None:
    def slow(program: Program) -> Program:
        return replace(program, loss=tuple(replace(op, malloc=2_000_000) for op in program.loss))

    finding = found(made(synthetic("launch-bound", slow)))["N3"]
    assert facts(finding)["time the device waited for the allocator"] > 1_000_000
    assert "expandable_segments" in finding.remedy
    assert finding.title == "The step waits for device memory"  # nothing says that it is full
    assert "N3" not in found(made(synthetic("launch-bound")))


def test_allocation_at_the_start_of_a_program(tmp_path: Path) -> None:
    """Without steps a trace is one window, which begins with the first use of everything."""

    def trace(name: str, steps: int) -> Path:
        host = [step(i, 1_000_000 * i, 1_000_000 * (i + 1)) for i in range(steps)]
        host += [op("aten::empty", 1_000, 200_000), call("cudaMalloc", 5_000, 190_000)]
        host.append(op("aten::mm", 210_000, 240_000))
        return write(tmp_path / name, json_of(host, [kernel(250_000, 900_000, launch=(220_000, 230_000))]))

    assert "N3" in found(trace("stepped.json", 1))
    assert "N3" not in found(trace("whole.json", 0))


def test_retries_alone_are_a_full_memory() -> None:
    run = synthetic("bandwidth-v1")
    retried = found(made(run, memory=Memory(reserved_bytes=50, total_bytes=100, allocator_retries=2)))["N3"]
    assert retried.title == "Memory is full"
