"""The reported step as things to draw: rows of slices in time, and the cells of its partition.

Times are ns from the window's start; a row's slices are in time order and do not overlap. ``name`` counts into
``Scene.names``. Nothing here is rounded: the cells add up to the window, the slices of the partition tile it.
"""

from typing import Literal

from msgspec import Struct

from loraprof.model.what_if import WhatIf

Group = Literal["partition", "stream", "host"]


class SliceRow(Struct, frozen=True):
    """One line of a timeline. ``tone`` counts into ``Scene.tones``; ``blame`` of an idle slice, -1 none: the host row
    and slice that launched what ended it, as ``row << 32 | slice``."""

    title: str
    group: Group
    depth: int
    start: list[int]
    ns: list[int]
    name: list[int]
    tone: list[int]
    blame: list[int]


class PartitionCell(Struct, frozen=True):
    """Exclusive time of one name in one module, role and phase; idle time has its cause for a name."""

    busy: bool
    phase: str
    role: str
    module: str
    name: str
    ns: int
    events: int


class Scene(Struct, frozen=True):
    step: str
    wall_ns: int
    names: list[str]
    tones: list[str]  # roles and, as "idle:CAUSE", causes
    rows: list[SliceRow]
    cells: list[PartitionCell]
    left_out: int  # host records too deep to be drawn


class Drawn(Struct, frozen=True):
    """``scenes``: the step as it runs where that is known, and as it was profiled."""

    scenes: tuple[Scene, ...] = ()
    what_if: WhatIf | None = None
