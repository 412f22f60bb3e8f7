"""B14: one op far below the roof that its neighbours reach, and whether a version of torch is known for it."""

import re
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import base as remedies
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import of_rows, total_ns, worth
from loraprof.model.finding import Evidence
from loraprof.model.regression import Regression
from loraprof.model.trace import NONE, Bool, Shapes, among, named, numbered
from loraprof.model.vocabulary import HostKind
from loraprof.store.regressions import load_regressions

SHARE: Final = 0.05  # of the step, the op's
NEIGHBOURS: Final = 3  # calls that it is held against
RATIO: Final = 0.2  # of the roof that these reach
LEAST: Final = 30  # times a tiny kernel's time: what is shorter has no rate of its own
DTYPES: Final = {"float": "float32", "c10::BFloat16": "bfloat16", "c10::Half": "float16", "double": "float64"}


class Rate(Struct, frozen=True):
    """Calls of one product: their time, their host rows, and the share of its roof that each reached."""

    ns: int
    rows: tuple[int, ...]
    reached: tuple[float, ...]

    @property
    def best(self) -> float:
        """Of the fastest call: something else on the machine slows single ones down."""
        return max(self.reached)

    @property
    def usual(self) -> float:
        return median(self.reached)


def slow_op(case: Case) -> Seen | None:
    """B14: products of one op and dtype are many times slower, for their work, than all others of the step."""
    known, op, flag = _known(case)
    rates = _rates(case)
    slow = _outlier(case, rates, op)
    if slow is not None:
        op, flag = slow, _like(case, rates[slow].rows)
    elif op is None or _fast(rates.get(op)):
        return None
    select = of_rows(case, flag)
    spent = total_ns(case, select)
    if spent < SHARE * case.wall_ns:
        return None
    assert op is not None
    neighbours = _others(rates, op)
    reached = _best(case, rates[op]) if op in rates else None
    whole = worth(case, select)
    saved_share = 1 - reached / neighbours.usual if slow and reached is not None and neighbours else None
    saved = (
        whole.times(saved_share) if whole and saved_share else whole.share(remedies.KNOWN_REGRESSION) if whole else None
    )
    return Seen(
        evidence=[
            evidence("op", f"{op[0]} in {op[1]}"),
            evidence("its time", spent, "ns"),
            evidence("of its roof, at best", reached, "share"),
            evidence(
                "what the other products reach of theirs, the median", neighbours.usual if neighbours else None, "share"
            ),
            *_sources(case, known),
        ],
        saved=saved,
        spent_ns=spent,
        values={
            "op": op[0],
            "module": _module(case, flag),
            "mended": known.mended if known else "",
            "patch": known.patch if known else "",
        },
    )


Op = tuple[str, str]  # name and dtype


def _rates(case: Case) -> dict[Op, Rate]:
    """Of all products whose roof is known and longer than a tiny kernel."""
    ceiling, busy = case.limits.ceiling, case.busy
    if ceiling is None:
        return {}
    found: dict[Op, list[tuple[int, int, float]]] = defaultdict(list)
    rows = zip(busy.ns.tolist(), case.ledger.op[busy.rows].tolist(), busy.op, busy.work, case.limits.roofs, strict=True)
    for ns, row, op, work, best in rows:
        if work is None or best is None or not work.flops or not ns or best.ns < LEAST * ceiling.least_ns:
            continue
        found[(op or "").removeprefix("aten::"), work.dtype or ""].append((ns, row, best.ns / ns))
    return {op: _rate(calls) for op, calls in found.items()}


def _rate(calls: list[tuple[int, int, float]]) -> Rate:
    ns, rows, reached = zip(*calls, strict=True)
    return Rate(sum(ns), rows, reached)


def _others(rates: dict[Op, Rate], op: Op) -> Rate | None:
    neighbours = [rate for name, rate in rates.items() if name != op]
    reached = tuple(share for rate in neighbours for share in rate.reached)
    return Rate(sum(rate.ns for rate in neighbours), (), reached) if neighbours else None


def _best(case: Case, rate: Rate) -> float:
    """Share of its roof in the recorded step in which it took least."""
    select = of_rows(case, _like(case, rate.rows))
    per_step = [int(ledger.ns[select(ledger)].sum()) for ledger in case.analysis.ledgers]
    reported_ns, least_ns = (
        int(case.ledger.ns[select(case.ledger)].sum()),
        min((ns for ns in per_step if ns), default=0),
    )
    return rate.best * reported_ns / least_ns if least_ns else rate.best


def _outlier(case: Case, rates: dict[Op, Rate], known: Op | None) -> Op | None:
    """The op of most time that reaches RATIO of what the others do; the known one if it does."""
    slow = []
    for op, rate in rates.items():
        neighbours = _others(rates, op)
        enough = neighbours is not None and len(neighbours.reached) >= NEIGHBOURS and rate.ns >= SHARE * case.wall_ns
        if enough and neighbours is not None and _best(case, rate) < RATIO * neighbours.usual:
            slow.append(op)
    return known if known in slow else max(slow, key=lambda op: rates[op].ns, default=None)


def _fast(rate: Rate | None) -> bool:
    """Whether it is known not to be slow."""
    return rate is not None and rate.best >= RATIO


def _like(case: Case, rows: tuple[int, ...]) -> Bool:
    """Host rows, of every step, of the same op with the same kind of inputs."""
    host, known = case.analysis.trace.host, [row for row in rows if row != NONE]
    called, found = np.zeros(len(case.analysis.trace.names), np.bool_), np.zeros(len(host), np.bool_)
    called[host.name[known]] = True
    named_so = np.flatnonzero(called[host.name])
    key = numbered(host.name[named_so], host.shapes[named_so])
    found[named_so] = among(key, key[np.searchsorted(named_so, known)])
    return found


def _known(case: Case) -> tuple[Regression | None, Op | None, Bool]:
    """The first regression of this software whose op the step has, that op, and its host rows."""
    host, trace, recording = case.analysis.trace.host, case.analysis.trace, case.recording
    flag = np.zeros(len(host), dtype=np.bool_)
    if recording is None:
        return None, None, flag
    for regression in load_regressions():
        if not regression.holds(recording.environment, recording.device):
            continue
        called = named(trace.names, re.compile(regression.op).search)[host.name]
        kinds = np.array([*(_is_like(regression, shapes) for shapes in trace.shapes), False])[host.shapes]
        flag = called & kinds & (host.kind == HostKind.OP)
        if flag.any():
            first = int(np.flatnonzero(flag)[0])
            dtype = DTYPES.get(trace.shapes[int(host.shapes[first])].types[0], "")
            return regression, (trace.names[int(host.name[first])].removeprefix("aten::"), dtype), flag
    return None, None, np.zeros(len(host), dtype=np.bool_)


def _is_like(regression: Regression, shapes: Shapes) -> bool:
    weight = shapes.dims[1] if len(shapes.dims) > 1 else ()
    axes = len(weight) - 2 if isinstance(weight, tuple) else None
    dtype = DTYPES.get(shapes.types[0], "") if shapes.types else ""
    return (regression.axes is None or axes == regression.axes) and (
        not regression.dtypes or dtype in regression.dtypes
    )


def _sources(case: Case, known: Regression | None) -> Iterator[Evidence]:
    if known is None:
        return
    assert case.recording is not None
    yield evidence("known of this version", f"{known.source}, torch {case.recording.environment.torch}")
    yield evidence("slower, as reported there", f"{known.slower[0]:g} to {known.slower[1]:g} times")
    yield evidence("mended in", known.mended)


def _module(case: Case, flag: Bool) -> str:
    """Path of the module with most of these rows' time."""
    attribution, host = case.analysis.attribution, case.analysis.trace.host
    rows = np.flatnonzero(flag & (attribution.module >= 0))
    if not len(rows):
        return "the model"
    totals = np.bincount(attribution.module[rows], (host.end - host.start)[rows])
    return attribution.paths[int(totals.argmax())]


SLOW_OP = Rule(
    "B14",
    BASE,
    slow_op,
    (remedies.MENDED_VERSION, remedies.SAME_WORK_OTHERWISE, remedies.LOOK_AT_OP),
    thresholds={"share": SHARE, "ratio": RATIO, "neighbours": NEIGHBOURS},
)
