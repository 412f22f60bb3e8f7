"""What does the page in the browser draw? The report's tables and the step's scene, as JSON packed for an HTML file."""

import base64
import gzip
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from loraprof.model.report import Kernel, Report
from loraprof.model.scene import Drawn, Scene, SliceRow
from loraprof.model.what_if import WhatIf
from loraprof.report.palette import CAUSE_TONES, ROLE_TONES
from loraprof.report.views.kernel_names import labels
from loraprof.text import printable

PALETTE = {**ROLE_TONES, **{f"idle:{cause}": tone for cause, tone in CAUSE_TONES.items()}, "host": "rest"}


def packed(report: Report, drawn: Drawn | None = None) -> str:
    """Base64 of gzip of JSON; the same report gives the same text."""
    ceilings = report.ceilings
    data = {
        "palette": PALETTE,
        "roofs": {
            "flops_per_s": {"matrix products": c} if ceilings and (c := ceilings.gemm_flops_per_s) else {},
            "bytes_per_s": ceilings.copy_bytes_per_s if ceilings else None,
        },
        "kernels": report.kernels,
        "labels": _labels(report.kernels),
        "modules": report.modules,
        "dots": dots(report.kernels),
        "scenes": [_scene(scene) for scene in drawn.scenes] if drawn else [],
        "ranks": report.ranks or [],
        "what_if": _what_if(drawn.what_if) if drawn and drawn.what_if else None,
    }
    return base64.b64encode(gzip.compress(_text(data), 6, mtime=0)).decode()


def _text(data: dict[str, Any]) -> bytes:
    """JSON. Names come from a file: what is not printable is replaced, as on every page."""
    try:
        text = msgspec.json.encode(data)
        if b"\\" not in text and text.decode().isprintable():  # a control character would be an escape
            return text
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    return msgspec.json.encode(_clean(msgspec.to_builtins(data)))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return [_clean(inner) for inner in value]
    return value


def _labels(kernels: Sequence[Kernel]) -> dict[str, str]:
    """What each kernel does, where that is not its name."""
    names = [kernel.name for kernel in kernels]
    return {name: label for name, label in zip(names, labels(names), strict=True) if label != name}


def dots(kernels: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Kernels of one name and role whose FLOPs and minimum bytes are known: their place in the roofline."""
    groups: dict[tuple[str, str], list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        if kernel.flops and kernel.min_bytes and kernel.total_ns:
            groups[kernel.name, kernel.role].append(kernel)
    out = []
    for (name, role), rows in groups.items():
        flops, moved = sum(k.flops or 0 for k in rows), sum(k.min_bytes or 0 for k in rows)
        ns, roofs = sum(k.total_ns for k in rows), [k.roof_ns for k in rows]
        roof = sum(r for r in roofs if r is not None) if None not in roofs else None
        count = sum(k.count for k in rows)
        place = {"intensity": flops / moved, "flops_per_s": flops / ns * 1e9, "ns": ns, "roof_ns": roof}
        out.append({"name": name, "role": role, "count": count, **place})
    return out


def _scene(scene: Scene) -> dict[str, Any]:
    fields = ("step", "wall_ns", "names", "tones", "cells", "left_out")
    return {name: getattr(scene, name) for name in fields} | {"rows": [_row(row) for row in scene.rows]}


def _what_if(what_if: WhatIf) -> dict[str, Any]:
    """The outcomes as the page finds them: by the set's bits."""
    return {
        "choices": [*what_if.choices, *(choice for choice, _ in what_if.alone)],
        "outcomes": what_if.outcomes,
        "alone": [outcome for _, outcome in what_if.alone],
    }


def _row(row: SliceRow) -> dict[str, Any]:
    """Starts as gaps after the slice before: small numbers pack well. ``blame`` by slice, where there is one."""
    ends = [0, *(start + ns for start, ns in zip(row.start, row.ns, strict=True))]
    gaps = [start - end for start, end in zip(row.start, ends, strict=False)]
    blame = {i: (at >> 32, at & 0xFFFFFFFF) for i, at in enumerate(row.blame) if at >= 0}
    own = {"title": row.title, "group": row.group, "depth": row.depth, "name": row.name, "tone": row.tone}
    return {**own, "gap": gaps, "ns": row.ns, "blame": blame}
