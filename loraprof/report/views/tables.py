"""Which rows do the tables show? Phase by role, idle causes, kernels, modules, traffic, steps.

Every table shares one unit per column so that its numbers line up; what is cut off a list is summed up in a
last row, so a column always adds up to what it is a share of.
"""

from collections.abc import Iterable, Sequence

from loraprof import units
from loraprof.model.report import Kernel, ModuleRow, Part, Report, Step, Traffic
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASES
from loraprof.report.document import Cell, Column, Row, Table, numbers, table_of
from loraprof.report.palette import CAUSE_TONES, CAUSE_WORDS, CPU_CAUSE_WORDS, ROLE_TONES
from loraprof.report.views.kernel_names import labels

ABOVE = 1.02  # of the memory's rate
KNOWN = 0.9  # of a role's busy time: less, and a sentence about its bytes would be a guess
_SHORT_PHASE = {"forward": "fwd", "backward": "bwd", "recompute": "recomp", "optimizer": "optim"}


def cell(text: str, value: float | None = None, tone: str = "") -> Cell:
    return Cell(text, value, tone=tone)


def time_cell(scale: units.Scale, value_ns: int | None) -> Cell:
    """Zero is left blank: in a grid the empty places carry the picture."""
    return Cell("" if value_ns == 0 else scale(value_ns), value_ns)


def share_cell(part_ns: int, whole_ns: int, decimals: int = 1) -> Cell:
    return Cell(units.percent(part_ns / whole_ns if whole_ns else None, decimals), part_ns)


def role_cell(role: str) -> Cell:
    return cell(role, tone=ROLE_TONES.get(role, "rest"))


def _sum(parts: Iterable[Part]) -> int:
    return sum(p.ns for p in parts)


def phase_roles(step: Step) -> Table:
    """Rows are roles, columns phases: busy time; then the idle time charged to the role, and the total."""
    phases = [p for p in PHASES if step.ns(kind="busy", phase=p)]
    roles = sorted({p.role for p in step.partition if p.ns}, key=lambda role: (-step.ns(role=role), role))
    scale = units.ns_scale([step.wall_ns])
    busy = [p for p in step.partition if p.kind == "busy"]

    def row(head: Cell, chosen: Sequence[str]) -> Row:
        selected = [p for p in busy if p.role in chosen]
        idle_ns = _sum(p for p in step.partition if p.kind == "idle" and p.role in chosen)
        return (
            head,
            *(time_cell(scale, _sum(p for p in selected if p.phase == phase)) for phase in phases),
            time_cell(scale, idle_ns),
            time_cell(scale, _sum(selected) + idle_ns),
            share_cell(_sum(selected) + idle_ns, step.wall_ns),
        )

    columns = (
        Column(f"role, {scale.unit}", elastic=True),
        *(numbers(p, _SHORT_PHASE.get(p, p)) for p in phases),
        numbers("idle before", "idle", drop=1),
        numbers("total"),
        numbers("% of step", "%"),
    )
    rows = tuple(row(role_cell(role), [role]) for role in roles)
    total = row(cell("step"), roles)
    shares = [share_cell(int(c.value or 0), step.wall_ns, 0) for c in total[1:-1]]
    return Table(columns, rows, (total, (cell("% of step"), *shares, cell(""))))


def idle_causes(step: Step, *, cpu: bool) -> Table:
    """Idle time by cause, and what it mostly waited for."""
    words = CPU_CAUSE_WORDS if cpu else CAUSE_WORDS
    idle = [p for p in step.partition if p.kind == "idle" and p.ns]
    scale = units.ns_scale([_sum(idle)])
    causes = sorted({p.cause or "unknown" for p in idle}, key=lambda c: (-step.ns(kind="idle", cause=c), c))
    rows = []
    for cause in causes:
        selected = [p for p in idle if p.cause == cause]
        most = max(selected, key=lambda p: p.ns)
        rows.append(
            (
                cell(cause, tone=CAUSE_TONES[cause]),
                cell(words[cause]),
                time_cell(scale, _sum(selected)),
                share_cell(_sum(selected), step.wall_ns),
                Cell(units.count(sum(p.events for p in selected)), sum(p.events for p in selected)),
                cell(f"{most.role}, {most.phase}"),
            )
        )
    gaps = sum(p.events for p in idle)
    total = (
        cell("idle"),
        cell(""),
        time_cell(scale, _sum(idle)),
        share_cell(_sum(idle), step.wall_ns),
        Cell(units.count(gaps), gaps),
        cell(""),
    )
    columns = (
        Column("cause"),
        Column("meaning", drop=1, elastic=True, gloss=True),
        numbers(scale.unit),
        numbers("% of step", "%"),
        numbers("gaps"),
        Column("mostly before"),
    )
    return Table(columns, tuple(rows), (total,))


def _merged(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """Kernels of one name, role and phase, over all modules, longest first."""
    groups: dict[tuple[str, str, str], list[Kernel]] = {}
    for k in kernels:
        groups.setdefault((k.name, k.role, k.phase), []).append(k)
    return sorted(groups.values(), key=lambda g: (-sum(k.total_ns for k in g), g[0].name, g[0].role))


def _roof(group: Sequence[Kernel]) -> Cell:
    """Share of the roof reached: roof time / time; unknown unless every part has a roof. Above it, what explains it."""
    roofs = [k.roof_ns for k in group if k.roof_ns is not None]
    total_ns = sum(k.total_ns for k in group)
    if len(roofs) != len(group) or not total_ns:
        return cell(units.NA)
    notes = sorted({k.note for k in group if k.note})
    reached = sum(roofs) / total_ns
    explained = notes and "impossible" not in notes and reached > 1
    words = notes if explained else [units.percent(reached, 0), *(n for n in notes if n == "impossible")]
    return Cell(", ".join(words), reached)


def kernel_table(report: Report, limit: int = 10) -> Table:
    """The longest kernels (CPU: ops) of the reported step."""
    step = report.step()
    whole_ns = step.wall_ns if step else 0
    groups = _merged(report.kernels)
    scale = units.ns_scale([sum(k.total_ns for k in g) for g in groups[:1]])
    shown, rest = groups[:limit], groups[limit:]
    rows = []
    for group, name in zip(shown, labels([g[0].name for g in shown]), strict=True):
        first = group[0]
        total_ns, count = sum(k.total_ns for k in group), sum(k.count for k in group)
        bounds = {k.bound for k in group}
        rows.append(
            (
                Cell(name, full=first.name),
                role_cell(first.role),
                Cell(_SHORT_PHASE.get(first.phase, first.phase), full=first.phase),
                Cell(units.count(count), count),
                time_cell(scale, total_ns),
                share_cell(total_ns, whole_ns),
                cell(bounds.pop() if len(bounds) == 1 else "mixed"),
                _roof(group),
            )
        )
    columns = (
        Column("op" if report.source.device == "cpu" else "kernel", elastic=True),
        Column("role"),
        Column("phase", drop=1),  # stays longest: it tells rows of one op and role apart
        numbers("count", "n"),
        numbers(scale.unit),
        numbers("% of step", "%"),
        Column("bound", drop=2),
        numbers("of roof", "roof"),
    )
    return Table(columns, tuple(rows), (_rest_row(rest, scale, whole_ns),) if rest else ())


def _rest_row(rest: Sequence[Sequence[Kernel]], scale: units.Scale, whole_ns: int) -> Row:
    rest_ns, count = sum(k.total_ns for g in rest for k in g), sum(k.count for g in rest for k in g)
    name = cell(f"{units.count(len(rest))} more")
    times = (Cell(units.count(count), count), time_cell(scale, rest_ns), share_cell(rest_ns, whole_ns))
    return (name, cell(""), cell(""), *times, cell(""), cell(""))


def module_table(modules: Sequence[ModuleRow], limit: int = 40) -> Table:
    """Modules by the time of their step, busy and idle."""
    ordered = sorted(modules, key=lambda m: (-(m.busy_ns + m.idle_ns), m.path, m.role))[:limit]
    scale = units.ns_scale([m.busy_ns for m in ordered])
    return table_of(
        ordered,
        (Column("module", elastic=True), lambda m: cell(m.path)),
        (Column("role"), lambda m: role_cell(m.role)),
        (numbers(f"busy, {scale.unit}"), lambda m: time_cell(scale, m.busy_ns)),
        (numbers(f"idle, {scale.unit}"), lambda m: time_cell(scale, m.idle_ns)),
        (numbers("launches"), lambda m: Cell(units.count(m.launches), m.launches)),
    )


def traffic_sentence(traffic: Sequence[Traffic], step: Step) -> str | None:
    """The adapter's bytes against the frozen layers'; None unless both are known for nine tenths of their time."""
    rows = {t.role: t for t in traffic}
    roles = [role for role in ADAPTER_ROLES if step.ns(kind="busy", role=role)]
    known_ns = {role: rows[role].covered_ns if role in rows else 0 for role in (*roles, "base.linear")}
    if any(ns < KNOWN * step.ns(kind="busy", role=role) for role, ns in known_ns.items()):
        return None
    moved = {role: rows[role].min_bytes if role in rows else 0 for role in known_ns}
    base = moved.pop("base.linear")
    selected = sum(moved.values())
    if not base or not selected:
        return None
    share = units.percent(moved.get("adapter.elementwise", 0) / selected, 0)
    return (
        f"The adapter moves {units.ratio(selected / base, 1)} the bytes of the frozen linear layers, {share} of it in "
        "scale, add, dropout and casts."
    )


def traffic_table(traffic: Sequence[Traffic], ceiling: float | None = None, limit: int = 8) -> Table:
    """Memory traffic by role: compulsory bytes, and the rate at which they moved; marked where the memory's own
    ``ceiling`` is lower, as caches hand some of them over."""
    ordered = sorted((t for t in traffic if t.min_bytes), key=lambda t: (-t.min_bytes, t.role))
    columns = (
        Column("role"),
        numbers("bytes at least", "bytes"),
        numbers("with L2 reuse", "with L2", drop=1),
        numbers("share"),
        numbers("achieved"),
        numbers("of its time known", "known"),
    )
    rows = tuple(_traffic_row(role_cell(t.role), [t], ceiling) for t in ordered[:limit])
    rest = ordered[limit:]
    more = _traffic_row(cell(f"{units.count(len(rest))} more"), rest, ceiling)
    return Table(columns, rows, ((more,) if rest else ()) + (_traffic_row(cell("step"), ordered, ceiling),))


def _traffic_row(head: Cell, chosen: Sequence[Traffic], ceiling: float | None) -> Row:
    moved, busy_ns, covered_ns = (sum(getattr(t, f) for t in chosen) for f in ("min_bytes", "busy_ns", "covered_ns"))
    reused = [t.l2_bytes for t in chosen if t.l2_bytes is not None]
    l2_bytes = sum(reused) if len(reused) == len(chosen) else None
    times = [t.min_bytes / t.bytes_per_s for t in chosen if t.bytes_per_s]
    rate = moved / sum(times) if times and len(times) == len(chosen) else None
    share = sum(t.share for t in chosen if t.share is not None)
    return (
        head,
        Cell(units.nbytes(moved), moved),
        Cell(units.nbytes(l2_bytes), l2_bytes),
        Cell(units.percent(share), share),
        Cell(units.bytes_per_s(rate) + (" cached" if rate and ceiling and rate > ABOVE * ceiling else ""), rate),
        Cell(units.percent(covered_ns / busy_ns if busy_ns else None, 0), covered_ns),
    )


def step_table(steps: Sequence[Step]) -> Table:
    """Every profiled step: busy and idle add up to its window."""
    scale = units.ns_scale([s.wall_ns for s in steps])

    def time(head: str) -> Column:
        return numbers(f"{head}, {scale.unit}", head)

    return table_of(
        steps,
        (Column("step"), lambda s: cell(s.name)),
        (time("window"), lambda s: time_cell(scale, s.wall_ns)),
        (time("busy"), lambda s: time_cell(scale, s.ns(kind="busy"))),
        (time("idle"), lambda s: time_cell(scale, s.ns(kind="idle"))),
        (numbers("launches"), lambda s: Cell(units.count(s.launches.count if s.launches else None))),
    )
