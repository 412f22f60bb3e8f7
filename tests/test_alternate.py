"""Arms in processes of their own: order of the rounds, arms that fail, what a worker answers."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from benchmarks.shrink import shrink
from loraprof.capture.device.cpu import Cpu
from loraprof.comparison.ratios import ratios_of
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare import arm_process, workers
from loraprof.runs.compare.alternate import STEPS, alternate
from loraprof.runs.compare.job import Job, Outcome
from loraprof.runs.compare.measure import measure_arms
from loraprof.store.specs import load_workload

MS = 1_000_000
CPU = torch.device("cpu")


def tiny(name: str = "tiny-llama-cpu") -> WorkloadSpec:
    return replace(shrink(load_workload(name)), device="cpu")


class Processes:
    """Answers for processes, on a clock that each advances by a second."""

    def __init__(self, **ms: int) -> None:
        self.ms, self.log, self.now = ms, "", 0
        self.broken: dict[str, Outcome] = {}

    def start(self, arm: str) -> Outcome:
        self.log += arm
        self.now += 1000 * MS
        jitter = [self.ms[arm] * MS + (i * 7 + len(self.log)) % 5 * MS // 1000 for i in range(STEPS)]
        return self.broken.get(arm, Outcome(times_ns=jitter, clock="c", peak_bytes=7))

    def clock(self) -> int:
        return self.now


def test_rounds_run_there_and_back_until_every_interval_is_narrow() -> None:
    p = Processes(a=100, b=150)
    timed, last = alternate("ab", p.start, 10**15, clock=p.clock)
    assert p.log == "aba" * 5
    assert timed.stopped == "every interval is within 1%"
    assert {name: len(series.blocks) for name, series in timed.series.items()} == {"a": 5, "b": 5}
    ratios, floor = ratios_of(timed)
    assert [(r.of, r.to, r.verdict) for r in ratios] == [("b", "a", "slower")]
    assert ratios[0].ratio == pytest.approx(1.5, rel=1e-3)
    assert floor is not None
    assert last["b"].peak_bytes == 7


def test_the_order_turns_with_every_round() -> None:
    p = Processes(a=100, b=100, c=100)
    timed, _ = alternate("abc", p.start, 0, clock=p.clock)
    assert p.log == "abca" + "acba"
    assert timed.stopped == "the time budget is spent"


def test_an_arm_out_of_memory_is_left_out_and_the_others_go_on() -> None:
    p = Processes(a=100, b=100, c=120)
    p.broken["b"] = Outcome(status="oom", reason="CUDA out of memory", peak_bytes=9)
    timed, last = alternate("abc", p.start, 0, clock=p.clock)
    assert p.log == "ab" + "aca" + "aca"
    assert list(timed.series) == ["a", "c"]
    assert timed.failed["b"].reason == "CUDA out of memory"
    assert timed.failed["b"].peak_bytes == 9
    assert last["b"].status == "oom"
    p = Processes(a=100)
    p.broken["a"] = Outcome(status="refused", reason="no")
    timed, last = alternate("a", p.start, 0, clock=p.clock)
    assert timed.series == {}
    assert timed.twin is None
    assert timed.failed == {}


def test_the_reference_is_the_first_arm_that_lives() -> None:
    p = Processes(a=100, b=100, c=120)
    p.broken["a"] = Outcome(status="refused", reason="no")
    timed, _ = alternate("abc", p.start, 0, clock=p.clock)
    assert timed.reference == "b"
    assert [(r.of, r.to) for r in ratios_of(timed)[0]] == [("c", "b")]


def test_a_process_measures_an_arm() -> None:
    found = arm_process.measure(Job(arm="full", spec=tiny(), steps=3))
    assert (found.status, len(found.times_ns), found.tokens_per_step) == ("ok", 3, 32)
    assert found.peak_bytes is not None
    assert found.trainable is not None
    assert found.peak_bytes > 4 * found.trainable
    assert arm_process.measure(Job(arm="frozen", spec=tiny())).trainable == 0


def test_a_process_tells_why_an_arm_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = arm_process.measure(Job(arm="top:99", spec=tiny()))
    assert (refused.status, refused.exit_code) == ("refused", 2)
    assert refused.reason is not None
    assert "more layers than the model's 2" in refused.reason

    def full_device(spec: WorkloadSpec, arm: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(arm_process, "build", full_device)
    lost = arm_process.measure(Job(arm="full", spec=tiny()))
    assert (lost.status, lost.reason) == ("oom", "CUDA out of memory. Tried to allocate 2.00 GiB")
    assert lost.peak_bytes == Cpu(CPU).peak_bytes()


def test_a_killed_process_counts_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kill = f"import os, signal; print('x' * 9); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr(workers, "ARM", lambda *_: [sys.executable, "-c", kill])
    found = workers.run_job(Job(arm="full"))
    assert found.status == "oom"
    assert found.peak_bytes is not None
    monkeypatch.setattr(workers, "ARM", lambda *_: [sys.executable, "-c", "raise SystemExit('no such luck')"])
    found = workers.run_job(Job(arm="full"))
    assert (found.status, found.reason) == ("refused", "its process ended with code 1: no such luck")


def answers(**special: Outcome) -> Callable[[Job], Outcome]:
    usual = Outcome(times_ns=[MS] * STEPS, clock="c", peak_bytes=1 << 20, trainable=5, tokens_per_step=32)
    return lambda job: special.get(job.arm, usual)


def test_arms_that_do_not_fit_side_by_side_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cpu, "available_bytes", lambda _: 2 << 20)
    found = measure_arms(tiny(), ["full", "lora"], 0, lambda _: None, answers())
    assert "the arms do not fit side by side: timed in alternating processes" in found.notes
    assert len(found.timed.series["lora"].blocks) == 2
    assert found.facts["lora"].trainable == 5


def test_arms_that_cannot_run_are_reported_and_the_others_timed() -> None:
    oom = Outcome(status="oom", reason="CUDA out of memory", peak_bytes=99)
    found = measure_arms(tiny(), ["full", "frozen", "lora"], 0, lambda _: None, answers(full=oom))
    assert list(found.timed.series) == ["frozen", "lora"]
    assert (found.facts["full"].status, found.facts["full"].peak_bytes) == ("oom", 99)
    with pytest.raises(MeasurementError, match="full: CUDA out of memory"):
        measure_arms(tiny(), ["full"], 0, lambda _: None, answers(full=oom))
    no = Outcome(status="refused", reason="too deep", exit_code=2)
    with pytest.raises(UsageError, match="no arm can be run: top:9, top:8: too deep"):
        measure_arms(tiny(), ["top:9", "top:8"], 0, lambda _: None, lambda _: no)


def test_memory_of_process_machine_and_container(tmp_path: Path) -> None:
    status, meminfo = tmp_path / "status", tmp_path / "meminfo"
    status.write_text("Name:\tx\nVmHWM:\t  12 kB\n")
    cpu = Cpu(CPU)
    assert cpu.peak_bytes(status) == 12 * 1024
    assert cpu.peak_bytes(tmp_path / "none") is None
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert cpu.available_bytes(meminfo, tmp_path) == 50 * 1024
    (tmp_path / "memory.max").write_text("40960\n")
    (tmp_path / "memory.current").write_text("10240\n")
    assert cpu.available_bytes(meminfo, tmp_path) == 30 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert cpu.available_bytes(meminfo, tmp_path) == 50 * 1024
    assert cpu.available_bytes(tmp_path / "none", tmp_path) is None
    assert (cpu.peak_bytes() or 0) > 2**20
