"""The entries of a step, written down."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import CLASSES, PHASE, ROLE, DeviceClass

BUSY, COMM = int(DeviceClass.COMPUTE), int(DeviceClass.COMM)


def column(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)


def ledger(*rows: tuple[int, str, str, int, int], **columns: list[int]) -> Ledger:
    """(class, or -1 idle; phase; role; module; ns) and, by name, columns that are not blank."""
    kind = [len(CLASSES) if k < 0 else k for k, *_ in rows]
    phase, role = [PHASE[r[1]] for r in rows], [ROLE[r[2]] for r in rows]  # type: ignore[index]
    module, ns = ([int(r[i]) for r in rows] for i in (3, 4))
    blank = [NONE] * len(rows)
    made: dict[str, Any] = {
        "kind": kind,
        "phase": phase,
        "role": role,
        "module": module,
        "ns": ns,
        "full_ns": ns,
        "events": [1] * len(rows),
    }
    made |= {"name": blank, "op": blank, "record": blank, "blocks": blank} | columns
    sizes = {"blocks", "ns", "full_ns", "events"}
    arrays: dict[str, Any] = {
        key: np.array(values, np.int64 if key in sizes else np.int32) for key, values in made.items()
    }
    return Ledger(window=Window("w", 0, sum(ns), 0, sum(ns), 0), overlap=(), **arrays)
