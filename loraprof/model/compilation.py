"""What ``torch.compile`` did in the process that was profiled: when it compiled, what its kernels are made of, and what
of the reported step is theirs."""

import msgspec

from loraprof.model.ranges import Count, IndexOrNone, Ns, Number


class FusedOp(msgspec.Struct, frozen=True, array_like=True):
    """One op of a kernel, aggregated over equal (module, op). ``sequence``: autograd number it was traced under, the
    least of them, -1 unknown; a backward op carries that of the forward op it differentiates."""

    module: IndexOrNone  # ModuleInfo.id; -1 outside every module, or unknown
    op: str  # "aten::gelu"; before decomposition, where the compiler remembers
    sequence: Number
    count: Count


class CompiledCall(msgspec.Struct, frozen=True, array_like=True):
    """One kernel call of a compiled graph: a fused kernel, or an operator that stayed one ("extern")."""

    kernel: str  # as the generated code calls it, e.g. "cpp_fused_add_mul_3", "extern_kernels.mm"
    ops: list[FusedOp]


class CompiledGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel calls of one compiled graph in the order in which they run.

    ``region`` is the compile id of its ranges in the trace, "0/1": frame 0, compiled for the second time. ``root`` is
    the module whose forward was compiled, -1 a function. Equal modules may share a graph made from one of them.
    """

    region: str
    backward: bool
    root: IndexOrNone
    calls: list[CompiledCall]


class CompilePass(msgspec.Struct, frozen=True, kw_only=True):
    """What was compiled during some steps: "skip" (warm-up), "timing", … or one profiled step, "ProfilerStep#0"."""

    name: str
    steps: Count
    compilations: Count  # frames compiled
    recompilations: Count  # of them, frames compiled before
    graph_breaks: Count
    compile_ns: Ns


class Compilation(msgspec.Struct, frozen=True, kw_only=True):
    """``torch.compile`` in this process. ``timed_ns`` is the time compiled within each timed step."""

    passes: list[CompilePass] = []
    timed_ns: list[Ns] = []
    recompile_reasons: list[str] = []  # distinct, first lines
    break_reasons: list[str] = []
    graphs: list[CompiledGraph] = []
    notes: list[str] = []


class CompiledReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``torch.compile`` made of the reported step. Times are exclusive busy ns; ``share`` is ``busy_ns`` over the
    step. ``kernels`` are calls of generated code.

    ``known_ns``: kernels that the compiler named the modules of. ``host_ns``: the regions' own Python between kernels
    (on a CPU). ``other_ns``: what no role could be given, that Python included. ``mixed_ns``: kernels of other roles
    into which adapter ops are fused.
    """

    regions: int  # runs of generated code in the forward pass
    busy_ns: int
    share: float
    kernels: int
    known_ns: int
    host_ns: int
    other_ns: int
    mixed_ns: int
    recompilations: int | None = None  # after the warm-up steps
    graph_breaks: int | None = None
    compile_ns: int | None = None  # until the end of the profiled steps
