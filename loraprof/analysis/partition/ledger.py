"""The rows of a partition while they are summed: integer keys in, exact sums out."""

import numpy as np
from msgspec import Struct

from loraprof.analysis.trace.step_windows import Window
from loraprof.model.report import Overlap, Part
from loraprof.model.trace import NONE, Int32, Int64, Ints, taken
from loraprof.model.vocabulary import CAUSE, CAUSES, CLASSES, PHASE, PHASES, ROLE, ROLES, Cause


class Ledger(Struct, frozen=True, eq=False):
    """Entries of one step. ``kind``: class id for busy time, ``len(CLASSES)`` + cause id for idle time.

    ``module`` -> attribution paths (-1 none); ``events`` how many records or gaps an entry counts. An analysis holds
    the entries of all steps, one per record or op: ids are as narrow as the trace's.
    """

    window: Window
    kind: Int32
    phase: Int32
    role: Int32
    module: Int32
    name: Int32  # -> Trace.names of the busy record; -1 idle
    op: Int32  # -> Trace.host, the innermost op that launched it (CPU: the op itself); -1 unknown
    record: Int32  # -> Trace.device; -1 idle, and on a CPU
    blocks: Int64  # grid size; -1 unknown
    ns: Int64  # time owned exclusively
    full_ns: Int64  # the record's whole duration
    events: Int64
    overlap: tuple[Overlap, ...]

    def parts(self, network: Int32 | None = None, names: tuple[str, ...] = ()) -> list[Part]:
        """Summed by (class or cause, phase, role), in the order of the vocabulary; by network too, of several.

        ``network``: per module, its position in ``names``, -1 none.
        """
        belongs = self._networks(network)
        several = len(names) > 1
        key = (self.kind * len(PHASES) + self.phase) * len(ROLES) + self.role
        key = key * (len(names) + 1) + (belongs + 1 if several else 0)
        size = int(key.max(initial=-1)) + 1
        ns, events = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        where = np.full(size, NONE, dtype=np.int64)
        np.add.at(ns, key, self.ns)
        np.add.at(events, key, self.events)
        np.maximum.at(where, key, belongs)
        out = []
        for k in np.flatnonzero((ns != 0) | (events != 0)).tolist():
            total, count, of = int(ns[k]), int(events[k]), int(where[k])
            kind, rest = divmod(k // (len(names) + 1), len(PHASES) * len(ROLES))
            phase, role = divmod(rest, len(ROLES))
            busy = kind < len(CLASSES)
            out.append(
                Part(
                    kind="busy" if busy else "idle",
                    class_=CLASSES[kind] if busy else None,
                    cause=None if busy else CAUSES[kind - len(CLASSES)],
                    phase=PHASES[phase],
                    role=ROLES[role],
                    ns=total,
                    events=count,
                    network=names[of] if of != NONE else None,
                )
            )
        return out

    def _networks(self, network: Int32 | None) -> Int32:
        """Per entry its network, -1 none."""
        return taken(network, self.module) if network is not None else np.full(len(self.module), NONE, np.int32)

    @property
    def busy(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return self.kind < len(CLASSES)


def ids(*parts: Ints) -> Int32:
    """One column of a ledger that holds no times."""
    return np.concatenate(parts, dtype=np.int32, casting="same_kind")


def idle_kind(cause: Cause) -> int:
    return len(CLASSES) + CAUSE[cause]


OTHER_PHASE, OTHER_ROLE = PHASE["other"], ROLE["other"]
