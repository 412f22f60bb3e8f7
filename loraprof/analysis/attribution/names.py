"""What does a record's name say? Each distinct name is read once, however many records carry it."""

import re

import numpy as np
from msgspec import Struct

from loraprof.analysis.trace.call_tree import MODULE_FRAME
from loraprof.analysis.trace.step_windows import DATA
from loraprof.model.recording import ModuleInfo, Recording
from loraprof.model.trace import NONE, Bool, Int64, Trace
from loraprof.model.vocabulary import GRADIENT_MARKER, MODULE_MARKER

EVALUATE = "autograd::engine::evaluate_function: "
_UPDATE = re.compile(r"^aten::(_fused_(adamw?|sgd|adagrad)_|_foreach_(lerp|addcdiv|addcmul|sqrt|div|pow|sub)_?)$")
_NODE = re.compile(r"^[\w:]+Backward\d*$|^(torch::autograd::)?AccumulateGrad$")
# What DDP and FSDP do around their collectives: filling and emptying buckets, shards into weights and back.
_MARKER = re.compile(rf"({MODULE_MARKER}|{GRADIENT_MARKER})([0-9]{{1,9}})")
COLLECTIVE = re.compile(r"^(gloo|nccl|mpi|ucc):")
_COMM_OP = re.compile(r"^(c10d::|torch::distributed::|torch\.distributed\.)")
_COMM_RANGE = re.compile(r"^(FSDP::|FullyShardedDataParallel\._(pre|post)_)")


class Names(Struct, frozen=True, eq=False):
    """Per interned name: what it says about a row."""

    module: Int64  # module id of a marker, -1 otherwise
    gradient: Int64  # parameter id of a gradient marker
    evaluate: Bool
    accumulate: Bool
    optimizer: Bool
    updates: Bool  # an op that only optimizers call
    norm: Bool
    backward: Bool
    comm_op: Bool
    comm_range: Bool
    loader: Bool  # a range in which a batch is loaded
    collective: Bool  # a range of a communication library


def names_of(trace: Trace) -> Names:
    def number(name: str, prefix: str) -> int:
        found = _MARKER.fullmatch(name)
        return int(found[2]) if found is not None and found[1] == prefix else NONE

    names = trace.names or ("",)
    evaluate = [n.startswith(EVALUATE) for n in names]
    if not any(evaluate):  # files of 2021, and those that other writers thinned out: the nodes themselves are all
        evaluate = [bool(_NODE.search(n)) for n in names]
    return Names(
        module=np.array([number(n, MODULE_MARKER) for n in names], dtype=np.int64),
        gradient=np.array([number(n, GRADIENT_MARKER) for n in names], dtype=np.int64),
        evaluate=np.array(evaluate),
        accumulate=np.array([is_node and "AccumulateGrad" in n for n, is_node in zip(names, evaluate, strict=True)]),
        optimizer=np.array([n.startswith("Optimizer.") for n in names]),
        updates=np.array([bool(_UPDATE.search(n)) for n in names]),
        norm=np.array(["norm" in n and "layer_norm" not in n for n in names]),
        comm_op=np.array([bool(_COMM_OP.search(n)) for n in names]),
        loader=np.array([bool(DATA.search(n)) for n in names]),
        collective=np.array([bool(COLLECTIVE.search(n)) for n in names]),
        comm_range=np.array([bool(_COMM_RANGE.search(n)) for n in names]),
        backward=np.array([n.startswith("autograd::") or n.endswith(("Backward0", "Backward")) for n in names]),
    )


def modules_of(trace: Trace, recording: Recording | None) -> tuple[list[ModuleInfo], Int64]:
    """The module table and, per interned name, the module a row of that name opens (-1 none)."""
    opens = names_of(trace).module
    if recording is not None and recording.modules:
        return recording.modules, np.where(opens < len(recording.modules), opens, NONE)
    table: list[ModuleInfo] = []
    out = np.full(len(opens), NONE, dtype=np.int64)
    for i, name in enumerate(trace.names):
        if name.startswith(MODULE_FRAME):
            path = name.removeprefix(MODULE_FRAME)
            out[i] = len(table)
            table.append(ModuleInfo(id=len(table), path=path, cls=path.rsplit("_", 1)[0]))
    return table, out
