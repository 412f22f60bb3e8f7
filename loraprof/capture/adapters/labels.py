"""Which op of the counted step plays which role in an adapted layer, and so which module plays which part."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from loraprof.capture.adapters.flow import Flow
from loraprof.capture.adapters.observed import Leaves, Observed, before, gates
from loraprof.capture.adapters.values import Weight
from loraprof.model.recording import AdapterOps
from loraprof.model.vocabulary import Role

Label = tuple[int, Role]  # number of the site, role
BASE: Final = "base.linear"
DOWN: Final = "adapter.down"
UP: Final = "adapter.up"
ELEMENTWISE: Final = "adapter.elementwise"


def labels_of(sites: Mapping[int, Observed], flow: Flow) -> dict[int, Label]:
    """Event -> label. ``sites`` by their number. An op that several sites share is the first one's."""
    out: dict[int, Label] = {}
    trained = {x: number for number, s in sites.items() for x, part in s.parts.items() if part != "base"}
    bases = {x: number for number, s in sites.items() for x in s.base.leaves if not s.product.lookup}
    ups = {x for s in sites.values() for x, part in s.parts.items() if part == "up"}
    for event, weight, multiplied, _ in flow.weights:
        product: Role = DOWN if ups.isdisjoint(weight.leaves) else UP
        kinds: tuple[tuple[dict[int, int], Role], ...] = (
            (trained, product if multiplied else ELEMENTWISE),
            (bases, _expanding(weight, flow)),
        )
        for known, role in kinds:
            number = next((known[x] for x in weight.leaves if x in known), None)
            if number is not None:
                out.setdefault(event, (number, role))
    for number, site in sites.items():
        for event, role in _roles(site):
            if event not in out or role != ELEMENTWISE:
                out[event] = (number, role)
    inside = {p.event: n for n, s in sites.items() for one in s.sums for p in one.path}
    for event, last in flow.touched:
        if last.event in inside:
            out.setdefault(event, (inside[last.event], ELEMENTWISE))
    return out


def _expanding(weight: Weight, flow: Flow) -> Role:
    """Of an op on frozen weights alone: a cast is its layer's own work."""
    packed = any(not flow.leaves[x][0].is_floating_point() for x in weight.leaves)
    return "dequant" if packed else BASE


def _roles(site: Observed) -> list[tuple[int, Role]]:
    out: list[tuple[int, Role]] = []
    for one in site.sums:
        events = [*before(one), *one.end.events, *(e for p in one.path[1:] for e in p.source.events)]
        out += [(e, ELEMENTWISE) for e in (*events, one.event, *one.after)]
        out += [(p.event, UP if i else DOWN) for i, p in enumerate(one.path)]
        out += [(p.event, ELEMENTWISE) for p in gates(one)]
        out.append((one.base.event, "embedding" if one.base.lookup else BASE))
    for merge, product in site.merged:
        out += [(merge.event, ELEMENTWISE), (product.event, BASE)]
    return out


@dataclass(frozen=True, slots=True)
class Parts:
    """``of``: module -> (site, part). ``ops``: the labels of modules that issue ops of several kinds."""

    of: dict[nn.Module, tuple[int, str]]
    ops: list[AdapterOps]


def parts_of(
    sites: Mapping[int, Observed], labels: Mapping[int, Label], flow: Flow, leaves: Leaves, ids: Mapping[nn.Module, int]
) -> Parts:
    owners = {
        o: n for n, s in sites.items() for x, part in s.parts.items() for o in [leaves.owners[x]] if o is not None
    }
    issued: dict[nn.Module, list[Label | None]] = defaultdict(list)
    for event, (frame, _) in enumerate(flow.log):
        if frame is not None:
            issued[frame[3]].append(labels.get(event))
    calls = _calls(flow, labels)
    joins = {flow.log[s.joined][0][3] for s in sites.values() if flow.log[s.joined][0] is not None}
    of: dict[nn.Module, tuple[int, str]] = {}
    ops: list[AdapterOps] = []
    for module, seen in issued.items():
        if not any(seen):
            continue
        part = _part(seen, module in joins, owners.get(module))
        if part is not None:
            of[module] = part
        if part is None or part[1] == "fused":
            ops += [
                AdapterOps(module=ids[module], op=f"aten::{name}", labels=row)
                for name, row in calls[module].items()
                if module in ids
            ]
    return Parts(of, ops)


def dense_of(
    flow: Flow, leaves: Leaves, sites: Mapping[nn.Module, int], ids: Mapping[nn.Module, int]
) -> list[AdapterOps]:
    """Ops on trained weights alone that read or write what is as large as their site's frozen weight.

    ``sites``: module -> number of its adapted layer.
    """
    owned = [(sites.get(o) if o is not None else None) for o in leaves.owners]
    largest: dict[int, int] = defaultdict(int)
    for number, tensor in zip(owned, leaves.tensors, strict=True):
        if number is not None and not tensor.requires_grad:
            largest[number] = max(largest[number], tensor.numel())
    dense: dict[int, Label] = {}
    for event, weight, _, elements in flow.weights:
        number = next(
            (n for x in weight.leaves if (n := owned[x]) is not None and leaves.tensors[x].requires_grad), None
        )
        if number is not None and elements and elements == largest.get(number):
            dense[event] = (number, ELEMENTWISE)
    calls = _calls(flow, dense)
    return [
        AdapterOps(module=ids[module], op=f"aten::{name}", labels=row)
        for module, ops in calls.items()
        for name, row in ops.items()
        if module in ids and any(row)
    ]


def _calls(flow: Flow, labels: Mapping[int, Label]) -> dict[nn.Module, dict[str, list[Label | None]]]:
    """Per module, the labels of the ops that it issued in one of its calls, by name: the first of those that have most.

    A cell that runs once per token begins with zeros, of which nothing can be told.
    """
    calls: dict[nn.Module, dict[int, dict[str, list[Label | None]]]] = defaultdict(dict)
    for event, (frame, name) in enumerate(flow.log):
        if frame is not None:
            call = calls[frame[3]].setdefault(id(frame), defaultdict(list))
            call[name].append(labels.get(event))
    return {module: max(each.values(), key=_labelled) for module, each in calls.items()}


def _labelled(call: Mapping[str, Sequence[Label | None]]) -> int:
    return sum(label is not None for row in call.values() for label in row)


def _part(seen: Sequence[Label | None], joins: bool, owned: int | None) -> tuple[int, str] | None:
    """None: the module does other work beside, or works for several sites."""
    numbers = {label[0] for label in seen if label is not None}
    if len(numbers) != 1:
        return None
    number = numbers.pop()
    roles = {label[1] for label in seen if label is not None} - {ELEMENTWISE}
    unlabelled = any(label is None for label in seen)
    if (
        roles <= {BASE, "embedding", "dequant"}
        and roles
        and owned == number
        and not joins
        and (number, ELEMENTWISE) not in seen
    ):
        return number, "base"  # with what expands or casts its weight
    if unlabelled:
        return None
    if not joins and len(roles) == 1 and roles <= {DOWN, UP}:
        return number, roles.pop().removeprefix("adapter.")
    return number, "fused" if roles else "wrapper" if joins else "elementwise"
