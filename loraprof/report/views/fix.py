"""What does ``fix`` show? The best first, a table of prediction beside measurement, and what to write; pure."""

from loraprof import units
from loraprof.model.finding import Gain
from loraprof.model.fix import Fix, Measured, Tried
from loraprof.report.document import Block, Cell, Column, Document, Facts, Paragraph, Row, Section, Table, numbers

_TONES = {"kept": "good", "loss differs": "bad", "failed": "bad"}


def view_fix(found: Fix) -> Document:
    """Everything a renderer prints about the remedies that were tried."""
    base = found.base
    floor = f"two unchanged runs differ by up to {units.percent(found.noise_floor)}" if found.noise_floor else ""
    step = units.ns_interval(base.median_ns, base.low_ns, base.high_ns)
    facts = [
        ("input", f"{found.target} · {found.device_name}"),
        ("unchanged", f"{step} a step · peak {units.nbytes(base.peak_bytes)}"),
        ("rounds", " · ".join(filter(None, (f"{found.rounds}, in alternating order", floor)))),
        *([("time", f"some that fit had no turn; {more_time(found.needed_ns)}")] if found.needed_ns else []),
        *(("note", note) for note in found.notes),
        *([("missed", found.missed)] if found.missed else []),
    ]  # fmt: skip
    return Document(f"loraprof fix: {found.target}", headline(found), tuple(facts), tuple(_sections(found)))


def headline(found: Fix) -> str:
    """What helped, as one sentence."""
    helped = [t for t in found.remedies if t.status == "kept" and t.measured]
    best = min(helped, key=lambda t: t.measured.ratio if t.measured else 1.0, default=None)
    if found.together and (
        best is None or best.measured is None or found.together.measured.ratio < best.measured.ratio
    ):
        return (
            f"{_speed(found.together.measured)} the speed, measured, with {' and '.join(found.together.arms)} together."
        )
    if best is None or best.measured is None:
        return _nothing(found.remedies)
    return f"{_speed(best.measured)} the speed, measured, with {best.arm}."


def more_time(needed_ns: int) -> str:
    """What to ask for, so that every remedy is tried."""
    return f"--budget {needed_ns // 60_000_000_000 + 1}m has time for all"


def _nothing(remedies: list[Tried]) -> str:
    """Why no remedy helped."""
    if any(t.measured or t.status == "failed" for t in remedies):
        return "No remedy that was tried makes this step surely faster."
    if any(t.untried for t in remedies):
        return "No remedy was tried: the time was spent before the first one's turn."
    return "No remedy fits this program."


def contribution(found: Fix) -> str:
    """What was measured beside what was predicted, as a Markdown table for the repository's benchmarks."""
    noise = f" (A/A {units.percent(found.noise_floor)})" if found.noise_floor is not None else ""
    head = f"| remedy, on {found.target}, {found.device_name}{noise} | of finding | speed-up predicted | measured |"
    rows = [
        f"| {t.arm} | {t.finding or units.NA} | {_gain(t.predicted)} | {_speed(t.measured)} |"
        for t in found.remedies
        if t.measured
    ]
    return "\n".join([head, "|---|---|---:|---:|", *rows, "", ""])


def _speed(found: Measured) -> str:
    return units.ratio_interval(1 / found.ratio, 1 / found.high, 1 / found.low, most=2)


def _gain(gain: Gain | None) -> str:
    return units.gain_interval(gain.speedup, gain.low, gain.high, most=2) if gain else units.NA


def _sections(found: Fix) -> list[Section]:
    tried = [t for t in found.remedies if t.status != "refused"]
    refused = [t for t in found.remedies if t.status == "refused" and not t.untried]
    untried = [t.arm for t in found.remedies if t.untried]
    untold = [(t.arm, t.unpredicted) for t in tried if t.unpredicted]
    both = [t.covered for t in tried if t.covered is not None]
    aside = f"{sum(both)} of {len(both)} predicted intervals hold what was measured" if both else ""
    sections = [Section("remedies", "Speed-up of each remedy", (_table(tried, found),), aside)] if tried else []
    if found.goal and found.base.reached:
        sections.append(Section("goal", "Other training, " + found.goal, (_goal(found),), "one run each"))
    words = [(t.arm, t.text) for t in tried if t.status == "kept"]
    if words:
        sections.append(Section("write", "What to write", (Facts(tuple(words)),)))
    reasons = [(t.arm, t.reason or _differs(t)) for t in tried if t.reason or t.status == "loss differs"]
    if reasons:
        sections.append(Section("reasons", "Why not", (Facts(tuple(reasons)),)))
    if untold:
        sections.append(Section("unpredicted", "Why nothing is predicted", (Facts(tuple(untold)),)))
    if untried:
        sections.append(Section("untried", "What there was no time for", (Paragraph(", ".join(untried) + "."),)))
    if refused:
        lines: tuple[Block, ...] = (Facts(tuple((t.arm, t.reason or "") for t in refused)),)
        sections.append(Section("refused", "What does not fit here", lines))
    if not tried and not refused and not untried:
        sections.append(Section("remedies", "Remedies", (Paragraph("None was asked for."),)))
    return sections


def _table(tried: list[Tried], found: Fix) -> Table:
    columns = (
        Column("remedy"),
        numbers("predicted"),
        numbers("measured"),
        Column("covered", drop=2),
        Column("loss"),
        numbers("peak memory", "peak", drop=3),
        Column("outcome"),
    )
    rows = [_row(t) for t in tried]
    if (t := found.together) is not None:
        loss = t.loss.verdict if t.loss else units.NA
        cells = ("+".join(t.arms), "", _speed(t.measured), "", loss, units.nbytes(t.peak_bytes), "together")
        rows.append(tuple(map(Cell, cells)))
    return Table(columns, tuple(rows))


def _goal(found: Fix) -> Table:
    columns = (
        Column("training"),
        numbers("steps"),
        numbers("time"),
        numbers("loss"),
        Column("", drop=2),
    )
    runs = [("unchanged", found.base.reached), *((t.arm, t.reached) for t in found.remedies)]
    rows = [
        (
            Cell(name),
            Cell(units.count(run.steps), run.steps),
            Cell(units.ns(run.ns), run.ns),
            Cell(units.NA if run.loss is None else f"{run.loss:.4g}", run.loss),
            Cell(run.reason or ""),
        )
        for name, run in runs
        if run
    ]
    return Table(columns, tuple(rows))


def _row(t: Tried) -> Row:
    covered = {True: "yes", False: "missed", None: ""}[t.covered]
    return (
        Cell(f"{t.arm} ({t.finding})" if t.finding else t.arm),
        Cell("not predicted" if t.unpredicted else _gain(t.predicted), t.predicted.speedup if t.predicted else None),
        Cell(_speed(t.measured) if t.measured else units.NA, 1 / t.measured.ratio if t.measured else None),
        Cell(covered),
        Cell(t.loss.verdict if t.loss else units.NA),
        Cell(units.nbytes(t.peak_bytes), t.peak_bytes),
        Cell(t.status, tone=_TONES.get(t.status, "")),
    )


def _differs(t: Tried) -> str:
    return f"a step's loss differs by {units.percent(t.loss.largest_relative_difference if t.loss else None, 2)}"
