"""The closed word lists of the report: phases, roles, idle causes, classes, record kinds.

Columns hold small integers; these tuples and enums give them their names. Order is part of the recording's
meaning only inside one process: files always carry the names.
"""

from enum import IntEnum
from typing import Final, Literal, get_args


class HostKind(IntEnum):
    """What a record on a host thread is."""

    OP = 0  # cpu_op: ATen and autograd ops
    ANNOTATION = 1  # user_annotation: record_function ranges, ProfilerStep#, Optimizer.step#
    PYTHON = 2  # python_function frames (with_stack)
    RUNTIME = 3  # cuda_runtime and cuda_driver calls (hip names too)
    OVERHEAD = 4  # profiler overhead records
    MARKER = 5  # loraprof's own module markers (exported as cpu_op, never busy time)


class DeviceKind(IntEnum):
    """What a record on a device stream is."""

    KERNEL = 0
    MEMCPY = 1
    MEMSET = 2


class DeviceClass(IntEnum):
    """Who owns an instant where device records overlap: the lower value wins."""

    COMPUTE = 0
    COMM = 1
    COPY = 2


# Types and lists are one: a misspelt word is a type error, and a sum over rows that do not exist is never 0 unseen.
Kind = Literal["busy", "idle"]
Class = Literal["compute", "comm", "copy"]
Cause = Literal[
    "python",
    "framework",
    "launch_api",
    "launch_latency",
    "sync",
    "data",
    "allocator",
    "profiler",
    "turnaround",
    "queued",
    "unknown",
]
Phase = Literal["forward", "backward", "recompute", "optimizer", "other", "generate"]
Role = Literal[
    "base.linear",
    "adapter.down",
    "adapter.up",
    "adapter.elementwise",
    "attention",
    "position",
    "norm",
    "activation",
    "residual",
    "dropout",
    "pooling",
    "embedding",
    "head",
    "loss",
    "dequant",
    "optimizer",
    "grad_clip",
    "comm",
    "copy",
    "other",
]

CLASSES: Final[tuple[Class, ...]] = get_args(Class)
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
ROLES: Final[tuple[Role, ...]] = get_args(Role)

CAUSE: Final[dict[Cause, int]] = {name: i for i, name in enumerate(CAUSES)}
PHASE: Final[dict[Phase, int]] = {name: i for i, name in enumerate(PHASES)}
ROLE: Final[dict[Role, int]] = {name: i for i, name in enumerate(ROLES)}

ADAPTER_ROLES: Final[tuple[Role, ...]] = ("adapter.down", "adapter.up", "adapter.elementwise")

# Owners that are not modules.
OPTIMIZER: Final = "<optimizer>"
GRAD_CLIP: Final = "<grad_clip>"
LOSS: Final = "<loss>"

# loraprof's own ranges in a trace: "loraprof::m<id>" opens with a module call, "loraprof::g<id>" is emitted
# when parameter <id> has accumulated its gradient.
MARKER_PREFIX: Final = "loraprof::"
MODULE_MARKER: Final = "loraprof::m"
GRADIENT_MARKER: Final = "loraprof::g"
