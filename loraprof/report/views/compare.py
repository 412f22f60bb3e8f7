"""What does a comparison show? Arms, ratios with intervals, and the way from one arm's step to the other's; pure.

The waterfall adds up: bars below the largest ones are summed in one bar, so from + changes = to, exactly.
"""

from collections.abc import Sequence

from loraprof import units
from loraprof.model.compare import ArmResult, Bar, Comparison, PredictedRatio, Ratio
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
    numbers,
    table_of,
)
from loraprof.report.views.report import findings_section

_VERDICT_TONES = {"faster": "good", "slower": "bad", "undecided": "rest"}


def view_comparison(comparison: Comparison) -> Document:
    """Everything a renderer prints about a comparison."""
    c = comparison
    how = "interleaved" if c.interleaved else "NOT interleaved: machine state may differ between the arms"
    facts = [("input", f"{c.workload} · {c.device_name} · {how}")]
    facts += [("beware", f"{f.id}: {f.title}") for f in c.findings if f.severity == "blocker"]
    if c.ideal:
        ideal = units.ratio_interval(c.ideal.ratio, c.ideal.low, c.ideal.high)
        sure = "" if c.ideal.verdict == "slower" else ", within the noise"
        facts.append(("ideal", f"{ideal} the speed of full, if adapters cost nothing (full / frozen, measured{sure})"))
    if c.predicted:
        facts.append(("predicted", _predicted(c.predicted)))
    if c.missed:
        facts.append(("missed", c.missed))
    if c.recommendation:
        facts.append(("do", c.recommendation))
    return Document(f"loraprof compare: {c.workload}", headline(c), tuple(facts), tuple(_sections(c)))


def _predicted(found: PredictedRatio) -> str:
    """The interval, and whether what was measured lies in it."""
    text = f"{units.ratio_interval(found.full_over_lora, found.low, found.high)} (full / lora)"
    text += " from a disturbed profile pass" if found.disturbed else ""
    if found.error is None:
        return text
    measured = found.full_over_lora - found.error
    inside = found.low is not None and found.high is not None and found.low <= measured <= found.high
    return f"{text}; measured {units.ratio(measured)}, {'inside' if inside else 'outside'} that interval"


def headline(comparison: Comparison) -> str:
    """The measured answer in one sentence, for the pair of the waterfall or else the last ratio."""
    chosen = _chosen(comparison)
    if chosen is None:
        return "No two arms could be measured: there is nothing to compare."
    if chosen.verdict == "undecided":
        ratio = units.ratio_interval(chosen.ratio, chosen.low, chosen.high)
        return (
            f"No difference between {chosen.of} and {chosen.to} is established: "
            f"{chosen.of} takes {ratio} the time of {chosen.to}."
        )
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
        title = f"Step time against {c.ratios[0].to}"
        sections.append(Section("ratios", title, (_ratios(c.ratios),), f"noise floor {noise}"))
    sections += _extras(c)
    if c.waterfall:
        w = c.waterfall
        aside = f"{units.ns(w.to_ns - w.from_ns, signed=True)} per mean step"
        blocks: list[Waterfall | Paragraph] = [waterfall(w)]
        if w.residual_flagged:
            text = "What is not explained is more than a tenth of the difference: read the bars with care."
            blocks.append(Paragraph(text))
        sections.append(Section("waterfall", f"From {w.from_} to {w.to}", tuple(blocks), aside))
    if c.findings:
        sections.append(findings_section(c.findings))
    if c.notes:
        sections.append(Section("notes", "Notes", (Facts(tuple(("note", note) for note in c.notes)),)))
    return sections


def _arms(c: Comparison) -> Table:
    columns = (
        Column("arm"),
        numbers("step"),
        numbers("tokens/s"),
        numbers("peak memory", "peak"),
        numbers("trainable", drop=2),
        numbers("energy per step", "energy", drop=1),
        numbers("steps", drop=3),
    )
    return Table(columns, tuple(_arm(name, arm) for name, arm in c.arms.items()))


def _arm(name: str, arm: ArmResult) -> Row:
    if arm.status != "ok":
        reached = f", peak {units.nbytes(arm.peak_bytes)}" if arm.peak_bytes else ""
        why = f"{arm.status}{reached}: {arm.reason}" if arm.reason else f"{arm.status}{reached}"
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


def _extras(c: Comparison) -> list[Section]:
    """``--quality`` and ``--iso-memory``."""
    found = []
    if c.quality_steps is not None:
        rows = [(Cell(n), Cell(_losses(a.initial_loss)), Cell(_losses(a.final_loss))) for n, a in c.arms.items()]
        title = f"Loss in {units.count(c.quality_steps)} steps on a synthetic task"
        words = Paragraph("The weights are random: on a trained base, adapters may lag less than they do here.")
        table = _numbers(("first loss", "last loss"), rows)
        found.append(Section("quality", title, (table, words), "one number per seed"))
    if c.iso_limit_bytes is not None:
        table = _numbers(("largest batch", "tokens/s", "peak memory"), [_at_limit(n, a) for n, a in c.arms.items()])
        title = f"At equal memory: within {units.nbytes(c.iso_limit_bytes)}"
        found.append(Section("memory", title, (table,), "every batch measured"))
    return found


def _numbers(titles: Sequence[str], rows: Sequence[Row]) -> Table:
    return Table((Column("arm"), *(numbers(title) for title in titles)), tuple(rows))


def _losses(values: Sequence[float | None] | None) -> str:
    return units.NA if values is None else ", ".join("not finite" if v is None else units.number(v) for v in values)


def _at_limit(name: str, arm: ArmResult) -> Row:
    speeds = (arm.iso_tokens_per_s, arm.iso_low, arm.iso_high)
    middle, low, high = (units.count(None if v is None else round(v)) for v in speeds)
    speed = middle if arm.iso_tokens_per_s is None else f"{middle} [{low}, {high}]"
    return (
        Cell(name),
        Cell(units.count(arm.iso_batch), arm.iso_batch),
        Cell(speed, arm.iso_tokens_per_s),
        Cell(units.nbytes(arm.iso_peak_bytes), arm.iso_peak_bytes),
    )


def _ratios(ratios: Sequence[Ratio]) -> Table:
    speedup = numbers("speed-up")
    return table_of(
        ratios,
        (Column("arm"), lambda r: Cell(r.of)),
        (numbers("time"), lambda r: Cell(units.ratio_interval(r.ratio, r.low, r.high), r.ratio)),
        (speedup, lambda r: Cell(units.ratio_interval(1 / r.ratio, 1 / r.high, 1 / r.low), 1 / r.ratio)),
        (Column("verdict"), lambda r: Cell(r.verdict, tone=_VERDICT_TONES[r.verdict])),
    )


_NAMES = {
    "profiler": "profiling itself",
    "residual": "not explained",
    "wgrad": "weight gradients",
    "recompute": "checkpoint recompute",
    "optimizer": "optimizer",
    "grad_clip": "gradient clipping",
    "adapter.launches": "adapter launches, idle",
}


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
