"""B13: which kernel ran each attention call, and what kept the faster one away?

A recording holds torch's own answers (``AttentionCall``); a trace alone shows the kernel and the arguments, but not
whether a mask masks anything.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import base as remedies
from loraprof.diagnosis.rows import in_step
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import Select, both, modules, roles, total_ns, within, worth
from loraprof.diagnosis.worth import Assumed, Worth
from loraprof.model.recording import AttentionCall, Backend
from loraprof.model.trace import Shapes, named
from loraprof.model.vocabulary import PHASE, HostKind

SHARE: Final = 0.01  # of the step: attention below it is not worth a word
UNTIMED: Final = Assumed(
    0.2, 0.5, 0.8, "huggingface/transformers#30461: 3,247 to 2,483 tokens/s when a mask took the fast kernel away"
)
TOP: Final = "aten::scaled_dot_product_attention"
KERNELS: Final[Mapping[str, Backend]] = {
    "aten::_scaled_dot_product_attention_math": "math",
    "aten::_scaled_dot_product_efficient_attention": "efficient",
    "aten::_scaled_dot_product_flash_attention": "flash",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_scaled_dot_product_cudnn_attention": "cudnn",
    "aten::_scaled_dot_product_fused_attention_overrideable": "overrideable",
}
MOST_HEAD: Final = 256  # head size up to which flash attention exists


class Lost(Struct, frozen=True):
    """Calls per step that a faster kernel could have run."""

    count: int
    of: int
    ran: str
    faster: str | None
    reasons: tuple[str, ...]
    fixes: tuple[str, ...]  # names of remedies
    select: Select
    said: str | None = None
    saved: tuple[float, float, float] | None = None  # measured share of their time


def lost_attention(case: Case) -> Seen | None:
    """B13: attention ran with a slower kernel than torch has for it."""
    lost = _from_recording(case) if case.recording and case.recording.attention else _from_trace(case)
    if lost is None:
        return None
    spent = total_ns(case, lost.select)
    if spent < SHARE * case.wall_ns:
        return None
    return Seen(
        evidence=[
            evidence("attention calls in forward with a slower kernel", lost.count, "calls"),
            evidence("of all", lost.of, "calls"),
            evidence("the kernel that ran", lost.ran),
            evidence("what could run", lost.faster),
            evidence("in its way", ", ".join(lost.reasons) or None),
            *([evidence("torch says", lost.said)] if lost.said else []),
            evidence("their time", spent, "ns"),
            evidence("faster alone, measured after the step", lost.saved[0] if lost.saved else None, "share"),
        ],
        saved=_saved(worth(case, lost.select), lost.saved),
        spent_ns=spent,
        values={"fixes": lost.fixes},
    )


def _saved(whole: Worth | None, shares: tuple[float, float, float] | None) -> Worth | None:
    if whole is None:
        return None
    if shares is None:
        return whole.share(UNTIMED)
    likely, low, high = shares
    return replace(whole.times(likely), low=whole.low * low, high=whole.high * high)


def _from_recording(case: Case) -> Lost | None:
    assert case.recording is not None
    calls = case.recording.attention
    slow = [c for c in calls if c.faster]
    if not slow:
        return None
    main = max(slow, key=lambda c: (c.ran_ns or 0) * c.count)
    owners = {c.module for c in slow}
    known = [(c.count, c.ran_ns, c.faster_ns) for c in slow if c.ran_ns and c.faster_ns]
    return Lost(
        count=sum(c.count for c in slow),
        of=sum(c.count for c in calls),
        ran=str(main.backend),
        faster=main.faster,
        reasons=tuple(_reasons(main)),
        fixes=tuple(_fixes(main)),
        select=both(modules(case, lambda m: m.id in owners), roles("attention")),
        said=main.said,
        saved=_shares(known) if known else None,
    )


def _shares(known: list[tuple[int, int, int]]) -> tuple[float, float, float]:
    """Share of the calls' time that the faster kernel saves, of (count, ns, ns of the faster one); the ends are those
    of the single kinds."""
    each = [max(1 - faster / ran, 0.0) for _, ran, faster in known]
    ran = [count * ran for count, ran, _ in known]
    mean = float(np.average(each, weights=ran))
    return mean, min(each), max(each)


def _reasons(call: AttentionCall) -> list[str]:
    masks = {
        "all true": "a mask that masks nothing",
        "causal": "a mask that is only causal",
        "needed": "a mask",
        "none": "",
    }
    words = {
        "mask": masks[call.mask],
        "dropout": f"dropout {call.dropout:g}",
        "layout": "a last dimension that is not contiguous",
        "dtype": call.dtype,
        "head size": f"head size {call.query[-1]}"
        + (f" with values of {call.value[-1]}" if call.value[-1] != call.query[-1] else ""),
    }
    return [words[o] for o in call.obstacles]


FIXES: Final[Mapping[str, str]] = {
    "dropout": "NO_ATTENTION_DROPOUT",
    "layout": "CONTIGUOUS_HEADS",
    "dtype": "HALF_ATTENTION",
    "head size": "PADDED_HEADS",
}


def _fixes(call: AttentionCall) -> list[str]:
    mask = "NO_MASK" if call.mask != "needed" else "VARIABLE_LENGTH"
    return [FIXES.get(o, mask) for o in call.obstacles]


def _from_trace(case: Case) -> Lost | None:
    """From the names and arguments of the ops: which kernel each call of forward led to."""
    trace, host, attribution = case.analysis.trace, case.analysis.trace.host, case.analysis.attribution
    inside = (host.kind == HostKind.OP) & in_step(case) & (attribution.phase != PHASE["recompute"])
    above = attribution.tree.nearest(inside & named(trace.names, lambda n: n == TOP)[host.name])
    ran = np.flatnonzero(inside & named(trace.names, KERNELS.__contains__)[host.name])
    calls: dict[int, Backend] = {int(above[row]): KERNELS[trace.names[host.name[row]]] for row in ran}
    calls.pop(-1, None)
    found: Counter[tuple[Backend, tuple[str, ...]]] = Counter()
    for row, backend in calls.items():
        shape = int(host.shapes[row])
        why = _why(trace.shapes[shape], case.analysis.on_gpu) if shape >= 0 else ()
        if backend == "math" or (backend == "efficient" and why):
            found[backend, why] += 1
    if not found:
        return None
    (backend, why), _ = found.most_common(1)[0]
    fixes = {"dropout": "NO_ATTENTION_DROPOUT", "head": "PADDED_HEADS", "float32": "HALF_ATTENTION"}
    return Lost(
        count=sum(found.values()),
        of=len(calls),
        ran=backend,
        faster="flash" if why else None,
        reasons=why,
        fixes=tuple(fixes.get(w.split(maxsplit=1)[0], "NO_MASK") for w in why) or ("NO_MASK",),
        select=within(case, "scaled_dot_product|ScaledDotProduct"),
    )


def _why(shapes: Shapes, on_gpu: bool) -> tuple[str, ...]:
    """Arguments that flash attention refuses."""
    reasons = []
    if on_gpu and len(shapes.dims) > 3 and shapes.dims[3]:
        reasons.append("a mask")
    dropout = _number(shapes.concrete[4]) if len(shapes.concrete) > 4 else 0.0
    if not on_gpu and dropout:
        reasons.append(f"dropout {dropout:g}")
    if on_gpu and shapes.types[:1] == ("float",):
        reasons.append("float32")
    match shapes.dims[:1]:
        case ((*_, int(size)),) if size > MOST_HEAD or size % 8:
            reasons.append(f"head size {size}")
    return tuple(reasons)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


LOST_ATTENTION = Rule(
    "B13",
    BASE,
    lost_attention,
    (
        remedies.NO_MASK,
        remedies.VARIABLE_LENGTH,
        remedies.NO_ATTENTION_DROPOUT,
        remedies.CONTIGUOUS_HEADS,
        remedies.HALF_ATTENTION,
        remedies.PADDED_HEADS,
    ),
    thresholds={"share": SHARE},
)
