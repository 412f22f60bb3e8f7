"""What does a comparison show? Arms, ratios with intervals, and the way from one arm's step to the other's; pure.

The waterfall adds up: bars below the largest ones are summed in one bar, so from + changes = to, exactly.
"""

from collections.abc import Callable, Sequence

from loraprof import units
from loraprof.model.compare import ArmResult, Bar, Comparison, Ratio
from loraprof.model.compare import Waterfall as WaterfallData
from loraprof.report.document import (
    Cell,
    Change,
    Column,
    Document,
    Facts,
    Paragraph,
    Row,
    Section,
    Table,
    Waterfall,
)
from loraprof.report.view import findings_section

_Getter = Callable[[ArmResult], str]

_VERDICT_TONES = {"faster": "good", "slower": "bad", "undecided": "rest"}


def view_comparison(comparison: Comparison) -> Document:
    """Everything a renderer prints about a comparison."""
    c = comparison
    how = "interleaved" if c.interleaved else "NOT interleaved: machine state may differ between the arms"
    facts = [("input", f"{c.workload} · {c.device_name} · {how}")]
    if c.predicted:
        off = c.predicted.error
        error = f", off by {units.percent(abs(off))} of the lora step" if off is not None else ""
        facts.append(("predicted", f"full / lora {units.ratio(c.predicted.full_over_lora)}{error}"))
    if c.missed:
        facts.append(("missed", c.missed))
    if c.recommendation:
        facts.append(("do", c.recommendation))
    return Document(f"loraprof compare: {c.workload}", headline(c), tuple(facts), tuple(_sections(c)))


def headline(comparison: Comparison) -> str:
    """The measured answer in one sentence, for the pair of the waterfall or else the last ratio."""
    chosen = _chosen(comparison)
    if chosen is None:
        return "No two arms could be measured: there is nothing to compare."
    pair = f"{chosen.of} and {chosen.to}"
    if chosen.verdict == "undecided":
        ratio = units.ratio_interval(chosen.ratio, chosen.low, chosen.high)
        return f"No difference between {pair} is established: step time ratio {ratio}."
    inverse = units.ratio_interval(1 / chosen.ratio, 1 / chosen.high, 1 / chosen.low)
    return f"{chosen.of} is {chosen.verdict} than {chosen.to}: {inverse} its speed, measured."


def _chosen(c: Comparison) -> Ratio | None:
    if c.waterfall:
        wanted = {c.waterfall.to, c.waterfall.from_}
        found = [r for r in c.ratios if {r.of, r.to} == wanted]
        if found:
            return found[0]
    return c.ratios[-1] if c.ratios else None


def _sections(c: Comparison) -> list[Section]:
    sections = [Section("arms", "Arms", (_arms(c),))]
    if c.ratios:
        floor = c.noise_floor
        noise = units.ratio_interval(floor.ratio, floor.low, floor.high) if floor else units.NA
        sections.append(Section("ratios", "Step time ratios", (_ratios(c.ratios),), f"noise floor {noise}"))
    if c.waterfall:
        w = c.waterfall
        aside = f"{units.ns(w.to_ns - w.from_ns, signed=True)} per mean step"
        blocks: list[Waterfall | Paragraph] = [waterfall(w)]
        if w.residual_flagged:
            blocks.append(Paragraph("The residual is more than a tenth of the difference: read the bars with care."))
        sections.append(Section("waterfall", f"From {w.from_} to {w.to}", tuple(blocks), aside))
    if c.findings:
        sections.append(findings_section(c.findings))
    if c.notes:
        sections.append(Section("notes", "Notes", (Facts(tuple(("note", note) for note in c.notes)),)))
    return sections


def _arms(c: Comparison) -> Table:
    columns = (
        Column("arm"),
        Column("step", number=True),
        Column("tokens/s", number=True),
        Column("peak memory", "peak", number=True),
        Column("trainable", number=True, drop=2),
        Column("energy per step", "energy", number=True, drop=1),
        Column("steps", number=True, drop=3),
    )
    extra = _extra_columns(list(c.arms.values()))
    rows = [(*_arm(name, arm), *(Cell(get(arm)) for _, get in extra)) for name, arm in c.arms.items()]
    return Table((*columns, *(Column(title, number=True) for title, _ in extra)), tuple(rows))


def _arm(name: str, arm: ArmResult) -> Row:
    if arm.status != "ok":
        why = f"{arm.status}: {arm.reason}" if arm.reason else arm.status
        return (Cell(name), Cell(why), *(Cell("") for _ in range(5)))
    step = units.ns_interval(arm.median_ns, arm.low_ns, arm.high_ns)
    return (
        Cell(name),
        Cell(step, arm.median_ns),
        Cell(units.count(None if arm.tokens_per_s is None else round(arm.tokens_per_s)), arm.tokens_per_s),
        Cell(units.nbytes(arm.peak_bytes), arm.peak_bytes),
        Cell(units.count(arm.trainable), arm.trainable),
        Cell(units.quantity(arm.energy_j_per_step, "J"), arm.energy_j_per_step),
        Cell(units.count(arm.steps), arm.steps),
    )


def _losses(values: Sequence[float] | None) -> str:
    return ", ".join(units.number(v) for v in values) if values else ""


def _extra_columns(arms: Sequence[ArmResult]) -> list[tuple[str, _Getter]]:
    """Columns of ``--quality`` and ``--iso-memory`` and the bound, where any arm has them."""
    options: list[tuple[str, str, _Getter]] = [
        ("at most", "ideal_speedup", lambda a: units.ratio(a.ideal_speedup) if a.ideal_speedup else ""),
        ("first loss", "initial_loss", lambda a: _losses(a.initial_loss)),
        ("final loss", "final_loss", lambda a: _losses(a.final_loss)),
        ("largest batch", "iso_batch", lambda a: units.count(a.iso_batch)),
        ("its tokens/s", "iso_tokens_per_s", lambda a: units.count(a.iso_tokens_per_s and round(a.iso_tokens_per_s))),
    ]
    return [(title, get) for title, name, get in options if any(getattr(a, name) is not None for a in arms)]


def _ratios(ratios: Sequence[Ratio]) -> Table:
    columns = (Column("arm"), Column("against"), Column("step time ratio", number=True), Column("verdict"))
    rows = tuple(
        (
            Cell(r.of),
            Cell(r.to),
            Cell(units.ratio_interval(r.ratio, r.low, r.high), r.ratio),
            Cell(r.verdict, tone=_VERDICT_TONES[r.verdict]),
        )
        for r in ratios
    )
    return Table(columns, rows)


_NAMES = {"profiler": "profiling itself", "residual": "not explained"}


def _label(bar: Bar) -> str:
    if bar.key in _NAMES:
        return _NAMES[bar.key]
    if bar.role is None and bar.phase is None:
        return bar.key
    place = ", ".join(dict.fromkeys(word for word in (bar.role, bar.phase) if word))
    return f"idle {bar.cause}: {place}" if bar.cause else place


def waterfall(data: WaterfallData, limit: int = 14) -> Waterfall:
    """The largest bars in order of size, the others as one; every row says where the step has got to."""
    ordered = sorted(data.bars, key=lambda b: (-abs(b.ns), b.key))
    special = [b for b in ordered if b.key in ("profiler", "residual")]
    named = [b for b in ordered if b not in special]
    rest = named[limit:]
    rows = [(_label(b), b.ns, b.count_ns, b.duration_ns) for b in named[:limit]]
    if rest:
        sums = (sum(b.ns for b in rest), sum(b.count_ns for b in rest), sum(b.duration_ns for b in rest))
        rows.append((f"{units.count(len(rest))} smaller bars", *sums))
    rows += [(_label(b), b.ns, b.count_ns, b.duration_ns) for b in special]
    scale = units.ns_scale([data.from_ns, data.to_ns])
    level_ns = data.from_ns
    changes = [Change(data.from_, level_ns, scale(level_ns), "", level=True)]
    for label, ns, count_ns, duration_ns in rows:
        level_ns += ns
        split = (scale(count_ns, signed=True), scale(duration_ns, signed=True))
        changes.append(Change(label, ns, scale(ns, signed=True), scale(level_ns), *split))
    changes.append(Change(data.to, level_ns, scale(level_ns), "", level=True))
    return Waterfall(tuple(changes), scale.unit)
