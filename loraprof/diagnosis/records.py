"""The reported step's work, record by record, with the inputs of the op behind it; and what converts a dtype."""

from dataclasses import dataclass

import numpy as np

from loraprof.diagnosis.case import Case
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import Bool
from loraprof.model.vocabulary import PHASES, ROLES

GEMMS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
HALF = ("bfloat16", "float16")
HALF_INPUTS = ("c10::BFloat16", "c10::Half")
Conversion = tuple[str, str]  # element types: from, to


@dataclass(frozen=True, slots=True)
class Record:
    """One device record, on CPU one leaf op. ``types`` and ``dims`` are empty where shapes were not recorded."""

    row: int  # host row of the op; -1 unknown
    name: str
    op: str
    role: str
    phase: str
    module: ModuleInfo | None
    ns: int
    types: tuple[str, ...]
    dims: tuple[object, ...]
    blocks: int  # grid size; -1 unknown

    @property
    def site(self) -> int | None:
        return self.module.site if self.module else None

    @property
    def gemm_type(self) -> str | None:
        """Element type of a GEMM's last operand."""
        last = {"aten::mm": 1, "aten::bmm": 1, "aten::addmm": 2, "aten::baddbmm": 2}.get(self.op)
        return self.types[last] if last is not None and len(self.types) > last else None

    @property
    def conversion(self) -> Conversion | None:
        """What a copy converts; None for anything else, or where types are unknown."""
        return _conversion(self.types, self.dims) if self.op == "aten::copy_" else None


def records(case: Case) -> list[Record]:
    trace, ledger = case.analysis.trace, case.ledger
    table = case.recording.modules if case.recording else []
    out = []
    for i, row in enumerate(case.busy.rows.tolist()):
        op, module = int(ledger.op[row]), int(ledger.module[row])
        shape = int(trace.host.shapes[op]) if op >= 0 else -1
        given = trace.shapes[shape] if shape >= 0 else None
        out.append(
            Record(
                row=op,
                name=trace.names[int(ledger.name[row])],
                op=case.busy.op[i] or "",
                role=ROLES[int(ledger.role[row])],
                phase=PHASES[int(ledger.phase[row])],
                module=table[module] if 0 <= module < len(table) else None,
                ns=int(case.busy.ns[i]),
                types=given.types if given else (),
                dims=given.dims if given else (),
                blocks=int(ledger.blocks[row]),
            )
        )
    return out


def like(case: Case, rows: list[Record]) -> Bool:
    """Host rows, of every step, with the op, the inputs and the module of one of these."""
    host, who = case.analysis.trace.host, case.analysis.who
    key = (host.name.astype(np.int64) * (len(case.analysis.trace.shapes) + 1) + host.shapes) * (len(who.paths) + 1)
    key += who.module
    found: Bool = np.isin(key, key[[r.row for r in rows]])
    return found


def _conversion(types: tuple[str, ...], dims: tuple[object, ...]) -> Conversion | None:
    """A copy's inputs are destination and source; scalars do not count."""
    return (types[1], types[0]) if len(types) > 1 and types[0] != types[1] and dims and dims[0] else None


def conversions(case: Case, weights: bool = True) -> Bool:
    """Host rows of dtype conversions, with the ops and the backward nodes that only wrap them.

    ``weights=False`` leaves out conversions of tensors shaped like an adapter's parameters.
    """
    trace, host = case.analysis.trace, case.analysis.trace.host
    small = {tuple(p.shape) for p in case.recording.parameters if p.trainable} if case.recording else set()
    shaped = [_conversion(s.types, s.dims) is not None and (weights or s.dims[0] not in small) for s in trace.shapes]
    known = np.array([*shaped, False])
    name = np.array(trace.names or ("",))[host.name]
    flag: Bool = (name == "aten::copy_") & known[host.shapes]
    if case.analysis.on_gpu:  # a kernel launched by the conversion itself
        launching = np.unique(np.concatenate([x.op[x.busy] for x in case.analysis.ledgers]))
        flag |= np.isin(name, ("aten::to", "aten::_to_copy")) & np.isin(np.arange(len(host)), launching)
    wraps = np.array([n.endswith(("aten::to", "aten::_to_copy", "ToCopyBackward0")) for n in trace.names] or [False])
    parent = case.analysis.who.tree.parent
    rows = np.flatnonzero(flag)
    while len(rows):
        rows = parent[rows]
        rows = np.unique(rows[(rows >= 0) & wraps[host.name[np.maximum(rows, 0)]]])
        flag[rows] = True
    return flag
