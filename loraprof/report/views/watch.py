"""What does a watched training show? Its pace, and every shift of it with what shifted too; pure."""

from loraprof import units
from loraprof.model.watch import Moved, Shift, Watch
from loraprof.report.document import Cell, Column, Document, Facts, Section, Table, numbers, table_of


def view_watch(watch: Watch) -> Document:
    """Everything a renderer prints about it."""
    facts = [
        ("input", f"{watch.script} · {watch.device_name} · {units.count(watch.steps)} steps"),
        ("step", _pace(watch)),
        ("cost", f"watching took {units.ns(watch.cost_ns)} per step{_share(watch)}"),
    ]
    facts += [(name, path) for name, path in (("before", watch.before), ("after", watch.after)) if path]
    sections = []
    if watch.shifts:
        sections.append(Section("shifts", "Shifts of the step time", (_table(watch.shifts),)))
    if watch.notes:
        sections.append(Section("notes", "Notes", (Facts(tuple(("note", note) for note in watch.notes)),)))
    return Document(f"loraprof watch: {watch.script}", headline(watch), tuple(facts), tuple(sections))


def headline(watch: Watch) -> str:
    """How often the step time shifted, and the largest shift."""
    if watch.median_ns is None:
        return "Too few steps to tell."
    if not watch.shifts:
        return f"The step time stayed at {units.ns(watch.median_ns)}: no shift beyond its noise."
    largest = max(watch.shifts, key=lambda s: abs(s.after_ns / s.before_ns - 1))
    count = len(watch.shifts)
    times = "once" if count == 1 else f"{units.count(count)} times"
    most = "" if count == 1 else ", most"
    where = f"at step {units.count(largest.step)}"
    return f"The step time shifted {times}{most} {where}: {_change(largest)}; {_shifted_with(largest)}."


def _change(shift: Shift) -> str:
    more = shift.after_ns / shift.before_ns - 1
    percent = units.percent(abs(more))
    return f"from {units.ns(shift.before_ns)} to {units.ns(shift.after_ns)}, {percent} {'more' if more > 0 else 'less'}"


def _shifted_with(shift: Shift) -> str:
    if not shift.moved:
        return "nothing else that was watched shifted with it"
    return "with it: " + ", ".join(_change_of(m) for m in shift.moved)


def _change_of(moved: Moved) -> str:
    old, new = (units.quantity(value, moved.unit) for value in (moved.before, moved.after))
    return f"{moved.what} {old} to {new}"


def _pace(watch: Watch) -> str:
    if watch.median_ns is None:
        return units.NA
    interval = f"{units.ns(watch.low_ns)} to {units.ns(watch.high_ns)}"
    return f"median {units.ns(watch.median_ns)} ({interval}), {units.count(watch.warmup)} steps of warm-up left out"


def _share(watch: Watch) -> str:
    return f", {units.percent(watch.cost_ns / watch.median_ns)} of it" if watch.median_ns else ""


def _table(shifts: list[Shift]) -> Table:
    return table_of(
        shifts,
        (numbers("step"), lambda s: Cell(units.count(s.step), s.step)),
        (numbers("after"), lambda s: Cell(units.ns(s.at_ns), s.at_ns)),
        (numbers("from"), lambda s: Cell(units.ns(s.before_ns), s.before_ns)),
        (numbers("to"), lambda s: Cell(units.ns(s.after_ns), s.after_ns)),
        (numbers("change"), lambda s: Cell(units.ratio(s.after_ns / s.before_ns), s.after_ns / s.before_ns)),
        (
            Column("with", elastic=True),
            lambda s: Cell(", ".join(map(_change_of, s.moved)) or "nothing else", full=_shifted_with(s)),
        ),
    )
