"""``loraprof watch SCRIPT``: runs it to its end under the step clock, and records one step early and one after a shift.

The recordings are written when the script has ended: calibrating a device is not for the middle of a training.
"""

from dataclasses import dataclass
from pathlib import Path

from loraprof import units
from loraprof.analysis.statistics import median_interval
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.launch import launch
from loraprof.capture.ranks.write import Writer
from loraprof.errors import LoraprofError, MeasurementError
from loraprof.model.recording import Workload
from loraprof.model.watch import Watch
from loraprof.report.output import same_folder, say
from loraprof.runs.profile.run_script import check_script, explain_missing, run_script
from loraprof.runs.watch.clock import StepClock
from loraprof.runs.watch.series import shifts_of, steady


@dataclass(frozen=True, slots=True)
class WatchOrder:
    """``before`` and ``after``: where recordings go. ``skip``: steps before the first of them."""

    before: Path
    after: Path
    skip: int
    records: bool
    force: bool
    quiet: bool


def watch_script(target: list[str], module: bool, order: WatchOrder) -> tuple[int, Watch | None]:
    """The script's exit code and what was seen; None on all ranks but the first, which tells for all.

    Raises UsageError, and MeasurementError where no step was seen of a script that did not fail.
    """
    if not module:
        check_script(target[0])
    own = launch()
    silent = order.quiet or own.rank > 0
    clock = StepClock(
        order.skip,
        order.records and own.world == 1,
        lambda step, old, new: say(f"step {step}: from {units.ns(old)} to {units.ns(new)} per step", silent),
    )
    clock.install()
    try:
        with same_folder():
            code = run_script(target, module)
    finally:
        clock.remove()
    if own.rank > 0:
        return code, None
    if clock.steps < 1 and not code:
        raise explain_missing(clock.stamps, 2)
    return code, _watched(clock, target, order, own.world)


def _watched(clock: StepClock, target: list[str], order: WatchOrder, world: int) -> Watch:
    series, _ = clock.finish()
    steps, warmup = steady(series)
    median_ns, low_ns, high_ns = median_interval([series.ns[i] for i in steps]) if steps else (None, None, None)
    found = shifts_of(series, steps)
    notes = list(clock.notes)
    if world > 1:
        notes.append(f"one of {world} ranks was watched and no step recorded: loraprof profile records all of them")
    paths: list[str | None] = []
    for session, path in ((clock.before, order.before), (clock.afterwards, order.after)):
        paths.append(_write(session, path, target, order, notes) if session is not None else None)
    if paths[0] and not paths[1]:
        notes.append("the step time did not shift while it ran, so no second step was recorded")
    return Watch(
        script=Path(target[0]).name,
        device_name=clock.device.info().name,
        steps=clock.steps,
        warmup=warmup,
        median_ns=median_ns,
        low_ns=low_ns,
        high_ns=high_ns,
        shifts=found,
        cost_ns=clock.cost_ns / max(clock.steps, 1),
        before=paths[0],
        after=paths[1],
        notes=notes,
    )


def _write(session: Session, path: Path, target: list[str], order: WatchOrder, notes: list[str]) -> str | None:
    """Where the recording is; None, and a note, where there is none."""
    if session.recorded is None:
        reason = session.failure.message if session.failure else f"the script ended after {session.steps} of its steps"
        notes.append(f"{path}: not recorded, {reason}")
        return None
    workload = Workload(name=Path(target[0]).name, kind="script", argv=target)
    try:
        Writer(path, order.force, lambda text: say(text, order.quiet)).write(session, workload)
    except (LoraprofError, MeasurementError) as error:
        notes.append(f"{path}: not written, {error.message}")
        return None
    return str(path)
