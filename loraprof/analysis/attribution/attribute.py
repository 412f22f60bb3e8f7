"""Who issued each host record: module, phase and role, forward and backward.

Forward: the innermost module marker. Backward: the enclosing ``evaluate_function`` carries the sequence number of
a forward op; rule (a) takes the last forward op with that number, rule (b) the innermost module call whose
recorded interval ``[before, after)`` holds it. (b) decides where it is known, (a) gives the op, and their
disagreements are counted. Work outside every module is placed by what surrounds it in the step.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from loraprof.analysis.attribution.backward import Backward
from loraprof.analysis.attribution.compiled import Compiled, CompiledRows, compile_ranges
from loraprof.analysis.attribution.forward import forward_roles
from loraprof.analysis.attribution.names import Names, modules_of, names_of
from loraprof.analysis.attribution.roles import roles_of
from loraprof.analysis.attribution.surroundings import place_between
from loraprof.analysis.attribution.unmarked.forward import Unmarked, unmarked
from loraprof.analysis.attribution.unmarked.frames import framed
from loraprof.analysis.trace.call_tree import Tree, tree_of
from loraprof.model.recording import AdapterSite, Recording
from loraprof.model.trace import Bool, Int8, Int32, Int64, Trace
from loraprof.model.vocabulary import GRAD_CLIP, LOSS, OPTIMIZER, PHASE, ROLE, HostKind

_HOW: Final = {
    "observed": "by their module frames: one product, a narrow pair of its widths, and their sum",
    "shapes": "by shapes: narrow pairs of products beside one of their widths, and their sum",
}


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Per host row: module (-> ``paths``, -1 none), phase and role; ids of the vocabulary."""

    paths: tuple[str, ...]
    module: Int32
    phase: Int8
    role: Int8
    tree: Tree
    disagreements: int | None
    marked: bool  # module markers say where forward work belongs
    notes: tuple[str, ...]
    sites: tuple[AdapterSite, ...] = ()  # adapted layers, of the recording or found in the trace
    compiled: CompiledRows | None = None
    compiling: Bool | None = None  # per host row: inside a range in which the compiler worked


def attribute(trace: Trace, recording: Recording | None = None) -> Attribution:
    """Attributes every host row of a trace; ``recording`` adds module names, sites and rule (b)."""
    host, tree, names = trace.host, tree_of(trace), names_of(trace)
    table, opens = modules_of(trace, recording)
    annotation = host.kind == HostKind.ANNOTATION
    marker = tree.nearest(opens[host.name] >= 0)
    evaluate = tree.nearest(names.evaluate[host.name] & (host.kind == HostKind.OP))
    optimizer = tree.nearest(names.optimizer[host.name] & annotation)

    depth = np.append(tree.depth, -1)  # index -1 reads the sentinel
    inner = np.maximum(depth[marker], depth[evaluate])  # a closure's passes run inside the optimizer's range
    in_optimizer = (optimizer >= 0) & (depth[optimizer] >= inner)
    in_backward = (evaluate >= 0) & (depth[evaluate] > depth[marker]) & ~in_optimizer
    recompute = (evaluate >= 0) & (marker >= 0) & ~in_backward & ~in_optimizer
    forward = (evaluate < 0) & (marker >= 0) & ~in_optimizer

    module = np.full(len(host), -1, dtype=np.int32)
    marked = forward | recompute
    module[marked] = opens[host.name[marker[marked]]]
    phase = np.full(len(host), PHASE["other"], dtype=np.int8)
    phase[forward], phase[recompute], phase[in_backward] = PHASE["forward"], PHASE["recompute"], PHASE["backward"]
    phase[in_optimizer] = PHASE["optimizer"]
    alone = recording is None and not marked.any()
    again = in_backward & _recorded_again(trace, tree, names, evaluate) if alone else in_backward & False
    found = unmarked(trace, tree, (evaluate, optimizer), again) if recording is None else None
    sites: tuple[AdapterSite, ...] = ()
    if found is not None and alone:
        table, sites = found.table, found.sites
    elif found is not None:
        table, sites, found = framed(trace, tree, found, table, opens, marker)
    roles = roles_of(table, recording, sites)
    code = Compiled(trace, recording, roles, tree, marker, evaluate)
    role = forward_roles(trace, roles, np.where(code.inside, -1, module).astype(np.int32), marker, tree)

    opened = forward & (opens[host.name] >= 0)
    if found is not None and alone:
        marked = _claim(found, ~(code.inside | in_optimizer), module, phase, role)
        phase[again & marked] = PHASE["recompute"]
        in_backward &= ~(again & marked)
    elif found is not None:
        _mend(found, role)
    state = Backward(trace, recording, roles, names, tree, evaluate, in_backward, alone)
    disagreements = state.fill(module, role)
    paths = [m.path or "<model>" for m in table]
    special = {name: len(paths) + i for i, name in enumerate((OPTIMIZER, GRAD_CLIP, LOSS))}
    compiled = code.fill(special[LOSS], module, phase, role)
    loss = (role == ROLE["loss"]) & (module >= 0)
    module[loss] = special[LOSS]
    module[in_optimizer], role[in_optimizer] = special[OPTIMIZER], ROLE["optimizer"]
    work = np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME))
    closure = np.zeros(len(host) + 1, dtype=np.bool_)
    closure[optimizer[opened]] = True
    closure[-1] = False
    opened |= code.inside & (phase == PHASE["forward"]) & annotation
    marked = marked | (code.inside & ~in_backward)
    outside = (~(in_optimizer | in_backward | marked) | (in_optimizer & closure[optimizer])) & work
    tops = (opened, evaluate, optimizer)
    place_between(trace, names, outside, tops, special, module, phase, role)
    if alone:
        updates = np.flatnonzero((tree.nearest(names.updates[host.name]) >= 0) & ~in_backward & work)
        module[updates], phase[updates], role[updates] = special[OPTIMIZER], PHASE["optimizer"], ROLE["optimizer"]
    module[state.unplaced_loss & (module < 0) & ~code.inside] = special[LOSS]
    around = (names.comm_op[host.name] & (host.kind == HostKind.OP)) | (names.comm_range[host.name] & annotation)
    role[work & (tree.nearest(around) >= 0)] = ROLE["comm"]
    enclosing = (opens[host.name] >= 0) | (names.optimizer[host.name] & annotation)
    call, issuer = _issued(trace, tree, enclosing)
    for column in (module, phase, role):
        column[call] = column[issuer]
    known = bool(marked.any())
    notes = [f"{len(sites)} adapted layers found {_HOW[site.how]}" for site in sites[:1] if site.how in _HOW]
    notes += [f"host ranges cross instead of nesting, on this many threads: {tree.crossing}"] if tree.crossing else []
    if recording is not None and not known:
        notes.append("no module markers in the trace: roles of forward work and the adapter's time are unknown")
    return Attribution(
        (*paths, *special),
        module,
        phase,
        role,
        tree,
        disagreements,
        known,
        tuple(notes),
        tuple(roles.sites),
        compiled,
        compile_ranges(trace, tree),
    )


def _recorded_again(trace: Trace, tree: Tree, names: Names, evaluate: Int32) -> Bool:
    """Rows inside backward nodes whose op gets a number of its own there: a checkpoint runs forward again."""
    host = trace.host
    ahead = (host.kind == HostKind.OP) & (host.sequence >= 0) & (host.fwd_thread == 0)
    ahead &= ~(names.backward | names.evaluate)[host.name]
    depth = np.append(tree.depth, -1)
    again: Bool = depth[tree.nearest(ahead)] > depth[evaluate]
    return again


def _mend(found: Unmarked, role: Int8) -> None:
    """Roles of adapters that no frame holds, in place."""
    rows = np.flatnonzero(found.call >= 0)
    rows = rows[found.layer[found.call[rows]] >= 0]
    role[rows] = found.role[found.call[rows]]


def _claim(found: Unmarked, free: Bool, module: Int32, phase: Int8, role: Int8) -> Bool:
    """Fills the rows of calls that no module claims, in place; which they are."""
    rows = np.flatnonzero((found.call >= 0) & free)
    at = found.call[rows]
    module[rows], role[rows], phase[rows] = found.layer[at], found.role[at], PHASE["forward"]
    claimed = np.zeros(len(free), dtype=np.bool_)
    claimed[rows] = True
    return claimed


def _issued(trace: Trace, tree: Tree, enclosing: Bool) -> tuple[Int64, Int64]:
    """Runtime calls made inside an op, and that op: a call does its op's work, whatever the call's name."""
    host = trace.host
    op = host.kind == HostKind.OP
    nearest = tree.nearest(op | enclosing)
    call = np.flatnonzero((host.kind == HostKind.RUNTIME) & (nearest >= 0))
    call = call[op[nearest[call]]]
    return call, nearest[call]
