"""A profiler trace as columns: what the file said, in integer nanoseconds, with names interned.

Events are columns, not objects: a trace has up to tens of millions of them. All columns of one table have the
same length; ``NONE`` in an id column means the file did not say. Nothing here is inferred.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]  # of any width
Integer = TypeVar("Integer", bound=np.integer)

NONE: Final = -1


def distinct(column: npt.NDArray[Integer]) -> npt.NDArray[Integer]:
    """Each value once, ascending.

    ``np.unique`` hashes first, which is slower where most differ, and loads ``numpy.ma`` to ask for a mask.
    """
    ordered = np.sort(column, axis=None, kind="stable")  # quicker where it is nearly in order, as most columns are
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def among(column: npt.NDArray[Integer], values: npt.ArrayLike) -> Bool:
    """Which of a column are in ``values``: ``np.isin`` for many different values, without ``np.unique``."""
    known = distinct(np.asarray(values, column.dtype))
    if not len(known):
        return np.zeros(len(column), dtype=np.bool_)
    found: Bool = known[np.minimum(np.searchsorted(known, column), len(known) - 1)] == column
    return found


def taken(column: npt.NDArray[Integer], at: Ints, default: int = NONE) -> npt.NDArray[Integer]:
    """``column[at]``; ``default`` where ``at`` is ``NONE``."""
    if not len(column):
        return np.full(len(at), default, column.dtype)
    found = column[at]
    found[at == NONE] = default
    return found


def named(names: Iterable[str], test: Callable[[str], object]) -> Bool:
    """Of each name, whether it passes; indexed with a name column: of its rows."""
    return np.array([bool(test(name)) for name in names], dtype=np.bool_)


def numbered(*columns: npt.NDArray[Any]) -> Int64:
    """One number per row of these columns, the same for equal rows; values from ``NONE`` on."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        key *= int(column.max(initial=0)) + 2
        key += column
        key += 1
    return key


class Shapes(Struct, frozen=True):
    """Inputs of an op as recorded with ``record_shapes``; a scalar or absent input has the empty shape.

    ``dims[i]`` is the shape of input i, or a tuple of shapes for a tensor list.
    """

    dims: tuple[tuple[object, ...], ...]
    types: tuple[str, ...]
    strides: tuple[tuple[object, ...], ...] = ()
    concrete: tuple[str, ...] = ()  # "Concrete Inputs": scalars as text, "" for tensors; () when not recorded
    moved_bytes: int | None = None  # what the compiler says its kernel moves at least
    flops: int | None = None  # and computes in matrix products


class Collective(Struct, frozen=True):
    """Arguments Kineto copies from ``record_param_comms`` to an NCCL kernel. ``None``: not recorded."""

    name: str
    dtype: str
    in_elements: int | None
    out_elements: int | None
    group_size: int | None
    group: str
    sequence: int | None


class Group(Struct, frozen=True):
    """A process group of ``distributedInfo``; ``ranks`` is empty where the file does not list them."""

    name: str
    size: int | None
    ranks: tuple[int, ...] = ()


class HostTable(Struct, frozen=True, eq=False):
    """Records on host threads, sorted by (thread, start, -end, kind, name)."""

    start: Int64  # ns
    end: Int64  # ns, >= start
    kind: Int8  # HostKind
    name: Int32  # -> Trace.names
    thread: Int32  # -> Trace.threads
    correlation: Int64  # runtime calls only; -1 otherwise
    sequence: Int64  # autograd sequence number; -1 none
    fwd_thread: Int64  # Kineto's logical forward thread; 0 on forward ops, -1 not recorded
    shapes: Int32  # -> Trace.shapes; -1 none
    collective: Int32  # -> Trace.collectives; -1 none

    def __len__(self) -> int:
        return len(self.start)


class DeviceTable(Struct, frozen=True, eq=False):
    """Kernels, copies and memsets, sorted by (start, device, stream, correlation, end, name)."""

    start: Int64
    end: Int64
    kind: Int8  # DeviceKind
    name: Int32  # -> Trace.names
    device: Int32  # device index as in the file; -1 unknown
    stream: Int64
    correlation: Int64  # -1 none
    graph_node: Int64  # CUDA graph node id; -1 none
    bytes: Int64  # copies and memsets; -1 not recorded
    blocks: Int64  # product of the grid; -1 not recorded
    threads: Int32  # product of the block; -1 not recorded
    collective: Int32  # -> Trace.collectives; -1 none

    def __len__(self) -> int:
        return len(self.start)


class DeviceFacts(Struct, frozen=True):
    """One entry of ``deviceProperties``; ``None`` where the writer left it out."""

    index: int
    name: str
    memory_bytes: int | None = None
    sms: int | None = None
    capability: tuple[int, int] | None = None


class Faults(Struct, frozen=True):
    """What was wrong with the file's events; each is also a line in ``Trace.notes`` when not 0."""

    zero_timestamps: int = 0  # device records with ts = 0, or with dur = 0 where times are finer than 1 us
    missing_ts: int = 0
    negative_durations: int = 0
    not_finite: int = 0
    duplicates: int = 0
    unknown_categories: int = 0


class Trace(Struct, frozen=True, eq=False):
    """One rank's profiler trace."""

    names: tuple[str, ...]
    threads: tuple[tuple[str, str], ...]  # (pid, tid)
    shapes: tuple[Shapes, ...]
    collectives: tuple[Collective, ...]
    host: HostTable
    device: DeviceTable
    gpus: tuple[DeviceFacts, ...] = ()
    base_ns: int | None = None  # epoch of time 0
    rank: int | None = None
    world_size: int | None = None
    groups: tuple[Group, ...] = ()
    rocm: bool = False
    has_shapes: bool = False
    unread: tuple[str, ...] = ()  # categories of records of an accelerator whose meaning is not known
    faults: Faults = field(default_factory=Faults)
    notes: tuple[str, ...] = ()

    def shapes_of(self, row: int) -> Shapes | None:
        """The inputs of a host row; None where they were not recorded."""
        at = int(self.host.shapes[row])
        return None if at == NONE else self.shapes[at]
