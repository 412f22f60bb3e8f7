"""Which kernel runs each attention call of the counted step, and what keeps the faster one away?

``scaled_dot_product_attention`` is watched under every name that a loaded module has for it. What would run is asked of
torch itself (``torch._fused_sdp_choice``), first as called, then with one thing changed at a time: what makes it choose
a faster kernel is what was in the way.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from msgspec import structs
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from loraprof.capture.adapters.sites import dtype_name
from loraprof.capture.device.kinds import measured
from loraprof.model.recording import RANKS, AttentionCall, Backend, MaskUse, Obstacle

NAME: Final = "scaled_dot_product_attention"
ATTENTION: Final[Any] = torch._C._nn.scaled_dot_product_attention
BACKENDS: Final[Mapping[int, Backend]] = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn", 4: "overrideable"}
MASKED: Final = -1e4  # what is added to a score that shall not count is below
WIDTH: Final = 8  # flash kernels want head sizes that this divides


@dataclass(frozen=True, slots=True)
class Inputs:
    """One call's arguments, as far as the choice depends on them."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    grouped: bool = False

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """With query, key and value changed."""
        return replace(self, query=change(self.query), key=change(self.key), value=change(self.value))

    def backend(self) -> Backend | None:
        """What torch would run; None where nothing can."""
        choice: Any = torch._fused_sdp_choice
        keywords = {"enable_gqa": True} if self.grouped else {}  # torch 2.5
        number = choice(self.query, self.key, self.value, self.mask, self.dropout, self.causal, **keywords)
        return BACKENDS.get(int(number))

    def refusal(self) -> str | None:
        """Torch's own words on why flash attention cannot run; None where it says nothing."""
        arguments = self.query, self.key, self.value, self.mask, self.dropout, self.causal, self.grouped
        return measured(self.query.device).flash_refusal(arguments)


def changes(one: Inputs, use: MaskUse) -> Iterator[tuple[tuple[Obstacle, ...], Inputs]]:
    """What could be otherwise, the least change first, and at last all of it."""
    without: list[tuple[Obstacle, Callable[[Inputs], Inputs]]] = []
    if one.mask is not None:
        without.append(("mask", lambda x: replace(x, mask=None, causal=use == "causal")))
    if one.dropout:
        without.append(("dropout", lambda x: replace(x, dropout=0.0)))
    if any(t.stride(-1) != 1 for t in (one.query, one.key, one.value)):
        without.append(("layout", lambda x: x.map(lambda t: _like(t, t.shape))))
    if one.query.dtype == torch.float32 and one.query.device.type != "cpu":
        without.append(("dtype", lambda x: x.map(lambda t: _like(t, t.shape, torch.bfloat16))))
    if one.query.shape[-1] % WIDTH or one.value.shape[-1] != one.query.shape[-1]:
        wide = -(-max(one.query.shape[-1], one.value.shape[-1]) // WIDTH) * WIDTH
        without.append(("head size", lambda x: x.map(lambda t: _like(t, (*t.shape[:-1], wide)))))
    for obstacle, change in without:
        yield (obstacle,), change(one)
    if len(without) > 1:
        for _, change in without:
            one = change(one)
        yield tuple(obstacle for obstacle, _ in without), one


def _like(t: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or t.dtype, device=t.device, requires_grad=t.requires_grad)


def mask_use(mask: Tensor | None, queries: int, keys: int) -> MaskUse:
    """What a mask masks: nothing ("all true"), the future and nothing else ("causal"), or something of its own."""
    if mask is None:
        return "none"
    attended = mask if mask.dtype == torch.bool else mask == 0
    if mask.dtype != torch.bool and not bool((attended | (mask < MASKED)).all()):
        return "needed"  # a bias
    if bool(attended.all()):
        return "all true"
    triangle = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril()
    return "causal" if queries == keys and bool((attended == triangle).all()) else "needed"


class AttentionWatch:
    """Between ``open`` and ``close`` the calls of the forward pass are noted; ``where`` as for ``Counting``."""

    def __init__(self, where: Callable[[], tuple[int, str, int]]) -> None:
        self._where = where
        self._seen: Counter[Any] = Counter()
        self._calls: dict[Any, AttentionCall] = {}
        self._names: list[dict[str, Any]] = []
        self._mask: tuple[Any, int, MaskUse] = None, 0, "none"
        self.failed: str | None = None

    def open(self) -> None:
        spaces = [getattr(module, "__dict__", None) for module in list(sys.modules.values())]
        self._names = [s for s in spaces if isinstance(s, dict) and s.get(NAME) is ATTENTION]
        for names in self._names:
            names[NAME] = self._called

    def close(self) -> None:
        """Safe to call more than once."""
        for names in self._names:
            names[NAME] = ATTENTION
        self._names, self._mask = [], (None, 0, "none")

    def calls(self) -> list[AttentionCall]:
        """One per module and kind of call."""
        return [structs.replace(call, count=self._seen[key]) for key, call in self._calls.items()]

    def _called(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Any:
        out = ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **more)
        module, phase, _ = self._where()
        if phase != "recompute":
            try:
                with _disable_current_modes():
                    one = Inputs(query, key, value, attn_mask, dropout_p, is_causal, bool(more.get("enable_gqa")))
                    self._note(module, one)
            except Exception as error:  # what cannot be asked stays unknown: the training goes on
                self.failed = f"an attention call could not be examined, {type(error).__name__}: {error}"
        return out

    def _note(self, module: int, one: Inputs) -> None:
        kind = one.query.device.type
        if torch.is_autocast_enabled(kind) and one.query.dtype != torch.get_autocast_dtype(kind):
            one = one.map(lambda t: _like(t, t.shape, torch.get_autocast_dtype(kind)))
        use = self._use(one)
        shapes = tuple(one.query.shape), tuple(one.key.shape), tuple(one.value.shape)
        masked = tuple(one.mask.shape) if one.mask is not None else None
        own = dtype_name(one.query), use, masked, one.causal, float(one.dropout), one.query.stride(-1)
        key = module, shapes, own
        self._seen[key] += 1
        if key in self._calls:
            return
        ran = one.backend()
        best: Backend | None = None
        changed: tuple[Obstacle, ...] = ()
        for obstacles, changed_call in changes(one, use):
            found = changed_call.backend()
            if found and RANKS[found] > RANKS[ran or "math"]:
                best, changed = found, obstacles
                break
        self._calls[key] = AttentionCall(
            module=module,
            query=shapes[0],
            key=shapes[1],
            value=shapes[2],
            dtype=own[0],
            mask=use,
            mask_shape=masked,
            causal=one.causal,
            dropout=own[4],
            backend=ran,
            faster=best,
            obstacles=list(changed),
            said=one.refusal() if changed else None,
        )

    def _use(self, one: Inputs) -> MaskUse:
        """Layers share a mask: that of the last call is not read again."""
        if one.mask is None:
            return "none"
        last, version, use = self._mask
        if last is not one.mask or version != one.mask._version:
            use = mask_use(one.mask, one.query.shape[-2], one.key.shape[-2])
            self._mask = one.mask, one.mask._version, use
        return use
