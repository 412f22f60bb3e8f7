"""A step of a few numbers, for rules that are to be held against values worked out by hand."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from said import lines, plain, say, say_seen

from loraprof.analysis.partition.ledger import idle_kind
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.select import Select
from loraprof.diagnosis.worth import Worth
from loraprof.model.report import Unprofiled
from loraprof.model.vocabulary import CAUSES, CLASSES, PHASE, PHASES, ROLE, ROLES

COMPUTE = CLASSES.index("compute")


class Parts:
    """A step's partition: ns by (kind, role, phase, cause)."""

    def __init__(self, *parts: dict[str, Any]) -> None:
        self._parts = parts

    def ns(self, **wanted: str) -> int:
        return sum(p["ns"] for p in self._parts if all(p.get(k) == v for k, v in wanted.items()))


def ledger(*rows: tuple[int, str, str, int, int]) -> Any:
    """Entries of (kind, phase, role, module, ns)."""
    kinds, phases, roles, modules, ns = zip(*rows, strict=True)
    kind = np.array(kinds, dtype=np.int64)
    return SimpleNamespace(
        kind=kind,
        busy=kind == COMPUTE,
        phase=np.array([PHASE[p] for p in phases], dtype=np.int64),
        role=np.array([ROLE[r] for r in roles], dtype=np.int64),
        module=np.array(modules, dtype=np.int64),
        ns=np.array(ns, dtype=np.int64),
    )


def case(*, median: int | None = None, on_gpu: bool = True, **facts: Any) -> Any:
    """What is not named is unknown, or nothing."""
    unprofiled = Unprofiled(median_ns=median, low_ns=median, high_ns=median, steps=9) if median else None
    usual: dict[str, Any] = {
        "analysis": SimpleNamespace(
            on_gpu=on_gpu,
            attribution=SimpleNamespace(
                compiled=None, paths=("a", "b"), names=SimpleNamespace(loader=np.zeros(0, np.bool_))
            ),
            marks=SimpleNamespace(names=("ProfilerStep#1",)),
            trace=SimpleNamespace(host=SimpleNamespace(name=np.zeros(0, np.int64)), names=()),
        ),
        "timing": SimpleNamespace(unprofiled=unprofiled, crowded=False, tokens_per_step=512, cores=None),
        "recording": None, "workload": None, "counterfactual": None, "adapter": None, "nvml": None, "compiled": False,
        "ledger": None, "rates": None, "step": Parts(), "kernels": [], "records": [], "sites": [], "scale": 1.0,
        "timed": [], "wall_ns": 1000, "busy_ns": 1000, "op_names": frozenset(),
    }  # fmt: skip
    return Facts(**{**usual, **facts})


class Facts(SimpleNamespace):
    """A case without an analysis behind it."""

    micro_batches = Case.micro_batches

    @property
    def numbered_sites(self) -> list[tuple[int, Any]]:
        return list(enumerate(self.sites))


def values(seen: Seen | None) -> list[Any]:
    assert seen is not None
    say_seen(seen)
    return [e.value for e in seen.evidence]


def kernels(**changes: Any) -> Any:
    usual = {"role": "base.linear", "phase": "forward", "op": "aten::mm", "name": "gemm", "module": "m", "count": 1}
    return SimpleNamespace(**{**usual, "total_ns": 1, "flops": None, "min_bytes": None, **changes})


def worths(monkeypatch: pytest.MonkeyPatch, room: Any, *given: Worth | None) -> None:
    """What selected work is worth, call by call."""
    left = list(given)

    def worth(_: Any, select: Select, waiting: bool = True) -> Worth | None:
        told = plain(["the worth of", *chosen(select), "waiting" if waiting else "and no waiting"])
        if told not in lines:
            say(told)
        return left.pop(0)

    monkeypatch.setattr(room, "worth", worth)


def chosen(select: Select | None) -> list[Any]:
    """Roles, phases and kinds among an entry of each with each."""
    if select is None:
        return ["something"]
    kinds = (COMPUTE, *map(idle_kind, CAUSES))
    each = ledger(*((k, p, r, 0, 1) for k, p, r in product(kinds, PHASES, ROLES)))
    flag = select(each)
    return [
        *_named(each.role[flag], ROLES),
        *_named(each.phase[flag], PHASES),
        f"{int(flag.sum())} of {len(flag)}, {int((flag & each.busy).sum())} busy",
    ]


def _named(codes: Any, names: tuple[str, ...]) -> list[str]:
    found = np.unique(codes).tolist()
    return ["all"] if len(found) == len(names) else [names[i] for i in found]
