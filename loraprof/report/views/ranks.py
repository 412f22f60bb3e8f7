"""What is shown of many ranks and of what they send? As much for a thousand ranks as for two.

Ranks are rows only as the slowest and the fastest; the others are quantiles. Every table shares one unit per figure.
"""

from collections.abc import Sequence

from loraprof import units
from loraprof.model.ranks import ClockAlignment, CollectiveRow, Communication, RankRow, RankSummary, Spread, Straggler
from loraprof.report.document import Block, Cell, Column, Facts, Paragraph, Row, Section, Table, numbers, table_of
from loraprof.report.views.tables import role_cell, share_cell

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
        *(numbers(title) for _, title, _ in FIGURES),
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

    def skew_ns(spread: Spread) -> int:
        return spread.max_ns - spread.min_ns

    return table_of(
        summary.phases,
        (Column(f"own work by phase, {scale.unit}"), lambda s: Cell(s.what)),
        (numbers("least"), lambda s: Cell(scale(s.min_ns), s.min_ns)),
        (numbers("of rank", drop=1), lambda s: Cell(str(s.min_rank), s.min_rank)),
        (numbers("median"), lambda s: Cell(scale(s.median_ns), s.median_ns)),
        (numbers("most"), lambda s: Cell(scale(s.max_ns), s.max_ns)),
        (numbers("of rank", drop=1), lambda s: Cell(str(s.max_rank), s.max_rank)),
        (numbers("skew"), lambda s: Cell(scale(skew_ns(s)), skew_ns(s))),
        (numbers("% of step", "%"), lambda s: share_cell(skew_ns(s), step.median_ns)),
    )


def difference_table(summary: RankSummary) -> Table:
    """Where the slowest rank spends more than the median rank."""
    scale = units.ns_scale([d.ns for d in summary.differences])
    what = Column(f"rank {summary.slowest} spends longer on")
    return table_of(
        summary.differences,
        (what, lambda d: Cell(d.what if d.kind == "busy" else f"idle: {d.what}")),
        (Column("phase"), lambda d: Cell(d.phase)),
        (Column("role"), lambda d: role_cell(d.role)),
        (numbers(f"here, {scale.unit}", "here"), lambda d: Cell(scale(d.ns), d.ns)),
        (numbers("median"), lambda d: Cell(scale(d.median_ns), d.median_ns)),
        (numbers("more"), lambda d: Cell(scale(d.ns - d.median_ns, signed=True), d.ns - d.median_ns)),
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
    gradients = ("LoRA", _saved_traffic(communication)) if adapted else ("gradients", _reduced_traffic(communication))
    lines = [(label, words) for label, words in (gradients, ("bandwidth", _basis(communication))) if words]
    if lines:
        blocks.append(Facts(tuple(lines)))
    aside = f"{units.ns(communication.exposed_ns)} exposed, {units.ns(communication.overlapped_ns)} hidden"
    return Section("communication", "Communication", tuple(blocks), aside)


def collective_table(rows: Sequence[CollectiveRow]) -> Table:
    scale = units.ns_scale([ns for r in rows for ns in (r.exposed_ns, r.overlapped_ns)])
    algorithm, bus = numbers("algorithm bandwidth", "alg bw", drop=1), numbers("bus bandwidth", "bus bw")
    return table_of(
        rows,
        (
            Column("collective"),
            lambda r: Cell(r.name, full=f"{r.name}, group {r.group}" if r.group else "", tone="comm"),
        ),
        (numbers("ranks"), lambda r: Cell(units.count(r.group_size), r.group_size)),
        (numbers("count", "n"), lambda r: Cell(units.count(r.count), r.count)),
        (numbers("bytes"), lambda r: Cell(units.nbytes(r.bytes), r.bytes)),
        (numbers("median", drop=2), lambda r: Cell(units.nbytes(r.median_bytes), r.median_bytes)),
        (numbers(f"exposed, {scale.unit}", "exposed"), lambda r: Cell(scale(r.exposed_ns), r.exposed_ns)),
        (numbers(f"hidden, {scale.unit}", "hidden"), lambda r: Cell(scale(r.overlapped_ns), r.overlapped_ns)),
        (algorithm, lambda r: Cell(units.bytes_per_s(r.algorithm_bytes_per_s), r.algorithm_bytes_per_s)),
        (bus, lambda r: Cell(units.bytes_per_s(r.bus_bytes_per_s), r.bus_bytes_per_s)),
    )


def _saved_traffic(communication: Communication) -> str:
    """What of the traffic is the gradients', and what is not."""
    if communication.strategy is None or communication.saved_bytes is None:
        return ""
    saved = units.nbytes(communication.saved_bytes) if communication.saved_bytes else "none"
    words = f"saves {saved} of the {units.nbytes(communication.full_reduced_bytes)} of gradients that "
    words += f"full fine-tuning reduces per step, and reduces {units.nbytes(communication.reduced_bytes)}"
    if communication.strategy == "sharded":
        words += f"; the {units.nbytes(communication.gathered_bytes)} of gathered weights it does not save"
    return words


def _reduced_traffic(communication: Communication) -> str:
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
    waiting_too = [row.name for row in known if row.basis == "this rank"]
    if not waiting_too:
        return "bytes over the time on the rank that came last to each, which did not wait" if known else ""
    waiting = "at least: bytes over the time on this rank, waiting for the others included"
    if len(waiting_too) == len(known):
        return waiting
    some = ", ".join(dict.fromkeys(waiting_too))
    return f"bytes over the time on the rank that came last to each, which did not wait; {some} {waiting}"
