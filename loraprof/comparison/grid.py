"""Which workloads does a grid hold, and where in it does LoRA begin to gain?

Between two neighbours of a row whose speed-ups lie on different sides of 1 the crossover is where the straight line
through (log x, log speed-up) meets 0: both change by factors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product

from loraprof.errors import UsageError
from loraprof.model.sweep import Crossover, SweepCell

Values = dict[str, str]


def parse_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """``rank=4,8 tokens=256`` -> axes in the order given. Raises UsageError."""
    axes: dict[str, list[str]] = {}
    for word in words:
        name, _, text = word.partition("=")
        values = [value.strip() for value in text.split(",")]
        if not name or not all(values):
            raise UsageError(f"{word!r} is not an axis of a sweep", "write for example rank=4,8,16")
        if name in axes or len(set(values)) < len(values):
            raise UsageError(f"{word!r} names an axis or a value twice")
        axes[name] = values
    if not axes:
        raise UsageError("a sweep needs an axis", "write for example --over rank=4,8 tokens=256,1024")
    return axes


def grid(axes: Mapping[str, Sequence[str]]) -> list[Values]:
    """Every combination, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def key_of(values: Values) -> str:
    """A cell's name, usable as a file name for the values that options take."""
    return ",".join(f"{name}={value}" for name, value in values.items()).replace("/", "_")


def resized(config: Mapping[str, object], hidden: int) -> dict[str, int]:
    """The config's keys for another hidden size: heads keep their width, the rest its ratio. Raises UsageError."""
    wide = "n_embd" if "n_embd" in config else "hidden_size"
    heads_key = "n_head" if "n_head" in config else "num_attention_heads"
    old, heads = config.get(wide), config.get(heads_key)
    if not isinstance(old, int) or not isinstance(heads, int):
        raise UsageError("this workload has no hidden size that could be swept")
    width = old // heads
    if hidden < width or hidden % width:
        raise UsageError(f"hidden={hidden} is not a multiple of the head width {width}")
    changed = {wide: hidden, heads_key: hidden // width}
    kv = config.get("num_key_value_heads")
    if isinstance(kv, int):
        groups = max(1, hidden // width * kv // heads)
        changed["num_key_value_heads"] = next(n for n in range(groups, 0, -1) if hidden // width % n == 0)
    for key in ("intermediate_size", "ffn_dim"):
        size = config.get(key)
        if isinstance(size, int):
            changed[key] = max(16, round(size / old * hidden / 16) * 16)
    return changed | ({"word_embed_proj_dim": hidden} if "word_embed_proj_dim" in config else {})


def crossovers(axes: Mapping[str, Sequence[str]], cells: Sequence[SweepCell]) -> list[Crossover]:
    """One entry per row of the grid along its last numeric axis; none where no axis is numeric."""
    axis = next((name for name in reversed(list(axes)) if len(axes[name]) > 1 and all(map(_number, axes[name]))), None)
    if axis is None:
        return []
    other_axes = {name: values for name, values in axes.items() if name != axis}
    rows = []
    for at in grid(other_axes) if other_axes else [{}]:
        row = [c for c in cells if all(c.values.get(k) == v for k, v in at.items())]
        row.sort(key=lambda c: _number(c.values[axis]) or 0.0)
        x = [_number(c.values[axis]) or 0.0 for c in row]
        found = [_crossing(x, [get(c) for c in row]) for get in _SPEEDUPS]
        rows.append(Crossover(axis=axis, at=at, measured=found[0], predicted=found[1]))
    return rows


_SPEEDUPS: tuple[Callable[[SweepCell], float | None], ...] = (lambda c: c.speedup, lambda c: c.predicted)


def _crossing(x: Sequence[float], speedup: Sequence[float | None]) -> float | None:
    known = [(at, y) for at, y in zip(x, speedup, strict=True) if y is not None and y > 0]
    for (x0, y0), (x1, y1) in pairwise(known):
        if (y0 < 1) != (y1 < 1):
            share = math.log(y0) / (math.log(y0) - math.log(y1))
            return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))
    return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
