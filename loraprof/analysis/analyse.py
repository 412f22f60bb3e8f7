"""From a trace (and the recording around it) to everything a diagnosis needs: one pure function."""

import numpy as np
from msgspec import Struct, field

from loraprof.analysis.attribution.attribute import Attribution, attribute
from loraprof.analysis.attribution.graph_launches import GraphWork, graph_work
from loraprof.analysis.partition.completeness import closure_of
from loraprof.analysis.partition.cpu import split_cpu, split_unread
from loraprof.analysis.partition.gpu import DeviceWork, device_work, split, turnaround_floor
from loraprof.analysis.partition.host_state import Timeline, stood_in, timelines
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.trace.launch_links import Links, link
from loraprof.analysis.trace.step_windows import Marks, cpu_windows, finished, marks_of, windows
from loraprof.model.recording import Recording
from loraprof.model.report import Closure, Launches, Step
from loraprof.model.trace import NONE, Int64, Trace, distinct


class Analysis(Struct, frozen=True, eq=False):
    """Steps are those of the main device (the busiest); ``others`` holds further devices of the process."""

    trace: Trace
    recording: Recording | None
    links: Links
    attribution: Attribution
    marks: Marks
    ledgers: tuple[Ledger, ...]
    steps: tuple[Step, ...]
    others: dict[int, tuple[Step, ...]]
    reported: int | None  # index of the reported step: the one asked for, else that of the lower median window
    work: DeviceWork | None  # None: a CPU trace
    tau_ns: int
    floor_ns: int | None
    closure: Closure
    graphs: GraphWork | None = None  # None: no CUDA graph was launched
    timelines: dict[int, Timeline] = field(default_factory=dict)  # of the launching threads and the main thread

    @property
    def on_gpu(self) -> bool:
        return self.work is not None

    @property
    def unread(self) -> tuple[str, ...]:
        """Categories of the accelerator's records, where the trace holds no others: its steps are not explained."""
        return self.trace.unread if self.work is None else ()


def analyse(trace: Trace, recording: Recording | None = None, step: str | None = None) -> Analysis:
    """Never raises on a valid Trace; what is unknown is in ``closure.notes``. ``step`` names the one to report."""
    links, attribution = link(trace), attribute(trace, recording)
    marks = finished(marks_of(trace), recording.whole_steps if recording else None)
    tau, floor = turnaround_floor(trace, links), launch_floor(trace, links)
    graphs = graph_work(trace, links, attribution, marks, recording)
    notes = [*trace.notes, *attribution.notes, *([marks.note] if marks.note else []), *(graphs.notes if graphs else ())]
    if not len(trace.device):
        split_host = split_unread if trace.unread else split_cpu
        ledgers = tuple(split_host(trace, attribution, w) for w in cpu_windows(marks))
        steps = tuple(_step(ledger, attribution, None) for ledger in ledgers)
        reported = reported_step(steps, step)
        closure = closure_of(
            trace, recording, links, attribution, None if reported is None else ledgers[reported], notes
        )
        return Analysis(
            trace, recording, links, attribution, marks, ledgers, steps, {}, reported, None, tau, None, closure
        )
    shown = timelines(trace, links, marks.thread)
    states = stood_in(shown, marks.thread)
    busiest, per_device = None, {}
    for index in distinct(trace.device.device).tolist():
        on_device = trace.device.device == index
        work = device_work(trace, links, attribution, on_device, graphs)
        made = tuple(split(trace, work, w, states, tau) for w in windows(marks, trace, links, on_device))
        per_device[index] = (made, work)
        if busiest is None or _busy(made) > _busy(per_device[busiest][0]):
            busiest = index
    assert busiest is not None
    ledgers, work = per_device[busiest]
    steps = tuple(_step(ledger, attribution, _launches(trace, links, work, ledger, tau, floor)) for ledger in ledgers)
    others = {
        index: tuple(_step(ledger, attribution, _launches(trace, links, w, ledger, tau, floor)) for ledger in made)
        for index, (made, w) in per_device.items()
        if index != busiest
    }
    reported = reported_step(steps, step)
    closure = closure_of(trace, recording, links, attribution, None if reported is None else ledgers[reported], notes)
    return Analysis(
        trace, recording, links, attribution, marks, ledgers, steps, others, reported, work, tau, floor, closure,
        graphs, shown,
    )  # fmt: skip


def reported_step(steps: tuple[Step, ...], name: str | None = None) -> int | None:
    """Index of the step ``name``, else of that with the lower median window; the earlier of equals. None without.

    One without work is it only where all are: the last annotation of a profiler's schedule often holds none.
    """
    if not steps:
        return None
    named = [i for i, step in enumerate(steps) if step.name == name]
    if named:
        return named[0]
    working = [i for i, step in enumerate(steps) if step.ns(kind="busy")] or range(len(steps))
    order = sorted(working, key=lambda i: (steps[i].wall_ns, i))
    return order[(len(order) - 1) // 2]


def launch_floor(trace: Trace, links: Links) -> int | None:
    """lambda, ns: the least start - launch over records launched after all earlier device work had ended.

    The trace's first record is none: work from before the trace may have been in its way.
    """
    device = trace.device
    rows = np.flatnonzero(links.launch != NONE)
    rows = rows[rows > 0]
    if not len(rows):
        return None
    reach = np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(device.end)[:-1]))
    start = trace.host.start[links.launch[rows]]
    latency = (device.start[rows] - start)[start >= reach[rows]]
    latency = latency[latency > 0]
    return int(latency.min()) if len(latency) else None


def _busy(ledgers: tuple[Ledger, ...]) -> int:
    return sum(int(ledger.ns[ledger.busy].sum()) for ledger in ledgers)


def _step(ledger: Ledger, attribution: Attribution, launches: Launches | None) -> Step:
    window = ledger.window
    return Step(
        name=window.name,
        wall_ns=window.end - window.start,
        partition=ledger.parts(attribution.network, tuple(n.name for n in attribution.networks)),
        overlap=list(ledger.overlap),
        launches=launches,
    )


def _launches(trace: Trace, links: Links, work: DeviceWork, ledger: Ledger, tau: int, floor: int | None) -> Launches:
    window, host = ledger.window, trace.host
    inside = work.overlapping(window)
    inside = inside[(work.start[inside] >= window.start) & (work.launch[inside] != NONE)]
    calls = distinct(work.launch[inside])
    durations = host.end[calls] - host.start[calls]
    return Launches(
        count=len(calls),
        api_median_ns=lower_median(durations),
        latency_floor_ns=floor,
        turnaround_median_ns=_turnaround_median(trace, work, inside),
    )


def _turnaround_median(trace: Trace, work: DeviceWork, rows: Int64) -> int | None:
    stream = trace.device.stream[work.rows[rows]]
    order = rows[np.lexsort((work.start[rows], stream))]
    stream = trace.device.stream[work.rows[order]]
    first, second = order[:-1][np.diff(stream) == 0], order[1:][np.diff(stream) == 0]
    queued = trace.host.end[work.launch[second]] < work.end[first]
    wait = (work.start[second] - work.end[first])[queued]
    return lower_median(wait[wait >= 0])


def lower_median(values: Int64) -> int | None:
    """Lower middle value; None when empty."""
    return int(np.sort(values)[(len(values) - 1) // 2]) if len(values) else None
