"""Adapted layers of a trace whose module frames were recorded (``with_stack``): the frame says what belongs together.

An adapted layer is a frame that, itself or through frames it calls, issues one base product, one or more narrow pairs
of the same widths, no other product, and their sum. Pairs that no such frame holds are found by shapes as without
frames.
"""

import re
from collections import defaultdict

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.attribution.unmarked.adapters import ENDS, QUARTER, Pairs
from loraprof.analysis.attribution.unmarked.calls import Calls, Sort
from loraprof.analysis.attribution.unmarked.forward import Unmarked
from loraprof.analysis.attribution.unmarked.layers import layers_of, site_of
from loraprof.analysis.trace.call_tree import Tree
from loraprof.model.recording import AdapterSite, ModuleInfo
from loraprof.model.trace import NONE, Bool, Int32, Int64, Trace, among, distinct, taken

_WRAPPER = re.compile(r"(?i)lora|linear|conv")
SIZES = range(3, 17, 2)  # products of a frame that is one layer: a base and up to seven pairs


class _Layer(Struct, frozen=True):
    base: int  # positions in the calls
    downs: list[int]
    ups: list[int]


def framed(
    trace: Trace, tree: Tree, found: Unmarked, table: list[ModuleInfo], opens: Int64, marker: Int32
) -> tuple[list[ModuleInfo], tuple[AdapterSite, ...], Unmarked]:
    """The table with the parts of adapted layers, the layers, and what was found by shapes beside them.

    ``marker``: the frame around each host row.
    """
    host, calls = trace.host, found.calls
    above = np.append(marker, np.int32(NONE))
    outer = above[tree.parent]  # per row the frame around its parent
    frame = marker[calls.row]
    around = taken(outer, frame)
    module = opens[host.name]
    first: dict[int, int] = {}
    for row in distinct(np.concatenate((frame, around)).astype(np.int64)).tolist():
        if row != NONE:
            first.setdefault(int(module[row]), row)
    starts = np.array(sorted(first.values()), np.int64)
    inside: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(np.isin(calls.sort, [Sort.PRODUCT, Sort.FREE, Sort.CORE])).tolist():
        for row in {int(frame[place]), int(around[place])}:
            inside[row].append(place)
    added = _added(calls, frame)
    parts: dict[int, tuple[int, str]] = {}
    sites: list[AdapterSite] = []
    for row in starts.tolist():
        calls_inside, cls = inside.get(row, []), table[int(module[row])].cls
        wraps = bool(_WRAPPER.search(cls)) and row not in {int(frame[p]) for p in calls_inside}
        held = _layer(calls, calls_inside, wraps)
        if held is None or not _summed(calls, held, added.get(row, set())):
            continue
        number = len(sites)
        played = [{int(frame[p]) for p in places} for places in ([held.base], held.downs, held.ups)]
        if sum(map(len, played)) > len(set[int]().union(*played)) and held.base in found.pairs.base:
            continue  # one frame plays several parts: shapes tell its ops apart
        parts[int(module[row])] = number, "fused" if any(row in frames for frames in played) else "wrapper"
        for names, part in (([held.base], "base"), (held.downs, "down"), (held.ups, "up")):
            for place in names:
                if frame[place] != row:
                    parts[int(module[frame[place]])] = number, part
        pair = Pairs(*(np.array(c) for c in (held.downs, held.ups, [held.base] * len(held.downs), held.ups)))
        path = table[int(module[row])].path
        sites.append(msgspec.structs.replace(site_of(trace, calls, pair, held.base, path), how="observed"))
    frames = np.flatnonzero((marker == np.arange(len(host))) & (outer != NONE))
    holding = [m for m, (_, part) in parts.items() if part in ("wrapper", "fused")]
    frames = frames[among(module[outer[frames]], holding)]
    for row in frames[np.unique(module[frames], return_index=True)[1]].tolist():  # dropout, say
        parts.setdefault(int(module[row]), (parts[int(module[outer[row]])][0], "elementwise"))
    placed = [_placed(m, parts.get(m.id)) for m in table]
    free = ~among(taken(module, frame), [*parts])[found.pairs.base]
    pairs = Pairs(*(getattr(found.pairs, name)[free] for name in Pairs.__struct_fields__))
    layer, others = layers_of(trace, calls, pairs)
    return placed, (*sites, *others), replace(found, pairs=pairs, layer=layer)


def _placed(info: ModuleInfo, part: tuple[int, str] | None) -> ModuleInfo:
    return info if part is None else msgspec.structs.replace(info, site=part[0], part=part[1])


def _layer(calls: Calls, places: list[int], wraps: bool) -> _Layer | None:
    """One base and its pairs, where the products at ``places`` are nothing else.

    Without shapes a linear layer that calls linear layers is one: its base first, then its pairs.
    """
    if len(places) not in SIZES or np.isin(calls.sort[places[0] : places[-1]], ENDS).any():
        return None
    if wraps and not calls.inner[places].any():
        return _Layer(places[0], places[1::2], places[2::2])
    size = [(int(calls.rows[p]), int(calls.inner[p]), int(calls.outer[p])) for p in places]
    rows, inner, outer = max(size, key=lambda s: s[1] * s[2])
    base = [p for p, s in zip(places, size, strict=True) if s == (rows, inner, outer)]
    narrow = [(p, s) for p, s in zip(places, size, strict=True) if s != (rows, inner, outer)]
    downs = [p for p, s in narrow if s[:2] == (rows, inner) and QUARTER * s[2] <= inner]
    ups = [p for p, s in narrow if (s[0], s[2]) == (rows, outer) and QUARTER * s[1] <= outer]
    ranks = sorted(int(calls.outer[p]) for p in downs)
    whole = len(base) == 1 and len(places) == 1 + len(downs) + len(ups)
    return _Layer(base[0], downs, ups) if whole and ranks == sorted(int(calls.inner[p]) for p in ups) else None


def _added(calls: Calls, frame: Int32) -> dict[int, set[int]]:
    """Sizes of the sums that each frame makes itself."""
    out: dict[int, set[int]] = defaultdict(set)
    for place in np.flatnonzero(calls.sort == Sort.ADD).tolist():
        out[int(frame[place])].add(int(calls.numel[place]))
    return out


def _summed(calls: Calls, layer: _Layer, sizes: set[int]) -> bool:
    itself: Bool = calls.adds[[layer.base, *layer.ups]]
    return (
        not calls.inner[layer.base]
        or int(calls.rows[layer.base] * calls.outer[layer.base]) in sizes
        or bool(itself.any())
    )
