"""Which layers are adapted, and which module and parameter of each is the base, A, B?

PEFT's layers say it themselves; every other adapter is known by what the counted step did.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loraprof.capture.adapters.flow import Flow
from loraprof.capture.adapters.labels import dense_of, labels_of, parts_of
from loraprof.capture.adapters.observed import (
    Leaves,
    Observed,
    Parameters,
    before,
    dropout_of,
    observed,
    path_of,
    site_of,
)
from loraprof.capture.adapters.peft import peft_layer
from loraprof.capture.adapters.sites import Found
from loraprof.capture.adapters.values import Sum
from loraprof.model.recording import AdapterOps


@dataclass(frozen=True, slots=True)
class Sites:
    """Adapted layers in the modules' order; ``notes`` say how what is ambiguous was read."""

    found: list[Found]
    ops: list[AdapterOps]
    dense: list[AdapterOps] | None
    notes: list[str]


def find_sites(
    named: Mapping[str, nn.Module],
    parameters: Parameters,
    flow: Flow | None,
    ids: Mapping[nn.Module, int],
    silent: frozenset[nn.Module] = frozenset(),
) -> Sites:
    """Among modules by path; ``flow`` is what the counted step showed, None where none was counted.

    ``silent``: modules of networks that ran without gradient alone, as a copy of what is trained does: none is adapted.
    """
    declared = _declared({path: module for path, module in named.items() if module not in silent})
    if flow is None:
        return Sites(declared, [], None, [])
    paths = {module: path for path, module in named.items()}
    taken = frozenset(m for f in declared for m in f.parts)
    leaves = Leaves.of(flow, parameters)
    seen = observed(flow, leaves, taken | silent)
    order = {path: i for i, path in enumerate(named)}
    known = {f.site.path: f for f in declared} | dict(_named(seen, flow, leaves, paths))
    ranked = sorted(known, key=lambda path: order.get(path, len(order)))
    sites = {i: x for i, path in enumerate(ranked) for x in [known[path]] if isinstance(x, Observed)}
    labels = labels_of(sites, flow)
    parts = parts_of(sites, labels, flow, leaves, ids)
    found: list[Found] = []
    for i, path in enumerate(ranked):
        one = known[path]
        if isinstance(one, Observed):
            drop = dropout_of([e for s in one.sums for e in before(s)], flow)
            weights = {
                id(parameters[n][2]): part for x, part in one.parts.items() if (n := leaves.numbers[x]) is not None
            }
            own = {m: part for m, (number, part) in parts.of.items() if number == i and m not in taken}
            one = Found(site_of(one, path, leaves, drop), own, weights)
        found.append(one)
    ops = [o for o in parts.ops if not any(ids.get(m) == o.module for m in taken)] if taken else parts.ops
    where = {m: i for i, f in enumerate(found) for m in f.parts}
    where |= {o: i for i, s in sites.items() for x in s.parts for o in [leaves.owners[x]] if o is not None}
    dense = dense_of(flow, leaves, where, ids) if flow.failed is None else None
    return Sites(found, ops, dense, _notes(flow, seen, leaves, paths))


def _declared(named: Mapping[str, nn.Module]) -> list[Found]:
    """A module belongs to one site only."""
    taken: set[nn.Module] = set()
    out: list[Found] = []
    for path, module in named.items():
        found = peft_layer(path, module) if module not in taken else None
        if found is not None:
            parts = {m: part for m, part in found.parts.items() if m not in taken}
            taken |= parts.keys()
            out.append(Found(found.site, parts, found.weights))
    return out


def _named(
    seen: Sequence[Observed], flow: Flow, leaves: Leaves, paths: Mapping[nn.Module, str]
) -> list[tuple[str, Observed]]:
    joined = [flow.module(s.joined) for s in seen]
    owners = [leaves.owner(s.base.leaves[0], flow.module(s.product.event)) for s in seen]
    sums, held = Counter(joined), Counter(owners)
    out: dict[str, Observed] = {}
    for site, where, owner in zip(seen, joined, owners, strict=True):
        path = path_of(where, owner, paths, sums[where] == 1 and not _holds_more(where, site, leaves))
        if held[owner] > 1 or path in out:  # several weights of one module
            path = f"{path}.{leaves.names[site.base.leaves[0]]}".strip(".")
        if path in out or (where is None and owner is None):
            path = f"{path or 'layer'} {len(out)}"
        out[path] = site
    return list(out.items())


def _holds_more(where: nn.Module | None, site: Observed, leaves: Leaves) -> bool:
    """Whether there are frozen weights of other layers in the module that the sum is made in."""
    own = {id(leaves.tensors[x]) for x in (*site.parts, *site.base.leaves)}
    held = where.parameters() if where is not None else ()
    return any(p.dim() > 1 and not p.requires_grad and id(p) not in own for p in held)


def _notes(flow: Flow, seen: Sequence[Observed], leaves: Leaves, paths: Mapping[nn.Module, str]) -> list[str]:
    """How ambiguous layers were read."""

    def name(one: Sum) -> str:
        return paths.get(leaves.owners[one.base.weight.leaves[0]] or nn.Module(), "a weight outside the model")

    out = []
    if flow.failed is not None:
        out.append(f"adapters: the counted step was followed up to an op that could not be ({flow.failed})")
    trained = {one.base.weight.leaves: one for one in flow.unfrozen if len(one.path) > 1}
    if trained:
        first = name(next(iter(trained.values())))
        text = f"{len(trained)} layers add a narrow product to that of a weight which is trained too (first: {first})"
        out.append(f"adapters: {text}: read as part of the network, not as adapters")
    several = [s for site in seen for s in site.sums if s.others]
    if several:
        text = f"the adapter was added to the products of {len(several[0].others) + 1} frozen weights"
        out.append(f"adapters: {text}, read as that of the last, {name(several[0])}")
    return out
