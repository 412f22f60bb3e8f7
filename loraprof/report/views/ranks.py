"""What is shown of many ranks and of what they send? As much for a thousand ranks as for two.

Ranks are rows only as the slowest and the fastest; the others are quantiles. Every table shares one unit per figure.
"""

from collections.abc import Sequence

from loraprof import units
from loraprof.model.ranks import (
    ClockAlignment,
    CollectiveRow,
    Communication,
    Difference,
    RankRow,
    RankSummary,
    Spread,
    Straggler,
)
from loraprof.report.document import Block, Cell, Column, Facts, Paragraph, Row, Section, Table
from loraprof.report.palette import ROLE_TONES

FIGURES = (
    ("step", "step", "wall_ns"),
    ("own", "own work", "own_ns"),
    ("busy", "busy", "busy_ns"),
    ("exposed_comm", "exposed comm", "exposed_comm_ns"),
    ("overlapped_comm", "hidden comm", "overlapped_comm_ns"),
    ("idle", "idle", "idle_ns"),
)


def ranks_section(summary: RankSummary, rows: Sequence[RankRow]) -> Section:
    """The slowest rank and why, the spread of every figure, the skew of the phases, clocks and stragglers."""
    blocks: list[Block] = [Paragraph(summary.sentence), figure_table(summary, rows), skew_table(summary)]
    if summary.differences:
        blocks.append(difference_table(summary))
    blocks.append(Facts(tuple(_facts(summary))))
    aside = f"{summary.step}; own work is the step less exposed communication"
    return Section("ranks", "Ranks", tuple(blocks), aside)


def figure_table(summary: RankSummary, rows: Sequence[RankRow]) -> Table:
    """Two ranks and two quantiles, whatever the number of ranks."""
    spreads = {spread.what: spread for spread in summary.spreads}
    scale = units.ns_scale([spread.max_ns for spread in summary.spreads])
    columns = (
        Column(f"{units.count(summary.count)} ranks, {scale.unit}"),
        *(Column(title, number=True) for _, title, _ in FIGURES),
    )
    by_rank = {row.rank: row for row in rows}

    def of_rank(word: str, rank: int) -> Row:
        times = (getattr(by_rank[rank], field) for _, _, field in FIGURES)
        return (Cell(f"{word}: rank {rank}"), *(Cell(scale(ns), ns) for ns in times))

    def over_all(word: str, field: str) -> Row:
        times = (getattr(spreads[what], field) for what, _, _ in FIGURES)
        return (Cell(word), *(Cell(scale(ns), ns) for ns in times))

    shown = [of_rank("slowest", summary.slowest)]
    if summary.fastest != summary.slowest:
        shown.append(of_rank("fastest", summary.fastest))
    return Table(columns, (*shown, over_all("median", "median_ns"), over_all("90 % of ranks below", "p90_ns")))


def skew_table(summary: RankSummary) -> Table:
    """How far the ranks lie apart in each phase's own work."""
    step = next(spread for spread in summary.spreads if spread.what == "step")
    scale = units.ns_scale([spread.max_ns for spread in summary.phases])
    columns = (
        Column(f"own work by phase, {scale.unit}"),
        Column("least", number=True),
        Column("of rank", number=True, drop=1),
        Column("median", number=True),
        Column("most", number=True),
        Column("of rank", number=True, drop=1),
        Column("skew", number=True),
        Column("% of step", "%", number=True),
    )
    return Table(columns, tuple(_skew_row(spread, scale, step.median_ns) for spread in summary.phases))


def _skew_row(spread: Spread, scale: units.Scale, whole_ns: int) -> Row:
    skew = spread.max_ns - spread.min_ns
    return (
        Cell(spread.what),
        Cell(scale(spread.min_ns), spread.min_ns),
        Cell(str(spread.min_rank), spread.min_rank),
        Cell(scale(spread.median_ns), spread.median_ns),
        Cell(scale(spread.max_ns), spread.max_ns),
        Cell(str(spread.max_rank), spread.max_rank),
        Cell(scale(skew), skew),
        Cell(units.percent(skew / whole_ns if whole_ns else None), skew),
    )


def difference_table(summary: RankSummary) -> Table:
    """Where the slowest rank spends more than the median rank."""
    scale = units.ns_scale([d.ns for d in summary.differences])
    columns = (
        Column(f"rank {summary.slowest} spends longer on"),
        Column("phase"),
        Column("role"),
        Column(f"here, {scale.unit}", "here", number=True),
        Column("median", number=True),
        Column("more", number=True),
    )
    return Table(columns, tuple(_difference_row(d, scale) for d in summary.differences))


def _difference_row(d: Difference, scale: units.Scale) -> Row:
    more = d.ns - d.median_ns
    return (
        Cell(d.what if d.kind == "busy" else f"idle: {d.what}"),
        Cell(d.phase),
        Cell(d.role, tone=ROLE_TONES.get(d.role, "rest")),
        Cell(scale(d.ns), d.ns),
        Cell(scale(d.median_ns), d.median_ns),
        Cell(scale(more, signed=True), more),
    )


def _facts(summary: RankSummary) -> list[tuple[str, str]]:
    lines = [("steps", f"of one rank differ by {units.ns(summary.step_spread_ns)}")]
    if summary.missing:
        lines.append(("missing", f"{units.named('rank', summary.missing)} of {units.count(summary.world)}"))
    if summary.clocks is not None:
        lines.append(("clocks", _clocks(summary.clocks)))
    if summary.stragglers is not None:
        lines.append(("last", _stragglers(summary.stragglers)))
    return lines


def _clocks(clocks: ClockAlignment) -> str:
    if clocks.residual_ns is None:
        return "not aligned: no two ranks share a collective; durations only are compared"
    if clocks.one_machine:
        return f"one machine, one clock; its ranks leave a collective within {units.ns(clocks.residual_ns)}, by median"
    words = f"aligned on {units.count(clocks.collectives)} collectives, offsets up to "
    words += f"{units.ns(clocks.largest_offset_ns)}, residual {units.ns(clocks.residual_ns)}"
    limit = f" (limit {units.ns(clocks.limit_ns)}): times of different ranks are not compared"
    return words if clocks.usable else words + limit


def _stragglers(stragglers: Sequence[Straggler]) -> str:
    """Who the others wait for at collectives."""
    if not stragglers:
        return "no rank comes to a collective later than the clocks can tell"
    return "over all steps: " + " · ".join(
        f"rank {s.rank} at {units.count(s.last)} of {units.count(s.of)} collectives, "
        f"{units.ns(s.late_ns)} after the median rank in all"
        for s in stragglers
    )


def communication_section(communication: Communication, adapted: bool) -> Section:
    """Every kind of collective with its size, what of it is exposed, and its bandwidth; then what LoRA saves."""
    blocks: list[Block] = [collective_table(communication.collectives)]
    gradients = ("LoRA", _saved(communication)) if adapted else ("gradients", _reduced(communication))
    lines = [(label, words) for label, words in (gradients, ("bandwidth", _basis(communication))) if words]
    if lines:
        blocks.append(Facts(tuple(lines)))
    aside = f"{units.ns(communication.exposed_ns)} exposed, {units.ns(communication.overlapped_ns)} hidden"
    return Section("communication", "Communication", tuple(blocks), aside)


def collective_table(rows: Sequence[CollectiveRow]) -> Table:
    scale = units.ns_scale([ns for r in rows for ns in (r.exposed_ns, r.overlapped_ns)])
    columns = (
        Column("collective"),
        Column("ranks", number=True),
        Column("count", "n", number=True),
        Column("bytes", number=True),
        Column("median", number=True, drop=2),
        Column(f"exposed, {scale.unit}", "exposed", number=True),
        Column(f"hidden, {scale.unit}", "hidden", number=True),
        Column("algorithm bandwidth", "alg bw", number=True, drop=1),
        Column("bus bandwidth", "bus bw", number=True),
    )
    return Table(columns, tuple(_collective_row(r, scale) for r in rows))


def _collective_row(r: CollectiveRow, scale: units.Scale) -> Row:
    return (
        Cell(r.name, full=f"{r.name}, group {r.group}" if r.group else "", tone="comm"),
        Cell(units.count(r.group_size), r.group_size),
        Cell(units.count(r.count), r.count),
        Cell(units.nbytes(r.bytes), r.bytes),
        Cell(units.nbytes(r.median_bytes), r.median_bytes),
        Cell(scale(r.exposed_ns), r.exposed_ns),
        Cell(scale(r.overlapped_ns), r.overlapped_ns),
        Cell(units.bytes_per_s(r.algorithm_bytes_per_s), r.algorithm_bytes_per_s),
        Cell(units.bytes_per_s(r.bus_bytes_per_s), r.bus_bytes_per_s),
    )


def _saved(communication: Communication) -> str:
    """What of the traffic is the gradients', and what is not."""
    if communication.strategy is None or communication.saved_bytes is None:
        return ""
    saved = units.nbytes(communication.saved_bytes) if communication.saved_bytes else "none"
    words = f"saves {saved} of the {units.nbytes(communication.full_reduced_bytes)} of gradients that "
    words += f"full fine-tuning reduces per step, and reduces {units.nbytes(communication.reduced_bytes)}"
    if communication.strategy == "sharded":
        words += f"; the {units.nbytes(communication.gathered_bytes)} of gathered weights it does not save"
    return words


def _reduced(communication: Communication) -> str:
    """The same of a step without adapters."""
    if communication.strategy is None:
        return ""
    words = f"{units.nbytes(communication.reduced_bytes)} reduced per step"
    return (
        f"{words}, {units.nbytes(communication.gathered_bytes)} of weights gathered"
        if communication.strategy == "sharded"
        else words
    )


def _basis(communication: Communication) -> str:
    """What the times behind the bandwidths are."""
    known = [row for row in communication.collectives if row.algorithm_bytes_per_s is not None]
    here = [row.name for row in known if row.basis == "this rank"]
    if not here:
        return "bytes over the time on the rank that came last to each, which did not wait" if known else ""
    waiting = "at least: bytes over the time on this rank, waiting for the others included"
    if len(here) == len(known):
        return waiting
    some = ", ".join(dict.fromkeys(here))
    return f"bytes over the time on the rank that came last to each, which did not wait; {some} {waiting}"
