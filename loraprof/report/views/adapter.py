"""What do the adapters cost, and what does LoRA save by them? Report to the sections that answer.

    LoRA's step = full step - what training the base takes + what the adapters add
    what the adapters add = LoRA's step - frozen step = their path + their optimizer and clipping + waits for these

All of the step without the profiler. Work that is not done any more also takes its launches and waits along, which
belong to none of its parts: they are a row of their own, so that rows add up to the difference of steps exactly.
"""

from loraprof import units
from loraprof.model.report import Adapter, Interval, Report, Step
from loraprof.model.vocabulary import ADAPTER_ROLES, Role
from loraprof.report.document import (
    Balance,
    Block,
    Cell,
    Column,
    Facts,
    Level,
    Paragraph,
    Row,
    Section,
    Shift,
    Table,
    numbers,
)
from loraprof.report.views import tables
from loraprof.report.views.answer import ranks

OWN_END: tuple[Role, ...] = ("optimizer", "grad_clip")


def account_section(report: Report) -> Section | None:
    """The account as two bars and what lies between them; None where no full step is predicted."""
    rows, a, now = saved_rows(report), report.adapter, report.timing.unprofiled
    if rows is None or a is None or now is None or a.predicted_full_ns is None or a.added_ns is None:
        return None
    scale = units.ns_scale([a.added_ns, *(ns for _, ns in rows)], 3)
    saved = [Shift(label, -ns, scale(-ns, signed=True)) for label, ns in rows if ns > 0 and scale(ns) != scale(0)]
    added = [Shift("adapters", a.added_ns, scale(a.added_ns, signed=True))]
    added += [Shift(label, -ns, scale(-ns, signed=True)) for label, ns in rows if ns < 0 and scale(ns) != scale(0)]
    before = Level("full fine-tuning", a.predicted_full_ns, units.ns(a.predicted_full_ns), "base")
    after = Level("LoRA", now.median_ns, units.ns(now.median_ns), "adapter")
    block = Balance(before, (("saved", tuple(saved)), ("added", tuple(added))), after)
    return Section("account", "Against full fine-tuning", (block,), brief=True)


def saved_rows(report: Report) -> list[tuple[str, int]] | None:
    """What the full step does beyond the frozen one, part by part; they sum to the difference of the two."""
    a = report.adapter
    if a is None or a.predicted_full_ns is None or a.predicted_frozen_ns is None:
        return None
    s = a.savings
    parts = (
        ("weight gradients", s.wgrad_ns),
        ("optimizer", s.optimizer_ns),
        ("clipping", s.grad_clip_ns),
        ("communication", s.comm_ns),
    )
    known = [(label, ns) for label, ns in parts if ns]
    rest = a.predicted_full_ns - a.predicted_frozen_ns - sum(ns for _, ns in known)
    return [*known, ("launches and waits" if rest > 0 else "overlap of what is saved", rest)] if rest else known


def adapter_section(report: Report, step: Step | None) -> Section:
    a = report.adapter
    if a is None:
        text = "No adapter was found, or the input does not show one."
        return Section("adapter", "The adapters", (Paragraph(text),))
    aside = f"{units.quantity(a.modules, 'layers')}, rank {ranks(a)}, {a.dtype or 'mixed dtypes'}"
    blocks: list[Block] = []
    if step:
        blocks.append(_paths(step, a))
    lines = [
        ("launches", units.count(a.launches)),
        ("work", f"{units.flops(a.flops)}, {units.nbytes(a.min_bytes)} at least"),
        ("full step", _predicted(a.predicted_full_ns, a.predicted_full_interval)),
        ("frozen step", _predicted(a.predicted_frozen_ns, a.predicted_frozen_interval)),
    ]
    return Section("adapter", "The adapters", (*blocks, Facts(tuple(lines))), aside)


def _predicted(value_ns: int | None, interval: Interval | None) -> str:
    if value_ns is None:
        return units.NA
    bounds = (interval.low, interval.high) if interval else (None, None)
    return f"{units.ns_interval(value_ns, *bounds)}, predicted"


def _paths(step: Step, a: Adapter) -> Table:
    """The path by role, then the training of its parameters, then what is left of what the adapters add."""
    scale = units.ns_scale([step.ns(role=role) for role in ADAPTER_ROLES])
    columns = (
        Column(f"adapters, {scale.unit}", "adapters"),
        *map(numbers, ("busy", "idle", "total")),
        numbers("events", drop=1),
        numbers("% of step", "%"),
    )

    def row(what: str, roles: tuple[Role, ...]) -> Row:
        events = sum(p.events for p in step.partition if p.kind == "busy" and p.role in roles)
        busy, idle = (sum(step.ns(kind=kind, role=role) for role in roles) for kind in ("busy", "idle"))
        cells = (tables.time_cell(scale, t) for t in (busy, idle, busy + idle))
        share = tables.share_cell(busy + idle, step.wall_ns)
        return (Cell(what, tone="adapter"), *cells, Cell(units.count(events), events), share)

    rows = [row(role, (role,)) for role in ADAPTER_ROLES]
    if a.added_ns is None:
        return Table(columns, tuple(rows))
    rows.append(row("their optimizer, clipping", OWN_END))
    left = a.added_ns - sum(step.ns(role=role) for role in (*ADAPTER_ROLES, *OWN_END))
    blank = Cell("")
    rest = "other waits" if left >= 0 else "what the frozen step does instead"
    for what, ns in ((rest, left), ("added: this step less the frozen one", a.added_ns)):
        share = Cell(units.percent(ns / step.wall_ns), ns)
        rows.append((Cell(what), blank, blank, Cell(scale(ns), ns), blank, share))
    return Table(columns, tuple(rows[:-1]), (rows[-1],))
