"""``loraprof fix``: profile, ask what fits, measure each remedy against the unchanged program, then those that helped.

Everything lies within one budget of time: the recording and the survey come first, a third of what is left is kept
for the remedies together. Remedies are tried in the order of what they promise.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from loraprof import units
from loraprof.diagnosis.load import diagnosis_of
from loraprof.errors import LoraprofError, MeasurementError, UsageError, misplaced
from loraprof.live_remedies.catalogue import REMEDIES, remedy_named
from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.model.fix import Fix, Together, Tried
from loraprof.runs.compare.workers import profile_pass, settings
from loraprof.runs.fix.equal import Goal, reach
from loraprof.runs.fix.forks import Forks, forks
from loraprof.runs.fix.job import Command, Found
from loraprof.runs.fix.judge import Repeats, loss_change, measured, noise, repeats
from loraprof.runs.fix.promises import Promises, promised
from loraprof.runs.fix.rows import order, peak, refused, row, unchanged
from loraprof.runs.fix.schedule import BASE, SETUP_S, WARM_UP, Bench, Entry, name_of, steps_within
from loraprof.store.layout import FIX
from loraprof.store.leftovers import scratch
from loraprof.store.recordings import load_source
from loraprof.store.writing import write

PROFILE: Final = "profile.loraprof"
ROUNDS: Final = 10  # at most
LEAST: Final = 2
SURE: Final = 3  # rounds, from which on what is settled needs no more, and time is kept for what follows
NARROW: Final = 0.02  # half an interval: more rounds would not change what is said
TOGETHER_ROUNDS: Final = 3
RESERVE: Final = 3  # a third of the time left is kept for the remedies together
COMPILED_RESERVE: Final = 2  # and half of it where a remedy compiles
COMPILING: Final = ("compile-blocks", "cuda-graphs")
COMPILE_NS: Final = 60_000_000_000  # that compiling takes at first, on a slow machine
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
    goal: Goal | None = None
    recording: Path | None = None
    out: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None)


def fix(asked: Asked) -> Fix:
    """Raises UsageError, MeasurementError."""
    deadline_ns = time.perf_counter_ns() + asked.budget_ns
    wanted = _wanted(asked)
    with nullcontext(asked.out) if asked.out else scratch() as folder:
        if asked.out:
            _open_folder(folder, asked)
        promises, notes = _promises(asked, folder)
        with forks(PACKAGES if asked.command.spec else _packages(asked)) as server:
            found = _tried(asked, server, deadline_ns, wanted, promises, notes, folder if asked.out else None)
        if promises.report is not None:
            _write_beside(asked.recording or folder / PROFILE, found)
        return found


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


def _open_folder(folder: Path, asked: Asked) -> None:
    """A folder of another ``fix`` is refused; the same one's is taken up. Raises UsageError."""
    folder.mkdir(exist_ok=True)
    place, plan = folder / "plan.json", _Plan(asked.command, list(asked.only), list(asked.skip))
    if place.exists() and msgspec.json.decode(place.read_bytes(), type=_Plan).command != plan.command:
        raise UsageError(f"{folder}: holds the runs of another program", "name another folder with --out")
    write(place, msgspec.json.encode(plan))


def _promises(asked: Asked, folder: Path) -> tuple[Promises, list[str]]:
    """What the recording says; without one, nothing is predicted."""
    place = asked.recording or folder / PROFILE
    if not place.exists():
        asked.say(f"profiling {asked.name}: what each remedy promises")
        problem = profile_pass(_words(asked), place, asked.command.ranks)
        if problem is not None:
            return Promises(), [f"nothing is predicted, the profile failed: {problem.removeprefix('loraprof: ')}"]
    try:
        return promised(diagnosis_of(load_source(place))), []
    except LoraprofError as error:
        if asked.recording:
            raise
        return Promises(), [f"nothing is predicted: {error.message}"]


def _write_beside(recording: Path, found: Fix) -> None:
    """Into the recording that the promises are of, so that its report says what was measured; not where that cannot be
    written to."""
    with suppress(OSError, MeasurementError):
        write(recording / FIX, msgspec.json.encode(found))


def _packages(asked: Asked) -> Sequence[str]:
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
    promises: Promises,
    notes: list[str],
    folder: Path | None,
) -> Fix:
    asked.say(f"asking {asked.name} which of {len(wanted)} remedies fit")
    bench = Bench(server, asked.command, deadline_ns, folder, asked.say)
    survey = bench.survey()
    if survey.status != "ok":
        hint = misplaced(survey.exit_code, asked.command.target[1:])
        raise MeasurementError(f"{asked.name} cannot be measured: {survey.reason}", hint)
    fitting = [r for r in wanted if r.name not in survey.unfit]
    fitting.sort(key=lambda r: -promises.speedup(r))
    bench.warmup = max(WARM_UP, survey.period or 0)
    bench.steps = steps_within(bench.left_ns() // RESERVE, len(fitting) + 2, survey, bench.warmup)
    first = bench.first() if fitting else survey
    needed_ns = asked.budget_ns - bench.left_ns() + _span(first, bench, fitting)[0]
    asked.say(_plan(first, bench, fitting))
    quick, costly = ([r for r in fitting if (r.name in COMPILING) is compiling] for compiling in (False, True))
    _repeat(bench, quick, bench.left_ns() // (COMPILED_RESERVE if costly else RESERVE))
    known = repeats(bench.rounds)
    alone = [row(r, bench, known, promises) for r in quick]
    together = _together(bench, alone, known, None, bench.left_ns() // COMPILED_RESERVE if costly else 0)
    bench.setup_s = max(SETUP_S, bench.left_ns() / 2e9)
    _repeat(bench, costly, 0)
    alone += [row(r, bench, known, promises) for r in costly]
    together = _together(bench, alone, known, together, 0) if costly else together
    reached = reach(bench, fitting, asked.goal) if asked.goal else {}
    alone = [msgspec.structs.replace(t, reached=reached.get(t.arm)) for t in alone]
    if folder is not None:
        notes = [*notes, *_recorded(asked, folder, alone, together)]
    unfit = [refused(r, survey.unfit[r.name], promises) for r in wanted if r.name in survey.unfit]
    if not known.repeatable:
        notes = [*notes, "two unchanged runs differ in their losses: they are compared as distributions"]
    if not first.losses:
        notes = [*notes, "no backward of a scalar was seen: losses are not compared"]
    elif not any(map(math.isfinite, first.losses)):
        notes = [*notes, "its losses are no finite numbers: they tell nothing of what a remedy changes"]
    return Fix(
        target=" ".join(asked.command.target) or asked.name,
        device_name=first.device_name,
        base=msgspec.structs.replace(unchanged(bench.rounds, first), reached=reached.get(BASE)),
        noise_floor=noise([r for r in bench.rounds if any(one.name in r for one in quick)] or bench.rounds),
        remedies=[*sorted(alone, key=order), *unfit],
        together=together,
        goal=asked.goal.words if asked.goal and reached else None,
        rounds=len([r for r in bench.rounds if BASE in r]),
        needed_ns=max(needed_ns, asked.budget_ns) if any(t.untried for t in alone) else None,
        notes=notes,
    )


def _plan(first: Found, bench: Bench, fitting: Sequence[LiveRemedy]) -> str:
    """What it will take, at most what is left of the budget."""
    run_ns, left_ns = first.wall_ns, max(bench.left_ns(), 0)
    if not fitting:
        return "no remedy fits"
    quick = sum(r.name not in COMPILING for r in fitting)
    some = "1 remedy fits" if len(fitting) == 1 else f"{len(fitting)} remedies fit"
    takes = f"{some}; a run takes {units.ns(run_ns)} for {bench.steps} timed steps"
    if left_ns < 3 * run_ns:
        return f"{takes}, and {units.ns(left_ns)} are left: too little to try one"
    low, high = (min(left_ns, ns) for ns in _span(first, bench, fitting))
    return f"{takes}, a round {units.ns(run_ns * (quick + 2))}; {units.ns(low)} to {units.ns(high)} in all"


def _span(first: Found, bench: Bench, fitting: Sequence[LiveRemedy]) -> tuple[int, int]:
    """Time for at least ``SURE`` rounds of each, and for all ``ROUNDS`` with those that helped together, ns."""
    run_ns, quick = first.wall_ns, sum(r.name not in COMPILING for r in fitting)
    compiled = (COMPILE_NS + 3 * run_ns * LEAST) * (quick < len(fitting))
    least, most = (run_ns * rounds * (quick + 2) + compiled for rounds in (SURE, ROUNDS))
    return least, most + 4 * TOGETHER_ROUNDS * run_ns * bool(quick)


def _recorded(asked: Asked, folder: Path, alone: Sequence[Tried], together: Together | None) -> list[str]:
    """A recording of the best, for ``compare`` with the one of the unchanged program."""
    helped = [t.arm for t in sorted(alone, key=order) if t.status == "kept"]
    arms, place = together.arms if together else helped[:1], folder / "best.loraprof"
    if not arms or place.exists():
        return []
    asked.say(f"recording {asked.name} with {' and '.join(arms)}")
    problem = profile_pass(["--arm", "+".join(arms), *_words(asked)], place, asked.command.ranks)
    hint = f"loraprof compare {folder / PROFILE} {place} shows where the time went"
    return [hint if problem is None else f"the best was not recorded: {problem.removeprefix('loraprof: ')}"]


def _words(asked: Asked) -> list[str]:
    """The options and target that ``profile`` is called with."""
    options = ["-m"] if asked.command.module else settings(asked.overrides)
    return [*options, *(asked.command.target or [asked.name])]


def _repeat(bench: Bench, remedies: Sequence[LiveRemedy], kept_ns: int) -> None:
    """Rounds of each alone until as much time is left as is kept, or it is clear that nothing here helps."""
    live: list[Entry] = [(remedy.name,) for remedy in remedies]
    for number in range(ROUNDS if live else 0):
        if bench.left_ns() < (len(live) + 2) * bench.base_s * 1e9:
            live = live[: max(0, int(bench.left_ns() / 1e9 / bench.base_s) - 2)] if not number else []
            if not live:
                return
        if number >= SURE and bench.round_ns(live) + kept_ns > bench.left_ns():
            return
        if number and bench.round_ns(live) > bench.left_ns():
            return
        bench.round(live, "alone" if live[0][0] not in COMPILING else "compiled", number)
        live = [e for e in live if name_of(e) not in bench.ended and not bench.slower(e)]
        live = [e for e in live if number + 1 < SURE or not _settled(e, bench)]
        if not live:
            return


def _settled(entry: Entry, bench: Bench) -> bool:
    found = measured(name_of(entry), bench.rounds)
    return found is not None and (found.verdict != "undecided" or found.high - found.low <= 2 * NARROW)


def _together(
    bench: Bench, alone: Sequence[Tried], known: Repeats, start: Together | None, kept_ns: int
) -> Together | None:
    """Greedy: what ``start`` holds or the best alone, then each further one while the step gets faster and the loss
    stays, until as much time is left as is kept."""
    ratios = {
        t.arm: t.measured.ratio for t in alone if t.status == "kept" and t.measured and t.kind != "other_training"
    }
    helped = sorted(ratios, key=lambda arm: ratios[arm])
    arms, best = list(start.arms) if start else helped[:1], start
    for candidate in (arm for arm in helped if arm not in arms and (not start or arm in COMPILING)):
        trial = (*arms, candidate)
        if bench.left_ns() < kept_ns + 4 * LEAST * bench.base_s * 1e9:
            break
        before = len(bench.rounds)
        for number in range(TOGETHER_ROUNDS):
            if number < LEAST or bench.left_ns() > kept_ns + 4 * bench.base_s * 1e9:
                bench.round([tuple(arms), trial], f"together with {candidate}", number)
        rounds, name = bench.rounds[before:], name_of(trial)
        against, found = measured(name, rounds, name_of(tuple(arms))), measured(name, rounds)
        change, _ = loss_change(name, rounds, known, any(REMEDIES[arm].reorders for arm in trial if arm in REMEDIES))
        if against is None or found is None or against.ratio >= 1 or (change and change.verdict == "differs"):
            continue
        arms.append(candidate)
        best = Together(arms=list(arms), measured=found, loss=change, peak_bytes=peak(name, rounds))
    return best
