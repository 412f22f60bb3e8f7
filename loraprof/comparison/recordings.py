"""How do recordings compare? Nothing is run and torch is not needed: a base and what is held against it, for CI.

They were not interleaved, so a verdict needs a difference beyond both intervals and both noise floors together.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from math import exp, isfinite, prod
from os import PathLike
from pathlib import Path

from msgspec.structs import replace

from loraprof.comparison import compiling
from loraprof.comparison.arms import pair_findings, way
from loraprof.comparison.differences import Profiled, different
from loraprof.comparison.ratios import arm_result, own_floor, recorded_ratio
from loraprof.diagnosis.build import Among, build_report
from loraprof.errors import InputError, UsageError
from loraprof.model.compare import ArmResult, Comparison, NoiseFloor
from loraprof.store.kineto.read import read_trace
from loraprof.store.recordings import load_source


def compare(*recordings: str | PathLike[str], allow_different: bool = False) -> Comparison:
    """Recordings against the first of them: times, verdicts and the waterfall to the last. No torch.

    Raises InputError for what cannot be read or holds no step times, UsageError for fewer than two, and for different
    workloads unless ``allow_different``.
    """
    paths = [Path(place) for place in recordings]
    if len(paths) < 2:
        raise UsageError("one recording cannot be compared", "name two: loraprof compare BASE.loraprof NEW.loraprof")
    profiled = {name: load_recorded(path) for path, name in zip(paths, _names(paths), strict=True)}
    base, *rest = profiled
    start = profiled[base].recording
    differing = [f for name in rest if (f := different(base, profiled[base], name, profiled[name])) is not None]
    if not allow_different and (forbidden := [f for f in differing if f.severity == "blocker"]):
        seen = forbidden[0].evidence[0]
        hint = "--allow-different compares them all the same"
        raise UsageError(f"the recordings differ in {seen.what}: {seen.value}", hint)
    times = {name: p.samples_ns for name, p in profiled.items()}
    steps = times[base]
    floor = own_floor(steps)
    return Comparison(
        workload=start.workload.name,
        device_name=start.device.name,
        arms={name: _arm(one) for name, one in profiled.items()},
        ratios=[recorded_ratio(name, base, times[name], steps) for name in rest],
        noise_floor=NoiseFloor(ratio=1.0, low=exp(-floor), high=exp(floor)) if isfinite(floor) else None,
        waterfall=way(base, rest[-1], times, profiled, paired=False),
        findings=pair_findings(profiled, differing),
        predicted=None,
        interleaved=False,
        notes=[
            "not interleaved: the recordings were made at different times",
            *_too_few(times),
            *compiling.recorded([*profiled.items()]),
        ],
    )


def load_recorded(path: Path) -> Profiled:
    """A recording with its analysis. Raises InputError."""
    source = load_source(path)
    if source.recording is None:
        raise InputError(f"{path}: a trace has no unprofiled step times", "compare NAME.loraprof recordings")
    timing = source.recording.timing
    if timing is None or not timing.samples_ns:
        raise InputError(f"{path}: the recording holds no unprofiled step times", "record it again with --timed 10")
    trace = read_trace(source.traces[0])
    report = build_report(trace, source.path, source.recording, source.nvml, Among(len(source.traces)))
    return Profiled(report, tuple(timing.samples_ns), source.recording)


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' stems, with as many folders before them as tell them apart; numbered where none do."""
    stems = [path.with_name(path.name.removesuffix(".loraprof")) for path in paths]
    for depth in range(1, max(len(stem.parts) for stem in stems) + 1):
        tails = [str(Path(*stem.parts[-depth:])) for stem in stems]
        if len(set(tails)) == len(tails):
            return tails
    names = [stem.name for stem in stems]
    seen: dict[str, count[int]] = {}
    numbers = [next(seen.setdefault(name, count(1))) for name in names]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def _arm(one: Profiled) -> ArmResult:
    report, recording = one.report, one.recording
    found = arm_result(one.samples_ns, None, recording.workload.tokens_per_step)
    sizes = [prod(p.shape) for p in recording.parameters if p.trainable]
    return replace(
        found,
        peak_bytes=recording.memory.peak_bytes if recording.memory else None,
        trainable=sum(sizes) if recording.parameters else None,
        energy_j_per_step=report.nvml.energy_j_per_step if report.nvml else None,
    )


def _too_few(times: Mapping[str, Sequence[int]]) -> list[str]:
    short = [name for name, steps in times.items() if not isfinite(own_floor(steps))]
    if not short:
        return []
    return [f"too few timed steps for a verdict in {', '.join(short)}: record with --timed 10 or more"]
