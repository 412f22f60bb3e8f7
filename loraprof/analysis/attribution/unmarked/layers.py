"""The adapted layers behind the pairs that were found: one per base, the same in every run of the model."""

import numpy as np

from loraprof.analysis.attribution.unmarked.adapters import Pairs
from loraprof.analysis.attribution.unmarked.calls import Calls
from loraprof.analysis.work.tensors import KINETO
from loraprof.model.recording import AdapterSite
from loraprof.model.trace import NONE, Int64, Trace, distinct


def layers_of(trace: Trace, calls: Calls, pairs: Pairs) -> tuple[Int64, tuple[AdapterSite, ...]]:
    """Adapted layers in the order of their bases in a run: every run of a model comes by the same ones."""
    layer = np.full(len(calls), NONE, np.int64)
    if not len(pairs):
        return layer, ()
    base = distinct(pairs.base)
    _, first, run = np.unique(calls.run[base], return_index=True, return_inverse=True)
    number = np.arange(len(base)) - first[run]
    of_pair = number[np.searchsorted(base, pairs.base)]
    for begin, stop, n in zip(pairs.first.tolist(), pairs.last.tolist(), of_pair.tolist(), strict=True):
        layer[begin : stop + 1] = n
    flat = pairs.base[calls.viewed[pairs.base] & (layer[pairs.base - 1] == NONE)] - 1
    layer[flat] = layer[flat + 1]
    sites = []
    for n in range(int(number.max()) + 1):
        at = int(base[np.flatnonzero(number == n)[0]])
        path = f"adapted layer {n} ({int(calls.inner[at])} to {int(calls.outer[at])})"
        sites.append(site_of(trace, calls, pairs, at, path))
    return layer, tuple(sites)


def site_of(trace: Trace, calls: Calls, pairs: Pairs, base: int, path: str) -> AdapterSite:
    """The layer of one base; ranks of several pairs add up. Widths are 0 where shapes were not recorded."""
    of_base = np.flatnonzero(pairs.base == base)
    return AdapterSite(
        path=path,
        kind="lora",
        rank=int(calls.outer[pairs.down[of_base]].sum()) or None,
        in_features=int(calls.inner[base]),
        out_features=int(calls.outer[base]),
        dtype=_dtype(trace, int(calls.row[pairs.down[of_base[0]]])),
        base_dtype=_dtype(trace, int(calls.row[base])),
        how="shapes",
    )


def _dtype(trace: Trace, row: int) -> str:
    """Of a product's second operand; "" where the trace does not say."""
    given = trace.shapes_of(row)
    known = [KINETO[t] for t in given.types if t in KINETO] if given else []
    return known[1] if len(known) > 1 else ""
