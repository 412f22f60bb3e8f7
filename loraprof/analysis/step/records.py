"""The reported step's work, record by record, with the inputs of the op behind it."""

from msgspec import Struct

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.busy import Busy
from loraprof.model.recording import ModuleInfo
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import PHASES, ROLES, Phase, Role

GEMMS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
HALF = ("bfloat16", "float16")
HALF_INPUTS = ("c10::BFloat16", "c10::Half")
Conversion = tuple[str, str]  # element types: from, to


class Record(Struct, frozen=True):
    """One device record, on CPU one leaf op. ``types`` and ``dims`` are empty where shapes were not recorded."""

    row: int  # host row of the op; -1 unknown
    name: str
    op: str
    role: Role
    phase: Phase
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
        return conversion_of(self.types, self.dims) if self.op == "aten::copy_" else None


def records_of(analysis: Analysis, ledger: Ledger, busy: Busy) -> list[Record]:
    trace = analysis.trace
    table = analysis.recording.modules if analysis.recording else []
    out = []
    for i, row in enumerate(busy.rows.tolist()):
        op, module = int(ledger.op[row]), int(ledger.module[row])
        given = None if op == NONE else trace.shapes_of(op)
        out.append(
            Record(
                row=op,
                name=trace.names[int(ledger.name[row])],
                op=busy.op[i] or "",
                role=ROLES[int(ledger.role[row])],
                phase=PHASES[int(ledger.phase[row])],
                module=table[module] if 0 <= module < len(table) else None,
                ns=int(busy.ns[i]),
                types=given.types if given else (),
                dims=given.dims if given else (),
                blocks=int(ledger.blocks[row]),
            )
        )
    return out


def conversion_of(types: tuple[str, ...], dims: tuple[object, ...]) -> Conversion | None:
    """A copy's inputs are destination and source; scalars do not count."""
    return (types[1], types[0]) if len(types) > 1 and types[0] != types[1] and dims and dims[0] else None
