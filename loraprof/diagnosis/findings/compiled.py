"""What did ``torch.compile`` make of the step, and does it compile while it should train (H3)?"""

import numpy as np

from loraprof import units
from loraprof.analysis.analyse import Analysis
from loraprof.analysis.attribution.compiled import compilations
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.busy import Busy, mixed_ns
from loraprof.diagnosis.case import MAJOR, Case
from loraprof.diagnosis.remedies.adapter import NO_DROPOUT_EITHER
from loraprof.diagnosis.remedies.host import COMPILE_ONCE
from loraprof.diagnosis.rule import HOST, Rule, Seen, evidence
from loraprof.diagnosis.worth import Worth
from loraprof.model.compilation import Compilation, CompiledReport
from loraprof.model.finding import Evidence
from loraprof.model.vocabulary import ROLE


def compiled(analysis: Analysis, ledger: Ledger, busy: Busy) -> CompiledReport | None:
    """The reported step's compiled part."""
    rows, recording = analysis.attribution.compiled, analysis.recording
    if rows is None:
        return None
    entries = np.flatnonzero(ledger.busy & (ledger.op >= 0))
    op, ns = ledger.op[entries], ledger.ns[entries]
    inside = rows.inside[op]
    busy_ns = int(ns[inside].sum())
    calls = busy.rows[ledger.op[busy.rows] >= 0]
    wall_ns = ledger.window.end - ledger.window.start
    found = recording.compilation if recording else None
    return CompiledReport(
        regions=_regions(analysis, ledger),
        busy_ns=busy_ns,
        share=busy_ns / wall_ns if wall_ns else 0.0,
        kernels=int(rows.call[ledger.op[calls]].sum()),
        known_ns=int(ns[rows.known[op]].sum()),
        host_ns=int(ns[inside & ~rows.call[op]].sum()),
        other_ns=int(ns[inside & (ledger.role[entries] == ROLE["other"])].sum()),
        mixed_ns=mixed_ns(rows, ledger),
        recompilations=recording.workload.recompiles if recording and found else None,
        graph_breaks=recording.workload.graph_breaks if recording and found else None,
        compile_ns=sum(p.compile_ns for p in found.passes) if found else None,
    )


def compiled_notes(generated: CompiledReport | None, compilation: Compilation | None) -> list[str]:
    """What the attribution of compiled code leaves open, in words."""
    if generated is None or not generated.busy_ns:
        return list(compilation.notes) if compilation else []
    notes = [*(compilation.notes if compilation else ())]
    if not generated.known_ns and not (compilation and compilation.graphs):
        notes.append("compiled regions carry no modules: roles inside them come from kernel names and shapes alone")
    if generated.other_ns:
        share, own = (units.percent(ns / generated.busy_ns) for ns in (generated.other_ns, generated.host_ns))
        python = f", {own} is their own Python between kernels" if generated.host_ns else ""
        notes.append(f"{share} of the time in compiled regions has no role{python}")
    if generated.mixed_ns:
        notes.append(
            f"adapter ops are fused into kernels of other roles ({units.ns(generated.mixed_ns)}): "
            "their part of that time is not counted as the adapter's"
        )
    return notes


def compiles_in_steps(case: Case) -> Seen | None:
    """H3: code is compiled again within the run, or the graph is cut."""
    w, compilation = case.workload, case.recording.compilation if case.recording else None
    recompiles, breaks = (w.recompiles, w.graph_breaks) if w and w.compiled else (None, None)
    count, in_steps_ns, steps_ns = _inside(case)
    if not (recompiles or breaks or count):
        return None
    timing = case.recording.timing if case.recording else None
    timed_ns = sorted(compilation.timed_ns) if compilation else []
    timed_share = sum(timed_ns) / sum(timing.samples_ns) if timed_ns and timing and timing.samples_ns else 0.0
    middle, first, last = (len(timed_ns) - 1) // 2, 0, -1
    each_time = Worth(timed_ns[middle], timed_ns[first], timed_ns[last], basis="measured") if timed_ns else None
    share = in_steps_ns / steps_ns if steps_ns else 0.0
    rows = [
        evidence("recompilations", recompiles, "count"),
        evidence("places at which a graph is cut", breaks, "count"),
        evidence("graphs compiled inside the profiled steps", count, "count"),
    ]
    rows += [evidence("their time", in_steps_ns, "ns"), evidence("of the profiled steps", share, "share")] * bool(count)
    rows += _recorded_rows(case, compilation, timed_share)
    return Seen(
        evidence=rows,
        saved=each_time,
        severity="major" if max(timed_share, share) >= MAJOR else None,
    )


def _recorded_rows(case: Case, found: Compilation | None, timed: float) -> list[Evidence]:
    """What only a recording knows."""
    if found is None:
        return []
    rows = [evidence("compiling in all", sum(p.compile_ns for p in found.passes), "ns")]
    if timed:
        rows.insert(0, evidence("compiling, of the timed steps", timed, "share"))
    if case.analysis.attribution.compiled is not None:
        rows.append(evidence("compiled regions in the step", _regions(case.analysis, case.ledger), "regions"))
    if case.workload and case.workload.recompiles:
        rows += [evidence("compiled again because", reason) for reason in found.recompile_reasons[:2]]
    return [*rows, *(evidence(_cut(reason), reason) for reason in found.break_reasons[:2])]


def _cut(reason: str) -> str:
    """Dynamo tells some places by their line, of the others only why."""
    return "a graph is cut" if reason.startswith("in ") else "a graph is cut because"


def _regions(analysis: Analysis, ledger: Ledger) -> int:
    """Runs of generated code in the forward pass of a step."""
    rows, host, window = analysis.attribution.compiled, analysis.trace.host, ledger.window
    scopes = [row for row, scope in rows.scopes.items() if not scope.backward] if rows else []
    starts = host.start[np.array(scopes, dtype=np.int64)]
    return int(((starts >= window.noted_start) & (starts < window.noted_end)).sum())


def _inside(case: Case) -> tuple[int, int, int]:
    """Compilations that began inside annotated steps, their time there, and the time of all steps."""
    analysis = case.analysis
    host = analysis.trace.host
    rows = compilations(analysis.trace, analysis.attribution.tree, analysis.attribution.compiling)
    if analysis.marks.names == ("trace",):  # the first compilation is in any trace that begins early enough
        return 0, 0, 0
    count = ns = 0
    for start, end in zip(analysis.marks.start, analysis.marks.end, strict=True):
        in_step = rows[(host.start[rows] >= start) & (host.start[rows] < end)]
        count += len(in_step)
        ns += int((np.minimum(host.end[in_step], end) - host.start[in_step]).sum())
    return count, ns, sum(b - a for a, b in zip(analysis.marks.start, analysis.marks.end, strict=True))


COMPILING = Rule("H3", HOST, compiles_in_steps, (COMPILE_ONCE, NO_DROPOUT_EITHER))
