"""What does each network of the step take?"""

import numpy as np

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.model.report import NetworkRow
from loraprof.model.trace import Bool, taken
from loraprof.model.vocabulary import PHASE, Phase


def rows_of(analysis: Analysis, ledger: Ledger, number: int) -> Bool:
    """The entries of a network, forward and backward, idle ones included."""
    network = analysis.attribution.network
    if network is None:
        return np.zeros(len(ledger.ns), dtype=np.bool_)
    own: Bool = taken(network, ledger.module) == number
    return own


def networks(analysis: Analysis, ledger: Ledger, plain: Ledger | None) -> list[NetworkRow]:
    """In the order they were called; sampling is a row of its own. ``plain``: the step without the profiler, whose
    shares count where it is known."""
    out = []
    shown = ledger if plain is None else plain
    for i in range(len(analysis.attribution.networks)):
        for phase in ("forward", "generate"):
            row = _row(analysis, ledger, shown, i, phase)
            if row is not None:
                out.append(row)
    return out


def _row(analysis: Analysis, ledger: Ledger, shown: Ledger, number: int, phase: Phase) -> NetworkRow | None:
    def own(of: Ledger) -> Bool:
        rows: Bool = rows_of(analysis, of, number) & ((of.phase == PHASE["generate"]) == (phase == "generate"))
        return rows

    rows, one = own(ledger), analysis.attribution.networks[number]
    if not rows.any():
        return None
    return NetworkRow(
        name=one.name,
        trained=one.trained,
        adapters=one.adapters,
        busy_ns=int(ledger.ns[rows & ledger.busy].sum()),
        idle_ns=int(ledger.ns[rows & ~ledger.busy].sum()),
        share=float(shown.ns[own(shown)].sum() / max(int(shown.ns.sum()), 1)),
        phase=phase,
        calls=_calls(analysis, ledger, one.root, phase),
    )


def _calls(analysis: Analysis, ledger: Ledger, root: int, phase: Phase) -> int | None:
    """How often the step called it in that phase."""
    recording, host = analysis.recording, analysis.trace.host
    if recording is None:
        return None
    top = next(m.id for m in recording.modules if m.root == root)
    name = f"loraprof::m{top}"
    if name not in analysis.trace.names:
        return None
    rows = np.flatnonzero(host.name == analysis.trace.names.index(name))
    rows = rows[(host.start[rows] >= ledger.window.noted_start) & (host.start[rows] < ledger.window.end)]
    sampled = analysis.attribution.phase[rows] == PHASE["generate"]
    return int((sampled == (phase == "generate")).sum())
