"""What does the adapter cost, and what does LoRA save by it? Report to the section that answers.

    LoRA's step = full step - what LoRA leaves out + what the adapter path adds

The account is of the step without the profiler, where the prediction is made: its rows add up to the difference of the
two steps exactly. The paths below it are of the profiled step, as all other tables.
"""

from loraprof import units
from loraprof.model.report import Adapter, Interval, Report, Step, TimingReport
from loraprof.model.vocabulary import ADAPTER_ROLES
from loraprof.report.document import Block, Cell, Column, Facts, Paragraph, Row, Section, Table
from loraprof.report.views import tables


def adapter_section(report: Report, step: Step | None) -> Section:
    a = report.adapter
    if a is None:
        text = "No adapter was found, or the input does not show one."
        return Section("adapter", "The adapter's share", (Paragraph(text),))
    rank = units.count(a.rank) if a.rank is not None else _ranks(a)
    aside = f"{units.count(a.modules)} layers, rank {rank}, {a.dtype or 'mixed dtypes'}"
    account = _account(a, report.timing)
    blocks: list[Block] = [account] if account else []
    if step:
        blocks.append(_paths(step))
    lines = [
        ("launches", units.count(a.launches)),
        ("work", f"{units.flops(a.flops)}, {units.nbytes(a.min_bytes)} at least"),
        ("full step", _predicted(a.predicted_full_ns, a.predicted_full_interval)),
        ("frozen step", _predicted(a.predicted_frozen_ns, a.predicted_frozen_interval)),
    ]
    return Section("adapter", "The adapter's share", (*blocks, Facts(tuple(lines))), aside)


def _ranks(a: Adapter) -> str:
    return ", ".join(f"{rank} ({layers})" for rank, layers in a.ranks.items()) if a.ranks else units.NA


def _predicted(value_ns: int | None, interval: Interval | None) -> str:
    if value_ns is None:
        return units.NA
    bounds = (interval.low, interval.high) if interval else (None, None)
    return f"{units.ns_interval(value_ns, *bounds)}, predicted"


def _account(a: Adapter, timing: TimingReport) -> Table | None:
    """None where no full step is predicted: then nothing is known of what LoRA saves."""
    if a.predicted_full_ns is None or timing.unprofiled is None:
        return None
    s, lora_ns = a.savings, timing.unprofiled.median_ns
    saved = (
        ("saved: weight gradients of the frozen layers", s.wgrad_ns),
        ("saved: optimizer", s.optimizer_ns),
        ("saved: gradient clipping", s.grad_clip_ns),
        ("saved: communication", s.comm_ns),
    )
    difference_ns = lora_ns - a.predicted_full_ns
    added_ns = difference_ns + sum(ns or 0 for _, ns in saved)
    scale = units.ns_scale([added_ns, *(ns for _, ns in saved if ns is not None)])

    def row(what: str, change_ns: int | None, tone: str = "") -> Row:
        head = Cell(what, tone=tone)
        if change_ns is None:
            return head, Cell(units.NA), Cell(units.NA)
        return head, Cell(scale(change_ns, signed=True), change_ns), tables.share_cell(abs(change_ns), lora_ns)

    rows = [row(what, None if ns is None else -ns, "good") for what, ns in saved]
    rows.append(row("added: adapter path, idle time included", added_ns, "adapter"))
    columns = (
        Column("against full fine-tuning, without the profiler", "against full fine-tuning"),
        Column(scale.unit, number=True),
        Column("% of step", "%", number=True),
    )
    return Table(columns, tuple(rows), (row("LoRA instead of full fine-tuning", difference_ns),))


def _paths(step: Step) -> Table:
    scale = units.ns_scale([step.ns(role=role) for role in ADAPTER_ROLES])
    columns = (
        Column(f"path, profiled, {scale.unit}"),
        *(Column(head, number=True) for head in ("busy", "idle", "total")),
        Column("events", number=True),
        Column("% of step", "%", number=True),
    )
    rows = []
    for role in ADAPTER_ROLES:
        events = sum(p.events for p in step.partition if p.kind == "busy" and p.role == role)
        times = (step.ns(kind="busy", role=role), step.ns(kind="idle", role=role), step.ns(role=role))
        cells = (tables.time_cell(scale, t) for t in times)
        share = tables.share_cell(times[2], step.wall_ns)
        rows.append((Cell(role, tone="adapter"), *cells, Cell(units.count(events), events), share))
    return Table(columns, tuple(rows))
