"""How do recordings compare? Nothing is run and torch is not needed: a base and what is held against it, for CI.

They were not interleaved, so a verdict needs a difference beyond both intervals and both noise floors together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import exp, isfinite, prod
from pathlib import Path

from msgspec.structs import replace

from loraprof.analysis.comparison import arm_result, own_floor, recorded_ratio
from loraprof.analysis.statistics import median_interval
from loraprof.diagnosis.build import Among, build_report
from loraprof.diagnosis.comparison import Profiled, known, paid_back, pair_findings, way
from loraprof.errors import InputError, UsageError
from loraprof.model.compare import ArmResult, Comparison, NoiseFloor
from loraprof.model.recording import Recording
from loraprof.model.report import Evidence, Finding
from loraprof.store.kineto import read_trace
from loraprof.store.recordings import load_source

TOKENS_APART = 0.01
NOT_SETTINGS = ("arms", "device", "seed")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recording with its analysis."""

    name: str
    recording: Recording
    profiled: Profiled


def compare_recordings(paths: Sequence[Path], allow_different: bool = False) -> Comparison:
    """The first recording is the base of every ratio; the waterfall leads from it to the last.

    Raises InputError for what cannot be read or holds no step times, UsageError for different workloads unless
    ``allow_different``.
    """
    if len(paths) < 2:
        raise UsageError("one recording cannot be compared", "name two: loraprof compare BASE.loraprof NEW.loraprof")
    loaded = [load_recorded(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    base, others = loaded[0], loaded[1:]
    different = [f for other in others if (f := _different(base, other)) is not None]
    if not allow_different and (forbidden := [f for f in different if f.severity == "blocker"]):
        seen = forbidden[0].evidence[0]
        hint = "--allow-different compares them all the same"
        raise UsageError(f"the recordings differ in {seen.what}: {seen.value}", hint)
    profiled = {one.name: one.profiled for one in loaded}
    times = {name: p.samples_ns for name, p in profiled.items()}
    steps = times[base.name]
    floor = own_floor(steps)
    return Comparison(
        workload=base.recording.workload.name,
        device_name=base.recording.device.name,
        arms={one.name: _arm(one) for one in loaded},
        ratios=[recorded_ratio(other.name, base.name, times[other.name], steps) for other in others],
        noise_floor=NoiseFloor(ratio=1.0, low=exp(-floor), high=exp(floor)) if isfinite(floor) else None,
        waterfall=way(base.name, others[-1].name, times, profiled, paired=False),
        findings=[*different, *pair_findings(profiled)],
        predicted=None,
        interleaved=False,
        notes=["not interleaved: the recordings were made at different times", *_notes(loaded)],
    )


def load_recorded(path: Path, name: str) -> Recorded:
    """A recording under the name it has in the comparison. Raises InputError."""
    source = load_source(path)
    if source.recording is None:
        raise InputError(f"{path}: a trace has no unprofiled step times", "compare NAME.loraprof recordings")
    timing = source.recording.timing
    if timing is None or not timing.samples_ns:
        raise InputError(f"{path}: the recording holds no unprofiled step times", "record it again with --timed 10")
    trace = read_trace(source.traces[0])
    report = build_report(trace, source.path, source.recording, source.nvml, Among(len(source.traces)))
    return Recorded(name, source.recording, Profiled(report, tuple(timing.samples_ns)))


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' stems; whole paths where two are alike, numbered where even these are."""
    names = [path.name.removesuffix(".loraprof") for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    seen: dict[str, count[int]] = {}
    numbers = [next(seen.setdefault(name, count(1))) for name in names]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def _arm(one: Recorded) -> ArmResult:
    report, recording = one.profiled.report, one.recording
    found = arm_result(one.profiled.samples_ns, None, recording.workload.tokens_per_step)
    sizes = [prod(p.shape) for p in recording.parameters if p.trainable]
    return replace(
        found,
        peak_bytes=recording.memory.peak_bytes if recording.memory else None,
        trainable=sum(sizes) if recording.parameters else None,
        energy_j_per_step=report.nvml.energy_j_per_step if report.nvml else None,
    )


def _different(base: Recorded, other: Recorded) -> Finding | None:
    """G1: what else differs. Another workload or number of tokens forbids the comparison."""
    (w0, w1), (r0, r1) = (base.recording.workload, other.recording.workload), (base.recording, other.recording)
    grave = [("workload", w0.name, w1.name)] if w0.name != w1.name else []
    t0, t1 = w0.tokens_per_step, w1.tokens_per_step
    if t0 and t1 and abs(t1 - t0) > TOKENS_APART * t0:
        grave.append(("tokens per step", str(t0), str(t1)))
    facts = [("device", r0.device.name, r1.device.name), ("torch", r0.environment.torch, r1.environment.torch)]
    facts += [("CPU threads", str(r0.device.cpu_threads), str(r1.device.cpu_threads))]
    facts += [("arguments", " ".join(w0.argv[1:]), " ".join(w1.argv[1:]))]
    facts += [(key, str(getattr(w0, key)), str(getattr(w1, key))) for key in ("autocast", "checkpointing")]
    keys = sorted((w0.options.keys() | w1.options.keys()) - set(NOT_SETTINGS))
    facts += [(key, str(w0.options.get(key)), str(w1.options.get(key))) for key in keys]
    seen = dict.fromkeys((*grave, *(fact for fact in facts if fact[1] != fact[2])))
    if not seen:
        return None
    lines = [Evidence(what=what, value=f"{a} in {base.name}, {b} in {other.name}", unit="") for what, a, b in seen]
    return known("G1", "blocker" if grave else "major", lines)


def _notes(loaded: Sequence[Recorded]) -> list[str]:
    few = [one.name for one in loaded if not isfinite(own_floor(one.profiled.samples_ns))]
    said = [f"too few timed steps for a verdict in {', '.join(few)}: record with --timed 10 or more"] if few else []
    return [*said, *_compiling(loaded)]


def _compiling(loaded: Sequence[Recorded]) -> list[str]:
    """When compiling pays: every compiled recording against the first that is not."""
    eager = next((one for one in loaded if one.recording.compilation is None), None)
    notes = []
    for one in loaded if eager is not None else ():
        found = one.recording.compilation
        if found is not None and eager is not None:
            times, base = one.profiled.samples_ns, eager.profiled.samples_ns
            ratio = recorded_ratio(one.name, eager.name, times, base)
            cost_ns = sum(p.compile_ns for p in found.passes)
            notes.append(paid_back(ratio, cost_ns, median_interval(base)[0], median_interval(times)[0]))
    return notes
