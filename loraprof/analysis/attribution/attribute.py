"""Who issued each host record: module, phase and role, forward and backward.

Forward: the innermost module marker. Backward: the enclosing ``evaluate_function`` carries the sequence number of
a forward op; rule (a) takes the last forward op with that number, rule (b) the innermost module call whose
recorded interval ``[before, after)`` holds it. (b) decides where it is known, (a) gives the op, and their
disagreements are counted. Work outside every module is placed by what surrounds it in the step.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.attribution.backward import Backward
from loraprof.analysis.attribution.compiled import Compiled, CompiledRows, compile_ranges
from loraprof.analysis.attribution.forward import forward_roles
from loraprof.analysis.attribution.names import Names, modules_of, names_of
from loraprof.analysis.attribution.networks import Network, network_of, networks_of, sampling
from loraprof.analysis.attribution.observed import observed
from loraprof.analysis.attribution.roles import roles_of
from loraprof.analysis.attribution.sequence import counted
from loraprof.analysis.attribution.surroundings import place_between
from loraprof.analysis.attribution.unmarked.forward import Unmarked, unmarked
from loraprof.analysis.attribution.unmarked.frames import framed
from loraprof.analysis.trace.call_tree import Tree, tree_of
from loraprof.model.recording import AdapterSite, ModuleInfo, Recording
from loraprof.model.trace import NONE, Bool, Int8, Int32, Int64, Trace
from loraprof.model.vocabulary import GRAD_CLIP, LOSS, OPTIMIZER, PHASE, ROLE, HostKind

_HOW: Final = {
    "observed": "by their module frames: one product, a narrow pair of its widths, and their sum",
    "shapes": "by shapes: narrow pairs of products beside one of their widths, and their sum",
}


class Attribution(Struct, frozen=True, eq=False):
    """Per host row: module (-> ``paths``, -1 none), phase and role; ids of the vocabulary."""

    paths: tuple[str, ...]
    module: Int32
    phase: Int8
    role: Int8
    tree: Tree
    disagreements: int | None
    marked: bool  # module markers say where forward work belongs
    notes: tuple[str, ...]
    names: Names
    sites: tuple[AdapterSite, ...] = ()  # adapted layers, of the recording or found in the trace
    compiled: CompiledRows | None = None
    compiling: Bool | None = None  # per host row: inside a range in which the compiler worked
    networks: tuple[Network, ...] = ()
    dense: frozenset[int] | None = None  # rows that build a change as large as its weight; None: not known
    network: Int32 | None = None  # per module: its network; None: there are none


class _Around(Struct, frozen=True, eq=False):
    """Per host row, what is around it (-1 none), and what of the step that makes it."""

    marker: Int32  # module call
    evaluate: Int32  # backward node
    optimizer: Int32  # optimizer range
    forward: Bool
    recompute: Bool
    backward: Bool
    update: Bool  # inside the optimizer

    @property
    def marked(self) -> Bool:
        """A module claims it."""
        return self.forward | self.recompute


def attribute(trace: Trace, recording: Recording | None = None) -> Attribution:
    """Attributes every host row of a trace; ``recording`` adds module names, sites and rule (b)."""
    host, tree, names = trace.host, tree_of(trace), names_of(trace)
    table, opens = modules_of(trace, recording)
    around = _around(trace, tree, names, opens)
    alone = recording is None and not around.marked.any()
    recomputed = around.backward & alone
    recomputed &= _recorded_again(trace, tree, names, around.evaluate) if alone else False
    table, sites, found = (
        _by_shapes(trace, tree, (table, opens), around, recomputed) if recording is None else (table, (), None)
    )

    module = np.full(len(host), NONE, dtype=np.int32)
    module[around.marked] = opens[host.name[around.marker[around.marked]]]
    phase = np.full(len(host), PHASE["other"], dtype=np.int8)
    phase[around.forward], phase[around.recompute] = PHASE["forward"], PHASE["recompute"]
    phase[around.backward], phase[around.update] = PHASE["backward"], PHASE["optimizer"]
    roles = roles_of(table, recording, sites)
    code = Compiled(trace, recording, roles, tree, around.marker, around.evaluate)
    role = forward_roles(trace, roles, np.where(code.inside, NONE, module).astype(np.int32), around.marker, tree)
    claimed, in_backward = around.marked, around.backward
    if found is not None and alone:
        claimed = _claim(found, ~(code.inside | around.update), module, phase, role)
        phase[recomputed & claimed] = PHASE["recompute"]
        in_backward = in_backward & ~(recomputed & claimed)
    elif found is not None:
        _mend(found, role)
    state = Backward(trace, recording, roles, names, tree, around.evaluate, in_backward, alone)
    disagreements = state.fill(module, role)
    paths = [m.path or "<model>" for m in table]
    special = {name: len(paths) + i for i, name in enumerate((OPTIMIZER, GRAD_CLIP, LOSS))}
    compiled = code.fill(special[LOSS], module, phase, role)
    module[(role == ROLE["loss"]) & (module != NONE)] = special[LOSS]
    module[around.update], role[around.update] = special[OPTIMIZER], ROLE["optimizer"]
    claimed = claimed | (code.inside & ~in_backward)
    running = code.inside & (phase == PHASE["forward"]) & (host.kind == HostKind.ANNOTATION)
    edges = (around.forward & (opens[host.name] != NONE), running, claimed | in_backward)
    _outside(trace, tree, names, around, edges, special, (module, phase, role), alone)
    module[state.unplaced_loss & (module == NONE) & ~code.inside] = special[LOSS]
    _of_neither(trace, tree, names, opens, (module, phase, role))
    networks = networks_of(recording)
    phase[sampling(trace, recording, networks, opens) & (phase == PHASE["forward"])] = PHASE["generate"]
    known = bool(claimed.any())
    return Attribution(
        paths=(*paths, *special),
        module=module,
        phase=phase,
        role=role,
        tree=tree,
        disagreements=disagreements,
        marked=known,
        notes=_notes(tree, sites, recording is not None and not known),
        names=names,
        sites=tuple(roles.sites),
        compiled=compiled,
        compiling=compile_ranges(trace, tree),
        networks=networks,
        dense=_dense(trace, recording, module, around.marker, tree),
        network=network_of(recording, networks, len(paths) + len(special)) if networks else None,
    )


def _around(trace: Trace, tree: Tree, names: Names, opens: Int64) -> _Around:
    host = trace.host
    marker = tree.nearest(opens[host.name] != NONE)
    evaluate = tree.nearest(names.evaluate[host.name] & (host.kind == HostKind.OP))
    optimizer = tree.nearest(names.optimizer[host.name] & (host.kind == HostKind.ANNOTATION))
    depth = np.append(tree.depth, NONE)  # index -1 reads the sentinel
    inner = np.maximum(depth[marker], depth[evaluate])  # a closure's passes run inside the optimizer's range
    update = (optimizer != NONE) & (depth[optimizer] >= inner)
    backward = (depth[evaluate] > depth[marker]) & ~update
    recompute = (evaluate != NONE) & (marker != NONE) & ~backward & ~update
    forward = (evaluate == NONE) & (marker != NONE) & ~update
    return _Around(marker, evaluate, optimizer, forward, recompute, backward, update)


def _by_shapes(
    trace: Trace, tree: Tree, modules: tuple[list[ModuleInfo], Int64], around: _Around, recomputed: Bool
) -> tuple[list[ModuleInfo], tuple[AdapterSite, ...], Unmarked]:
    """Modules, adapted layers and forward work of a trace that no recording describes."""
    found = unmarked(trace, tree, (around.evaluate, around.optimizer), recomputed)
    if around.marked.any():
        return framed(trace, tree, found, *modules, around.marker)
    return found.table, found.sites, found


def _outside(
    trace: Trace,
    tree: Tree,
    names: Names,
    around: _Around,
    edges: tuple[Bool, Bool, Bool],
    special: dict[str, int],
    columns: tuple[Int32, Int8, Int8],
    alone: bool,
) -> None:
    """Work outside every module, node and optimizer, in place. ``edges``: rows that open a module's call, and a
    compiled region's; rows that have their place."""
    host, (opened, running, placed) = trace.host, edges
    module, phase, role = columns
    work = np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME))
    closure = np.zeros(len(host) + 1, dtype=np.bool_)
    closure[around.optimizer[opened]] = True
    closure[-1] = False
    outside = (~(around.update | placed) | (around.update & closure[around.optimizer])) & work
    tops = (opened | running, around.evaluate, around.optimizer)
    place_between(trace, names, outside, tops, special, module, phase, role)
    if alone:
        updates = np.flatnonzero((tree.nearest(names.updates[host.name]) != NONE) & ~around.backward & work)
        module[updates], phase[updates], role[updates] = special[OPTIMIZER], PHASE["optimizer"], ROLE["optimizer"]


def _of_neither(trace: Trace, tree: Tree, names: Names, opens: Int64, columns: tuple[Int32, Int8, Int8]) -> None:
    """Communication, whoever asked for it, and runtime calls, which do their op's work; in place."""
    host = trace.host
    annotation = host.kind == HostKind.ANNOTATION
    asked = (names.comm_op[host.name] & (host.kind == HostKind.OP)) | (names.comm_range[host.name] & annotation)
    work = np.isin(host.kind, (HostKind.OP, HostKind.RUNTIME))
    columns[2][work & (tree.nearest(asked) != NONE)] = ROLE["comm"]
    call, issuer = _issued(trace, tree, (opens[host.name] != NONE) | (names.optimizer[host.name] & annotation))
    for column in columns:
        column[call] = column[issuer]


def _notes(tree: Tree, sites: tuple[AdapterSite, ...], unmarked_recording: bool) -> tuple[str, ...]:
    notes = [f"{len(sites)} adapted layers found {_HOW[site.how]}" for site in sites[:1] if site.how in _HOW]
    if tree.crossing:
        notes.append(f"host ranges cross instead of nesting, on this many threads: {tree.crossing}")
    if unmarked_recording:
        notes.append("no module markers in the trace: roles of forward work and the adapter's time are unknown")
    return tuple(notes)


def _dense(
    trace: Trace, recording: Recording | None, module: Int32, marker: Int32, tree: Tree
) -> frozenset[int] | None:
    if recording is None or recording.dense_ops is None:
        return None
    return (
        frozenset(observed(trace, recording.dense_ops, module, marker, tree)[1]) if recording.dense_ops else frozenset()
    )


def _recorded_again(trace: Trace, tree: Tree, names: Names, evaluate: Int32) -> Bool:
    """Rows inside backward nodes whose op gets a number of its own there: a checkpoint runs forward again."""
    host = trace.host
    ahead = counted(host) & ~(names.backward | names.evaluate)[host.name]
    depth = np.append(tree.depth, NONE)
    recomputed: Bool = depth[tree.nearest(ahead)] > depth[evaluate]
    return recomputed


def _mend(found: Unmarked, role: Int8) -> None:
    """Roles of adapters that no frame holds, in place."""
    rows = np.flatnonzero(found.call != NONE)
    rows = rows[found.layer[found.call[rows]] != NONE]
    role[rows] = found.role[found.call[rows]]


def _claim(found: Unmarked, free: Bool, module: Int32, phase: Int8, role: Int8) -> Bool:
    """Fills the rows of calls that no module claims, in place; which they are."""
    rows = np.flatnonzero((found.call != NONE) & free)
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
    call = np.flatnonzero((host.kind == HostKind.RUNTIME) & (nearest != NONE))
    call = call[op[nearest[call]]]
    return call, nearest[call]
