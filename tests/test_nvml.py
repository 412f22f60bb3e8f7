"""The NVML sampler against a played NVML library: figures, reasons, invariants, and no orphan."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import fakenvml
import pytest

from loraprof.capture.nvml.client import ROOT, NvmlSampler, probe
from loraprof.capture.nvml.errors import REASONS, NvmlFailure, failure, load
from loraprof.model.recording import Nvml

FAKE = str(Path(fakenvml.__file__).resolve())
SAMPLE_FIGURES = ("sm_clock_mhz", "mem_clock_mhz", "power_mw", "temperature_c", "reasons")
ALL_VIOLATIONS = {
    "power": 0,
    "thermal": 1000,
    "sync_boost": 2000,
    "board_limit": 3000,
    "low_utilization": 4000,
    "reliability": 5000,
    "software_thermal": 5000,
    "hardware_thermal": 5000,
    "power_brake": 5000,
}


def library(name: str) -> str:
    return f"{FAKE}:{name}"


def sampled(name: str, uuid: str = fakenvml.UUID, seconds: float = 0.15) -> Nvml:
    with NvmlSampler(uuid, period_s=0.01, library=library(name)) as sampler:
        sampler.start()
        time.sleep(seconds)
        nvml = sampler.stop(steps=4, loop_ns=round(seconds * 1e9))
        assert nvml is not None, sampler.reason
        return nvml


def assert_invariants(nvml: Nvml) -> None:
    """K11, and the rule that what is not there has a reason."""
    assert nvml.energy_mj is None or nvml.energy_mj > 0
    assert all(a.monotonic_ns < b.monotonic_ns for a, b in pairwise(nvml.samples))
    assert all(ns >= 0 for ns in nvml.violations_ns.values())
    for name in ("energy_mj", "power_limit_mw", "sm_clock_max_mhz", "tensor_active", "dram_active"):
        assert (getattr(nvml, name) is None) == (name in nvml.missing), name
    for name in ALL_VIOLATIONS:
        assert (name not in nvml.violations_ns) == (f"violations_ns.{name}" in nvml.missing), name
    if "samples" not in nvml.missing:
        for name in SAMPLE_FIGURES:
            assert any(getattr(one, name) is None for one in nvml.samples) == (name in nvml.missing), name


def test_hopper_has_every_figure() -> None:
    nvml = sampled("HOPPER")
    assert_invariants(nvml)
    assert nvml.missing == {}
    assert (nvml.uuid, nvml.driver, nvml.steps, nvml.loop_ns) == (fakenvml.UUID, "570.86.15", 4, 150_000_000)
    assert (nvml.energy_mj, nvml.power_limit_mw, nvml.sm_clock_max_mhz) == (42_000, 700_000, 1980)
    assert (nvml.tensor_active, nvml.dram_active) == (0.125, 0.4)
    assert nvml.violations_ns == ALL_VIOLATIONS
    first = nvml.samples[0]
    assert [getattr(first, name) for name in SAMPLE_FIGURES] == [1410, 1593, 301_000, 61, 4]
    assert first.utilization == 98
    assert all(one.utilization is None for one in nvml.samples[1:])  # at most once a second
    assert nvml.longest_gap_ns is not None
    assert nvml.longest_gap_ns >= max(b.monotonic_ns - a.monotonic_ns for a, b in pairwise(nvml.samples))


def test_ampere_lacks_gpm() -> None:
    nvml = sampled("AMPERE")
    assert_invariants(nvml)
    assert set(nvml.missing) == {"tensor_active", "dram_active"}
    assert "Hopper" in nvml.missing["tensor_active"]


def test_volta_falls_back_to_power_usage_and_says_so() -> None:
    nvml = sampled("VOLTA")
    assert_invariants(nvml)
    assert {one.power_mw for one in nvml.samples} == {250_000}
    assert "1 s average" in nvml.missing["power_instant_mw"]
    assert "power_mw" not in nvml.missing
    assert nvml.missing["violations_ns.software_thermal"] == REASONS[3]
    assert set(nvml.violations_ns) == set(ALL_VIOLATIONS) - {
        "software_thermal", "hardware_thermal", "power_brake"
    }  # fmt: skip


def test_drivers_before_535_name_the_event_reasons_differently() -> None:
    nvml = sampled("OLD_DRIVER")
    assert_invariants(nvml)
    assert {one.reasons for one in nvml.samples} == {0x20}


@pytest.mark.parametrize("uuid", [fakenvml.MIG_UUID, "GPU-" + fakenvml.MIG_UUID.removeprefix("MIG-")])
def test_mig_uses_the_instance_for_gpm_and_says_what_is_shared(uuid: str) -> None:
    nvml = sampled("MIG", uuid)
    assert_invariants(nvml)
    assert nvml.uuid == fakenvml.MIG_UUID
    assert (nvml.tensor_active, nvml.dram_active) == (0.125, 0.4)
    assert "whole GPU" in nvml.missing["instance_power_mw"]
    assert nvml.missing["utilization"] == REASONS[3]
    assert all(one.utilization is None for one in nvml.samples)


def test_one_gpm_metric_fails_alone() -> None:
    nvml = sampled("ONE_METRIC")
    assert nvml.tensor_active == 0.125
    assert nvml.dram_active is None
    assert nvml.missing == {"dram_active": REASONS[3]}


def test_gpm_refuses_intervals_below_100_ms() -> None:
    nvml = sampled("HOPPER", seconds=0.02)
    assert nvml.tensor_active is None
    assert "100 ms" in nvml.missing["tensor_active"]


def test_no_permission_is_a_reason_per_figure() -> None:
    nvml = sampled("FORBIDDEN")
    assert_invariants(nvml)
    assert nvml.energy_mj is None
    assert set(nvml.violations_ns) == {"software_thermal", "hardware_thermal", "power_brake"}
    for name in ("energy_mj", "violations_ns.power", "reasons", "tensor_active", "dram_active"):
        assert nvml.missing[name] == "no permission"


def test_a_lost_gpu_ends_the_samples_and_keeps_what_was_read() -> None:
    nvml = sampled("LOST_MID_LOOP")
    assert_invariants(nvml)
    assert len(nvml.samples) == 3
    assert nvml.energy_mj is None
    assert nvml.violations_ns == {}
    assert "lost" in nvml.missing["samples"]
    assert "after 3 samples" in nvml.missing["samples"]


def test_counters_that_go_back_or_stand_still_are_missing_not_negative_not_zero() -> None:
    nvml = sampled("BACKWARDS")
    assert_invariants(nvml)
    for name in ("energy_mj", "violations_ns.thermal", "violations_ns.software_thermal"):
        assert "went back" in nvml.missing[name]
    frozen = sampled("FROZEN")
    assert_invariants(frozen)
    assert "did not move" in frozen.missing["energy_mj"]
    assert frozen.violations_ns["power"] == 0  # nothing was throttled: a reading, not a gap


def test_a_passing_error_costs_one_reading() -> None:
    nvml = sampled("FLAKY")
    assert_invariants(nvml)
    assert sum(one.sm_clock_mhz is None for one in nvml.samples) == 1
    assert nvml.missing["sm_clock_mhz"] == f"{REASONS[10]} (after {len(nvml.samples) - 1} readings)"


@pytest.mark.parametrize(
    ("name", "uuid", "reason"),
    [
        ("NO_DRIVER", fakenvml.UUID, "libnvidia-ml was not found"),
        ("NOT_LOADED", fakenvml.UUID, "driver is not loaded"),
        ("UNINITIALISED", fakenvml.UUID, "not initialised"),
        ("LOST_AT_ONCE", fakenvml.UUID, "lost"),
        ("AMPERE", "GPU-00000000-0000-0000-0000-000000000000", "no such device"),
        ("CRASHING", fakenvml.UUID, "fault in the driver"),
        ("NOWHERE", fakenvml.UUID, "NOWHERE"),
    ],
)
def test_nothing_to_sample_is_a_reason(name: str, uuid: str, reason: str) -> None:
    nvml, why = probe(uuid, library(name))
    assert nvml is None
    assert why is not None
    assert reason in why


def test_an_absent_binding_is_a_reason() -> None:
    with pytest.raises(NvmlFailure, match="not installed"):
        load("no_such_binding")


def test_stop_without_start_is_a_reason() -> None:
    sampler = NvmlSampler(fakenvml.UUID, library=library("AMPERE"))
    assert sampler.stop(1, 1) is None
    assert sampler.reason == "the sampler was not started"


def test_an_answer_that_cannot_be_is_a_reason() -> None:
    with NvmlSampler(fakenvml.UUID, library=library("AMPERE")) as sampler:
        sampler.start()
        assert sampler.stop(0, 1) is None
        assert sampler.reason is not None
        assert sampler.reason.startswith("NVML answered what cannot be: Expected `int` >= 1")


def test_one_process_serves_two_loops() -> None:
    with NvmlSampler(fakenvml.UUID, period_s=0.01, library=library("AMPERE")) as sampler:
        loops = []
        for _ in range(2):
            sampler.start()
            time.sleep(0.05)
            loops.append(sampler.stop(1, 50_000_000))
        first, second = loops
        assert first is not None
        assert second is not None
        assert first.samples[-1].monotonic_ns < second.samples[0].monotonic_ns
        assert second.energy_mj == 42_000


def test_codes_that_end_a_figure_and_codes_that_end_the_device() -> None:
    assert failure(3).permanent
    assert not failure(3).lost
    assert failure(15).lost
    assert not failure(10).permanent
    assert "12345" in failure(12345).reason


PARENT = """
import os, sys, time
sys.path[:0] = [{root!r}]
from loraprof.capture.nvml.client import NvmlSampler
sampler = NvmlSampler({uuid!r}, period_s=0.01, library={library!r})
sampler.start()
if {fork}:  # a fork holds the pipe open, as a DataLoader worker would
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(3)
        os._exit(0)
print(sampler._process.pid, flush=True)
{then}
"""


def parent(then: str, fork: bool = False) -> tuple[subprocess.Popen[str], int]:
    code = PARENT.format(root=str(ROOT), uuid=fakenvml.UUID, library=library("AMPERE"), then=then, fork=fork)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def ended(pid: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # ended; who adopted it has not asked yet
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the process under /proc")
@pytest.mark.parametrize(
    ("then", "signum", "fork"),
    [
        ("time.sleep(30)", signal.SIGKILL, False),
        ("time.sleep(30)", signal.SIGKILL, True),
        ("time.sleep(30)", signal.SIGTERM, False),
        ("time.sleep(30)", signal.SIGINT, False),
        ("raise RuntimeError", None, False),
        ("os._exit(1)", None, False),
        ("del sampler; time.sleep(30)", None, False),
    ],
)
def test_no_sampler_outlives_its_parent(then: str, signum: int | None, fork: bool) -> None:
    process, child = parent(then, fork)
    try:
        if signum is not None:
            assert not ended(child, 0.05)
            os.kill(process.pid, signum)
        assert ended(child)
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_reaches_the_group_but_the_parent_decides() -> None:
    """SIGINT to the child alone: the loop's figures are still there."""
    with NvmlSampler(fakenvml.UUID, period_s=0.01, library=library("AMPERE")) as sampler:
        sampler.start()
        assert sampler._process is not None
        os.kill(sampler._process.pid, signal.SIGINT)
        time.sleep(0.05)
        nvml = sampler.stop(1, 1)
        assert nvml is not None
        assert nvml.energy_mj == 42_000


def test_the_sampler_never_imports_torch() -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import loraprof.capture.nvml.client, loraprof.capture.nvml.process\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
