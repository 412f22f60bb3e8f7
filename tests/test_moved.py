"""The step without the profiler: of simulated runs whose host was slowed by a known cost per event, and of the H100's.

The truth is the same program on a machine without that cost, counted by the generator.
"""

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
import reference
from provoke import CALIBRATION, made, timing
from synthetic.ledger import StepTruth
from synthetic.lora import Shape, program
from synthetic.machine import Hardware
from synthetic.presets import PRESETS, preset
from synthetic.program import Program
from synthetic.randomised import random_run
from synthetic.simulate import simulate

import loraprof
from loraprof.analysis.prediction import replayed
from loraprof.model.report import Part, Report

Rows = Counter[tuple[str, str, str, str]]
RANDOM = 24  # programs, some of several streams that wait for each other


def rows(parts: list[Part]) -> Rows:
    out: Rows = Counter()
    for p in parts:
        out[p.kind, p.class_ or p.cause or "", p.phase, p.role] += p.ns
    return out


def truth_of(step: StepTruth) -> Rows:
    counted = (("busy", step.busy), ("idle", step.idle))
    return Counter({(kind, *key): ns for kind, counter in counted for key, ns in counter.items()})


def both(made_of: Program, hardware: Hardware, cost_ns: int, known: bool) -> tuple[Report, StepTruth]:
    """The report of a run whose events cost ``cost_ns`` each, and the median step of one whose events cost nothing."""
    plain, slow = simulate(made_of, hardware), simulate(made_of, replace(hardware, event_ns=cost_ns))
    calibration = msgspec.structs.replace(CALIBRATION, event_ns=float(cost_ns) if known else None)
    report = loraprof.diagnose(made(slow, timing=timing(plain), calibration=calibration))
    assert report.unprofiled is not None
    assert report.timing.inflation is not None
    return report, min(plain.truth, key=lambda t: abs(t.wall_ns - report.unprofiled.wall_ns))  # type: ignore[union-attr]


def farthest(report: Report, truth: StepTruth) -> float:
    """The largest difference of a row, of the step."""
    assert report.unprofiled is not None
    found, wanted = rows(report.unprofiled.partition), truth_of(truth)
    return max(abs(found[key] - wanted[key]) for key in {*found, *wanted}) / truth.wall_ns


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("cost_ns", [1000, 3000])
@pytest.mark.parametrize("name", PRESETS)
def test_every_row_is_the_truth_within_a_hundredth_of_the_step(name: str, cost_ns: int, known: bool) -> None:
    report, truth = both(*preset(name), cost_ns, known)
    assert farthest(report, truth) < 0.01


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_programs_too(seed: int) -> None:
    made_of, hardware = random_run(seed)
    report, truth = both(made_of, replace(hardware, queue=1024), 1000, known=False)
    assert farthest(report, truth) < 0.01


def test_data_loading_keeps_its_length_and_the_ops_lose_theirs() -> None:
    """A host scaled as a whole would shorten what the profiler did not slow."""
    made_of, hardware = preset("launch-bound")
    report, truth = both(replace(made_of, load_ns=400_000), hardware, 3000, known=False)
    assert report.unprofiled is not None
    assert report.timing.inflation > 1.4  # type: ignore[operator]
    data = sum(p.ns for p in report.unprofiled.partition if p.cause == "data")
    assert data == pytest.approx(sum(ns for (cause, *_), ns in truth.idle.items() if cause == "data"), rel=0.02)


def test_what_a_full_queue_hides_stays_hidden() -> None:
    """Bound by its kernels: the next step's data is loaded while this one's kernels run, with the profiler or not."""
    made_of, hardware = preset("bandwidth-v1")
    report, truth = both(replace(made_of, load_ns=5_000_000, read_loss=False), hardware, 2000, known=False)
    assert not any(cause == "data" for cause, *_ in truth.idle)
    assert farthest(report, truth) < 0.01


def test_a_refused_replay_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed, "with_waits", lambda trace, step, *floors: step)
    shape = Shape(layers=2, hidden=4096, ffn=11008, tokens=4096, vocab=32000, comm_ns=8_000_000)
    plain, slow = simulate(program(shape)), simulate(program(shape), Hardware(host_percent=170))
    report = loraprof.diagnose(made(slow, timing=timing(plain)))
    assert report.unprofiled is None
    assert report.timing.unprofiled is not None
    assert loraprof.diagnose(made(slow, timing=None)).unprofiled is None


IDLE_MS = {"llama-3.2-1b": 7.73, "gpt2-xl-512": 47.6, "tinyllama-512": 70.9, "minimind-26m": 17.2}


@pytest.mark.parametrize("name", IDLE_MS)
def test_the_h100_recordings_idle_time_has_causes(name: str) -> None:
    """Kernels keep their durations, so idle time is what they leave of the unprofiled median: nearly all explained."""
    report = reference.named(name).report
    step, plain = report.step(), report.unprofiled
    assert step is not None
    assert plain is not None
    assert report.timing.unprofiled is not None
    assert plain.wall_ns == report.timing.unprofiled.median_ns == sum(p.ns for p in plain.partition)
    assert plain.basis == "replayed"
    idle = [p for p in plain.partition if p.kind == "idle"]
    assert sum(p.ns for p in idle) / 1e6 == pytest.approx(IDLE_MS[name], abs=0.05)
    assert sum(p.ns for p in idle if p.cause == "unknown") < 1e-4 * plain.wall_ns
    busy = {(p.class_, p.phase, p.role): p.ns for p in step.partition if p.kind == "busy"}
    assert {(p.class_, p.phase, p.role): p.ns for p in plain.partition if p.kind == "busy"} == busy
    assert max(idle, key=lambda p: p.ns).cause in ("framework", "python", "turnaround")
