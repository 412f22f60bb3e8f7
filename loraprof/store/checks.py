"""Does what was read agree with itself? One ``check`` per type; ranges of single figures stand in their types.

Each returns the first thing that cannot be, with its place in the file, or None. Analysis may index, add and divide
what has passed.
"""

import datetime
from collections.abc import Iterable, Iterator

import numpy as np

from loraprof.model.compilation import Compilation
from loraprof.model.recording import Nvml, Recording
from loraprof.model.trace import Trace

MOST_SUM_NS = 2**62


def check_recording(recording: Recording) -> str | None:
    """Ids are positions, and whatever names a module, a site or a rank names one that is there."""
    return next(_recording(recording), None)


def check_nvml(nvml: Nvml) -> str | None:
    """Samples lie in the order of their times."""
    times = [sample.monotonic_ns for sample in nvml.samples]
    late = next((i for i in range(1, len(times)) if times[i] < times[i - 1]), None)
    return None if late is None else f"`$.samples[{late}].monotonic_ns` lies before the one before it"


def check_trace(trace: Trace) -> str | None:
    """Times span and add up to less than an int64 holds, for any selection of rows."""
    tables = [table for table in (trace.host, trace.device) if len(table)]
    if not tables:
        return None
    span = max(int(t.end.max()) for t in tables) - min(int(t.start.min()) for t in tables)
    summed = sum(float(np.sum(t.end - t.start, dtype=np.float64)) for t in tables)
    return "the times of its events add up to more than 146 years" if max(span, summed) > MOST_SUM_NS else None


def _recording(recording: Recording) -> Iterator[str]:
    modules, sites = len(recording.modules), len(recording.sites)
    yield from _created(recording.created)
    yield from _ids("modules", (m.id for m in recording.modules))
    yield from _ids("parameters", (p.id for p in recording.parameters))
    yield from _within("modules[{}].site", (-1 if m.site is None else m.site for m in recording.modules), sites, "site")
    yield from _within("parameters[{}].module", (p.module for p in recording.parameters), modules, "module")
    yield from _within("calls[{}].module", (call.module for call in recording.calls), modules, "module")
    yield from _within("attention[{}].module", (c.module for c in recording.attention), modules, "module")
    yield from _within("repeated[{}].module", (op.module for op in recording.repeated), modules, "module")
    yield from _within("counted[{}].module", (op.module for op in recording.counted), modules, "module")
    for table, ops in (("adapter_ops", recording.adapter_ops), ("dense_ops", recording.dense_ops or [])):
        yield from _within(f"{table}[{{}}].module", (op.module for op in ops), modules, "module")
        labelled = (max((label[0] for label in op.labels if label), default=-1) for op in ops)
        yield from _within(f"{table}[{{}}].labels", labelled, sites, "site")
    if recording.training_cost is not None:
        gradients = (g.module for g in recording.training_cost.gradients)
        yield from _within("training_cost.gradients[{}].module", gradients, modules, "module")
    if recording.compilation is not None:
        yield from _compilation(recording.compilation, modules)
    world = recording.environment.world_size
    yield from _within("environment.rank", [recording.environment.rank], world, "rank")
    yield from _within("missing_ranks[{}]", recording.missing_ranks, world, "rank")


def _created(created: str) -> Iterator[str]:
    try:
        datetime.datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError, OSError):
        yield f"`$.created` is {created[:40]!r}, not a time in ISO 8601"


def _compilation(compilation: Compilation, modules: int) -> Iterator[str]:
    graphs = compilation.graphs
    yield from _within("compilation.graphs[{}].root", (graph.root for graph in graphs), modules, "module")
    for i, graph in enumerate(graphs):
        used = (op.module for call in graph.calls for op in call.ops)
        yield from _within(f"compilation.graphs[{i}].calls", used, modules, "module")


def _ids(table: str, ids: Iterable[int]) -> Iterator[str]:
    yield from (f"`$.{table}[{i}].id` is {number}, not {i}" for i, number in enumerate(ids) if number != i)


def _within(place: str, indices: Iterable[int], count: int, kind: str) -> Iterator[str]:
    for i, index in enumerate(indices):
        if index >= count:
            yield f"`$.{place.format(i)}` is {index}, but there are {count} {kind}s"
