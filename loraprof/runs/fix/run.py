"""``loraprof fix``: profile, ask what fits, measure each remedy against the unchanged program, then those that helped.

Everything lies within one budget of time: the recording and the survey come first, a third of what is left is kept
for the remedies together. Remedies are tried in the order of what they promise.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from loraprof.analysis.statistics import median_interval
from loraprof.diagnosis.load import diagnose
from loraprof.errors import LoraprofError, MeasurementError, UsageError
from loraprof.model.fix import Fix, Measured, Status, Together, Tried, Unchanged
from loraprof.model.report import Finding, Gain, Report
from loraprof.remedies.catalogue import REMEDIES, remedy_named
from loraprof.remedies.remedy import LiveRemedy
from loraprof.runs.compare.workers import profile_pass, settings
from loraprof.runs.fix.forks import Forks, forks
from loraprof.runs.fix.job import Command, Found, Trial
from loraprof.runs.fix.judge import Repeats, loss_change, measured, noise, repeats
from loraprof.runs.fix.schedule import BASE, TWIN, WARM_UP, Bench, Entry, name_of, slowest_setup
from loraprof.store.writing import write

ROUNDS: Final = 10  # at most
LEAST: Final = 2
TOGETHER_ROUNDS: Final = 3
RESERVE: Final = 3  # a third of the budget left is kept for the remedies together
PACKAGES: Final = ("transformers", "peft")  # of a built-in workload


@dataclass(frozen=True, slots=True)
class Asked:
    """``recording``: of the program, if there is one already. ``only`` and ``skip``: ids of findings or remedies."""

    command: Command
    name: str
    overrides: dict[str, Any]
    budget_ns: int
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    other_training: bool = False
    recording: Path | None = None
    out: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None)


def fix(asked: Asked) -> Fix:
    """Raises UsageError, MeasurementError."""
    deadline_ns = time.perf_counter_ns() + asked.budget_ns
    wanted = _wanted(asked)
    with nullcontext(str(asked.out)) if asked.out else TemporaryDirectory(prefix="loraprof-") as name:
        folder = Path(name)
        if asked.out:
            _open(folder, asked)
        report, notes = _report(asked, folder)
        with forks(PACKAGES if asked.command.spec else _packages(asked, report)) as server:
            return _tried(asked, server, deadline_ns, wanted, report, notes, folder if asked.out else None)


def _wanted(asked: Asked) -> list[LiveRemedy]:
    for word in (*asked.only, *asked.skip):
        if not any(word in remedy.findings for remedy in REMEDIES.values()):
            remedy_named(word)

    def named(remedy: LiveRemedy, words: Sequence[str]) -> bool:
        return remedy.name in words or any(word in remedy.findings for word in words)

    out = [r for r in REMEDIES.values() if (not asked.only or named(r, asked.only)) and not named(r, asked.skip)]
    return [r for r in out if asked.other_training or r.kind != "other_training" or named(r, asked.only)]


class _Plan(msgspec.Struct, frozen=True):
    command: Command
    only: list[str]
    skip: list[str]


def _open(folder: Path, asked: Asked) -> None:
    """A folder of another ``fix`` is refused; the same one's is taken up. Raises UsageError."""
    folder.mkdir(exist_ok=True)
    place, plan = folder / "plan.json", _Plan(asked.command, list(asked.only), list(asked.skip))
    if place.exists() and msgspec.json.decode(place.read_bytes(), type=_Plan).command != plan.command:
        raise UsageError(f"{folder}: holds the runs of another program", "name another folder with --out")
    write(place, msgspec.json.encode(plan))


def _report(asked: Asked, folder: Path) -> tuple[Report | None, list[str]]:
    """What the recording says; without one, nothing is predicted."""
    place = asked.recording or folder / "profile.loraprof"
    if not place.exists():
        asked.say(f"profiling {asked.name}: what each remedy promises")
        options = ["-m"] if asked.command.module else settings(asked.overrides)
        problem = profile_pass([*options, *(asked.command.target or [asked.name])], place)
        if problem is not None:
            return None, [f"nothing is predicted, the profile failed: {problem.removeprefix('loraprof: ')}"]
    try:
        return diagnose(place), []
    except LoraprofError as error:
        if asked.recording:
            raise
        return None, [f"nothing is predicted: {error.message}"]


def _packages(asked: Asked, report: Report | None) -> Sequence[str]:
    """Those that the script's own text imports: read before its first run, never more."""
    target = asked.command.target
    if asked.command.module or not target or not Path(target[0]).is_file():
        return ()
    text = Path(target[0]).read_text(encoding="utf-8", errors="replace")
    return [name for name in ("transformers", "peft", "accelerate", "datasets", "lightning") if name in text]


def _tried(
    asked: Asked,
    server: Forks,
    deadline_ns: int,
    wanted: Sequence[LiveRemedy],
    report: Report | None,
    notes: list[str],
    folder: Path | None,
) -> Fix:
    asked.say(f"asking {asked.name} which of {len(wanted)} remedies fit")
    left_s = (deadline_ns - time.perf_counter_ns()) / 1e9
    survey = server.run(asked.command, Trial(warmup=2, steps=0, survey=True), max(60.0, left_s))
    if survey.status != "ok":
        raise MeasurementError(f"{asked.name} cannot be measured: {survey.reason}", None)
    fitting = [r for r in wanted if r.name not in survey.unfit]
    fitting.sort(key=lambda r: -_promise(r, report))
    bench = Bench(server, asked.command, deadline_ns, folder, asked.say, warmup=max(WARM_UP, survey.period or 0))
    first = bench.first()
    entries: list[Entry] = [(r.name,) for r in fitting]
    _singles(bench, entries)
    known = repeats(bench.rounds)
    alone = [_row(r, bench, known, report) for r in fitting]
    together = _together(bench, alone, known)
    refused = [_refused(r, survey.unfit[r.name], report) for r in wanted if r.name in survey.unfit]
    if not known.repeatable:
        notes = [*notes, "two unchanged runs differ in their losses: they are compared as distributions"]
    if not first.losses:
        notes = [*notes, "no backward of a scalar was seen: losses are not compared"]
    return Fix(
        target=" ".join(asked.command.target) or asked.name,
        device_name=first.device_name,
        base=_unchanged(bench.rounds, first),
        noise_floor=noise(bench.rounds),
        remedies=[*sorted(alone, key=_order), *refused],
        together=together,
        rounds=len([r for r in bench.rounds if BASE in r]),
        notes=notes,
    )


def _promise(remedy: LiveRemedy, report: Report | None) -> float:
    _, gain = _predicted(remedy, report)
    return gain.speedup if gain else 1.0


def _singles(bench: Bench, entries: list[Entry]) -> None:
    """Rounds of all remedies, until their share of the time is spent."""
    begun_ns, share_ns = time.perf_counter_ns(), bench.left_ns() * (RESERVE - 1) // RESERVE
    bench.setup_s = slowest_setup(entries, bench.left_ns())
    live = list(entries)
    for number in range(ROUNDS):
        spent_ns = time.perf_counter_ns() - begun_ns
        if number and spent_ns + spent_ns // number > share_ns and (number >= LEAST or spent_ns > share_ns):
            return
        bench.round(live, "alone", number)
        live = [e for e in live if name_of(e) not in bench.ended and not bench.slower(e)]
        if not live:
            return


def _together(bench: Bench, alone: Sequence[Tried], known: Repeats) -> Together | None:
    """Greedy: the best, then each further one as long as the step gets faster and the loss stays."""
    helped = sorted((t for t in alone if t.status == "kept" and t.measured), key=lambda t: t.measured.ratio)  # type: ignore[union-attr]
    if len(helped) < 2:
        return None
    arms, best = [helped[0].arm], None
    for candidate in helped[1:]:
        trial = (*arms, candidate.arm)
        if bench.left_ns() < 4 * LEAST * bench.base_s * 1e9:
            break
        before = len(bench.rounds)
        for number in range(TOGETHER_ROUNDS):
            if number < LEAST or bench.left_ns() > 4 * bench.base_s * 1e9:
                bench.round([tuple(arms), trial], f"together {len(trial)}", number)
        rounds, name = bench.rounds[before:], name_of(trial)
        against, found = measured(name, rounds, name_of(tuple(arms))), measured(name, rounds)
        change, _ = loss_change(name, rounds, known)
        if against is None or found is None or against.ratio >= 1 or (change and change.verdict == "differs"):
            continue
        arms.append(candidate.arm)
        best = Together(arms=list(arms), measured=found, loss=change, peak_bytes=_peak(name, rounds))
    return best


def _row(remedy: LiveRemedy, bench: Bench, known: Repeats, report: Report | None) -> Tried:
    finding, gain = _predicted(remedy, report)
    found = measured(remedy.name, bench.rounds)
    change, differs = loss_change(remedy.name, bench.rounds, known)
    ended = bench.ended.get(remedy.name)
    status: Status
    reason: str | None
    if ended is not None:
        status, reason = ("refused" if ended.status == "refused" else "failed"), ended.reason
    elif found is None:
        status, reason = "refused", "the time budget was spent before its turn"
    elif change is not None and change.verdict == "differs":
        status, reason = "loss differs", differs
    else:
        status, reason = ("kept" if found.verdict == "faster" else "no gain"), None
    return Tried(
        finding=finding.id if finding else None,
        arm=remedy.name,
        kind=remedy.kind,
        text=_text(remedy, finding),
        predicted=gain,
        measured=found,
        covered=_covered(gain, found),
        peak_bytes=_peak(remedy.name, bench.rounds),
        loss=change,
        status=status,
        reason=reason,
    )


def _refused(remedy: LiveRemedy, reason: str, report: Report | None) -> Tried:
    finding, gain = _predicted(remedy, report)
    return Tried(
        finding=finding.id if finding else None,
        arm=remedy.name,
        kind=remedy.kind,
        text=_text(remedy, finding),
        predicted=gain,
        status="refused",
        reason=reason,
    )


def _predicted(remedy: LiveRemedy, report: Report | None) -> tuple[Finding | None, Gain | None]:
    """The finding that the remedy answers, and what it gains there: the remedy's own where the finding names it."""
    for finding in report.findings if report else ():
        own = next((r for r in finding.remedies if r.arm == remedy.name), None)
        if own is not None:
            return finding, own.gain or finding.gain
    named = (f for key in remedy.findings for f in (report.findings if report else ()) if f.id == key)
    answered = next(named, None)
    return answered, answered.gain if answered else None


def _text(remedy: LiveRemedy, finding: Finding | None) -> str:
    return next((r.text for r in finding.remedies if r.arm == remedy.name), remedy.text) if finding else remedy.text


def _covered(gain: Gain | None, found: Measured | None) -> bool | None:
    return None if gain is None or found is None else gain.low <= 1 / found.ratio <= gain.high


def _peak(name: str, rounds: Sequence[dict[str, Found]]) -> int | None:
    return max((r[name].peak_bytes or 0 for r in rounds if name in r), default=0) or None


def _unchanged(rounds: Sequence[dict[str, Found]], first: Found) -> Unchanged:
    blocks = [r[key].times_ns for r in rounds for key in (BASE, TWIN) if key in r] or [first.times_ns]
    samples, labels = [ns for block in blocks for ns in block], [i for i, block in enumerate(blocks) for _ in block]
    median, low, high = median_interval(samples, labels)
    return Unchanged(
        median_ns=median,
        low_ns=low,
        high_ns=high,
        peak_bytes=_peak(BASE, rounds) or first.peak_bytes,
        loss=first.losses,
    )


_ORDER: Final = {"kept": 0, "no gain": 1, "loss differs": 2, "failed": 3, "refused": 4}


def _order(tried: Tried) -> tuple[int, float]:
    return _ORDER[tried.status], tried.measured.ratio if tried.measured else 9.0
