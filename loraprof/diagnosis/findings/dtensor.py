"""D7: what DTensor costs the host. Every op on one runs in Python first ("PythonSubclass" in a trace), where its
placements are looked up, and may redistribute an operand before it computes.
"""

import re
from typing import Final

import numpy as np

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import devices as remedies
from loraprof.diagnosis.rows import in_step
from loraprof.diagnosis.rule import DEVICES, Rule, Seen, evidence
from loraprof.diagnosis.select import at_most
from loraprof.model.trace import Bool, Int64, named
from loraprof.model.vocabulary import ADAPTER_ROLES, ROLE, HostKind

SHARE: Final = 0.05  # of the step
DISPATCH: Final = "PythonSubclass"  # of any tensor subclass
OWN: Final = re.compile(r"^(Nested)?Redistribute|^_(To|From)TorchTensor|^_c10d_functional::")  # of DTensor
MOVES: Final = re.compile(r"^(Nested)?Redistribute$|^_c10d_functional::(all_|reduce_|broadcast)")


def dispatch(case: Case) -> Seen | None:
    """D7: the host's time goes into DTensor's dispatch, of the adapters' small ops above all."""
    trace, host, attribution = case.analysis.trace, case.analysis.trace.host, case.analysis.attribution
    if not any(OWN.search(name) for name in trace.names):
        return None
    inside = (host.kind == HostKind.OP) & in_step(case)
    calls = inside & named(trace.names, re.compile(f"^{DISPATCH}$").search)[host.name]
    own_ns = _own_ns(case, calls) * case.scale
    adapters = np.isin(attribution.role, [ROLE[role] for role in ADAPTER_ROLES])
    spent = round(own_ns.sum())
    if spent < SHARE * case.wall_ns:
        return None
    of_adapters = round(own_ns[adapters].sum())
    known = bool(adapters[calls].any())
    most = of_adapters if known else spent
    if case.analysis.on_gpu:  # what the device does meanwhile goes on
        most = min(most, case.step.ns(cause="python") + case.step.ns(cause="framework"))
    moved = inside & named(trace.names, MOVES.search)[host.name]
    return Seen(
        evidence=[
            evidence("ops that DTensor dispatched", int(calls.sum()), "ops"),
            evidence("time in its dispatch alone", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
            evidence("of it for the adapters", of_adapters if known else None, "ns"),
            evidence("redistributions", int(moved.sum()), "count"),
            evidence("of them for the adapters", int((moved & adapters).sum()) if known else None, "count"),
        ],
        saved=at_most(case, most),
        spent_ns=most,
    )


def _own_ns(case: Case, calls: Bool) -> Int64:
    """Per host row: the time of a dispatch without that of the ops and calls inside it."""
    host, parent = case.analysis.trace.host, case.analysis.attribution.tree.parent
    took = host.end - host.start
    own = np.where(calls, took, 0)
    children = np.flatnonzero((parent >= 0) & np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME)))
    children = children[calls[parent[children]]]
    np.subtract.at(own, parent[children], took[children])
    return np.maximum(own, 0)


DTENSOR_DISPATCH = Rule(
    "D7", DEVICES, dispatch, (remedies.REPLICATED_ADAPTERS, remedies.COMPILED_DISPATCH), thresholds={"share": SHARE}
)
