"""How long does an attention call take with the kernel that ran, and with the faster one that it could have?

Forward and backward alone, on random values of the call's shapes: the difference is what the faster kernel gains.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from msgspec.structs import replace

from loraprof.capture.device.kinds import measured
from loraprof.capture.device.stopwatch import LEAST, MOST, undisturbed
from loraprof.model.recording import AttentionCall

BUDGET_NS: Final = 2_000_000_000


def attention_costs(calls: Sequence[AttentionCall], device: torch.device) -> list[AttentionCall]:
    """``calls`` with both times where a faster kernel was lost; what does not fit into the budget has none."""
    kinds = dict.fromkeys(replace(c, module=0, count=0) for c in map(_hashable, calls) if c.faster)
    until = time.perf_counter_ns() + BUDGET_NS
    with measured(device).kept_rng():
        for i, kind in enumerate(kinds):
            kinds[kind] = _both(kind, device, (until - time.perf_counter_ns()) // (2 * (len(kinds) - i)))
    found = [(call, kinds.get(replace(_hashable(call), module=0, count=0))) for call in calls]
    return [replace(call, ran_ns=pair[0], faster_ns=pair[1]) if pair else call for call, pair in found]


def _hashable(call: AttentionCall) -> Any:
    return replace(call, obstacles=tuple(call.obstacles))


def _both(call: AttentionCall, device: torch.device, budget_ns: int) -> tuple[int, int] | None:
    try:
        ran, faster = (_time(call, device, changed, budget_ns) for changed in (False, True))
    except (RuntimeError, ValueError):
        return None
    return (ran, faster) if ran and faster else None


def _time(call: AttentionCall, device: torch.device, changed: bool, budget_ns: int) -> int | None:
    run, clock = _work(call, device, changed), measured(device).time_ns
    run()
    times: list[float] = []
    until = time.perf_counter_ns() + budget_ns
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter_ns() < until):
        times.append(clock(run, 1))
        if sum(times) > budget_ns:
            return None
    return max(1, round(undisturbed(times)))


def _work(call: AttentionCall, device: torch.device, changed: bool) -> Callable[[], object]:
    """Forward and backward of the call, as it was or without what was in the way."""
    removed = call.obstacles if changed else ()
    dtype = torch.bfloat16 if "dtype" in removed else getattr(torch, call.dtype)
    wide = -(-max(call.query[-1], call.value[-1]) // 8) * 8 if "head size" in removed else None
    shapes = [(*s[:-1], wide or s[-1]) for s in (call.query, call.key, call.value)]
    q, k, v = (torch.randn(s, device=device).to(dtype).requires_grad_() for s in shapes)
    mask = None
    if call.mask_shape is not None and "mask" not in removed:
        full = torch.ones(call.query[-2], call.key[-2], dtype=torch.bool, device=device)
        mask = (full if call.mask == "all true" else full.tril()).expand(call.mask_shape)
    keywords = {
        "attn_mask": mask,
        "dropout_p": 0.0 if "dropout" in removed else call.dropout,
        "is_causal": call.causal or ("mask" in removed and call.mask == "causal"),
        **({"enable_gqa": True} if call.query[-3:-2] != call.key[-3:-2] else {}),
    }
    attend: Any = torch.nn.functional.scaled_dot_product_attention
    upstream = torch.randn_like(attend(q, k, v, **keywords))
    return lambda: torch.autograd.grad(attend(q, k, v, **keywords), (q, k, v), upstream)
