"""H6: what every layer does again with the same result, and values that every layer reads back.

What is repeated is known from the values of the counted step (``RepeatedOp``); reads show in any trace. The adapters'
own reads are L8's.
"""

import re
from collections import Counter
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import host as remedies
from loraprof.diagnosis.rows import WAITS, in_step
from loraprof.diagnosis.rule import HOST, Rule, Seen, evidence
from loraprof.diagnosis.select import at_most, of_rows, total_ns, worth
from loraprof.diagnosis.worth import Worth
from loraprof.model.trace import NONE, Bool, Int64, named, taken
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASE, ROLES, HostKind

MODULES: Final = 4  # more than q, k and v, which share their input
SHARE: Final = 0.01  # of the step
READS: Final = ("aten::item", "aten::nonzero", "aten::is_nonzero")
FRAME: Final = re.compile(r"^(?!<)(?P<file>.+\.py)\((?P<line>\d+)\): ")
LIBRARY: Final = re.compile(r"(^|/)(torch|contextlib)(/|\.py)")


class Repetition(Struct, frozen=True):
    """Work of one kind; ``saved`` None: without an unprofiled time. ``spent_ns`` of the profiled step."""

    count: int
    modules: int
    place: str
    what: str
    saved: Worth | None
    spent_ns: int
    first_line: str | None = None


def repeated_work(case: Case) -> Seen | None:
    """H6: equal small work, or a read of a device value, in every layer."""
    built, read = _built(case), _read(case)
    if built is None and read is None:
        return None
    parts = [part for part in (built, read) if part is not None]
    spent = sum(part.spent_ns for part in parts)
    if spent < SHARE * case.wall_ns:
        return None
    saved = [part.saved for part in parts if part.saved is not None]
    total = saved[0] if len(saved) == 1 else saved[0].plus(saved[1]) if saved else None
    rows = []
    if built is not None:
        rows += [
            evidence("ops whose result another module had already", built.count, "ops"),
            evidence("modules that compute it", built.modules, "modules"),
            evidence("first of them that repeats it", built.place),
            evidence("what is repeated", built.what),
            evidence("time of the repetitions", built.spent_ns, "ns"),
        ]
    if read is not None:
        rows += [
            evidence("reads of a device value outside the adapters", read.count, "per step"),
            evidence("modules that read", read.modules, "modules"),
            evidence("first of them in", read.place),
            *([evidence("at", read.first_line)] if read.first_line else []),
            evidence("time of the reads", read.spent_ns, "ns"),
        ]
    return Seen(
        evidence=rows,
        saved=total,
        spent_ns=spent,
        values={"what": built.what if built else "", "place": read.place if read else ""},
    )


def _built(case: Case) -> Repetition | None:
    recording = case.recording
    if recording is None:
        return None
    table = recording.modules
    outside = [r for r in recording.repeated if r.modules >= MODULES and table[r.module].part in (None, "base")]
    if len({r.module for r in outside}) < MODULES - 1:
        return None
    counted: Counter[tuple[int, str]] = Counter()
    for op in recording.counted:
        if op.phase == "forward":
            counted[op.module, op.op] += op.count
    shares = {(r.module, r.op): r.count / max(counted[r.module, r.op], r.count) for r in outside}
    attribution, host, names = case.analysis.attribution, case.analysis.trace.host, case.analysis.trace.names
    ids = {name: i for i, name in enumerate(names)}
    wanted = {(module, ids[op]): share for (module, op), share in shares.items() if op in ids}
    flag = np.zeros(len(host), dtype=np.bool_)
    for module, name in wanted:
        flag |= (attribution.module == module) & (host.name == name) & (attribution.phase == PHASE["forward"])
    flag &= host.kind == HostKind.OP
    select = of_rows(case, flag)
    whole = total_ns(case, select)
    if not whole:
        return None
    factor = _factor(case, flag, wanted)
    value = worth(case, select)
    kinds = Counter[str]()
    for r in outside:
        kinds[r.op] += r.count
    first = min(outside, key=lambda r: r.module)
    return Repetition(
        count=sum(r.count for r in outside),
        modules=max(r.modules for r in outside),
        place=table[first.module].path or "<model>",
        what=", ".join(op.removeprefix("aten::") for op, _ in kinds.most_common(4)),
        saved=value.times(factor) if value else None,
        spent_ns=round(factor * whole),
    )


def _factor(case: Case, flag: Bool, wanted: dict[tuple[int, int], float]) -> float:
    """Share of the flagged rows' host time that repeats: an op may also do other work in the same module."""
    host, attribution = case.analysis.trace.host, case.analysis.attribution
    rows = np.flatnonzero(flag)
    ns = (host.end - host.start)[rows].astype(np.float64)
    shares = [wanted[int(attribution.module[row]), int(host.name[row])] for row in rows]
    return float(np.average(shares, weights=ns)) if ns.sum() else 1.0


def _read(case: Case) -> Repetition | None:
    trace, attribution = case.analysis.trace, case.analysis.attribution
    inside = ~np.array([r in ADAPTER_ROLES for r in ROLES])[attribution.role] & (attribution.module >= 0)
    inside &= np.isin(attribution.phase, (PHASE["forward"], PHASE["backward"], PHASE["recompute"]))
    inside &= in_step(case)
    reads = inside & named(trace.names, lambda n: n in READS)[trace.host.name] & (trace.host.kind == HostKind.OP)
    rows = np.flatnonzero(reads)
    outer = taken(attribution.tree.nearest(reads), attribution.tree.parent[rows])
    rows = rows[outer == NONE]  # not nonzero inside is_nonzero, nor item inside it
    modules = sorted(set(attribution.module[rows].tolist()))
    if len(modules) < MODULES:
        return None
    reading = np.zeros(len(reads), np.bool_)
    reading[rows] = True
    spent, saved = _waited(case, reading, inside)
    return Repetition(
        count=len(rows),
        modules=len(modules),
        place=attribution.paths[modules[0]],
        what="",
        saved=saved,
        spent_ns=spent,
        first_line=_line(case, rows),
    )


def _waited(case: Case, reading: Bool, inside: Bool) -> tuple[int, Worth | None]:
    """On a GPU the device's idle time while the host waited; on a CPU the ops' own time. The first read stays."""
    trace, host = case.analysis.trace, case.analysis.trace.host
    left = 1 - 1 / int(reading.sum())
    if not case.analysis.on_gpu:
        select = of_rows(case, reading)
        value = worth(case, select)
        return round(left * total_ns(case, select)), value.times(left) if value else None
    waits = named(trace.names, WAITS.search)[host.name] & (host.kind == HostKind.RUNTIME)
    under = case.analysis.attribution.tree.nearest(reading) >= 0
    waited = int((host.end - host.start)[waits & inside & under].sum()) * case.scale
    spent = round(left * min(waited, case.step.ns(cause="sync")))
    return spent, at_most(case, spent) if spent else None


def _line(case: Case, rows: Int64) -> str | None:
    """file:line of the innermost frame, outside the libraries, around the first read that has one."""
    host, names = case.analysis.trace.host, case.analysis.trace.names
    frames = np.flatnonzero(host.kind == HostKind.PYTHON)
    for row in rows[:MODULES].tolist() if len(frames) else ():
        around = frames[(host.thread[frames] == host.thread[row]) & (host.start[frames] <= host.start[row])]
        around = around[host.end[around] >= host.end[row]]
        for frame in around[np.argsort(-host.start[around], kind="stable")].tolist():
            found = FRAME.match(names[host.name[frame]])
            if found and not LIBRARY.search(found["file"]):
                return f"{found['file']}:{found['line']}"
    return None


REPEATED_WORK = Rule(
    "H6",
    HOST,
    repeated_work,
    (remedies.ONCE_PER_STEP, remedies.READ_ONCE),
    thresholds={"modules": MODULES, "share": SHARE},
)
