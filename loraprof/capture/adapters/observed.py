"""Adapted layers that the counted step showed: which weight, which chains, how wide, scaled by what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, nn

from loraprof.capture.adapters.flow import Flow
from loraprof.capture.adapters.sites import dtype_name, features
from loraprof.capture.adapters.values import Merge, Product, Sum, Weight
from loraprof.model.recording import AdapterSite

PARAMETRIZED = ".parametrizations."
Parameters = Sequence[tuple[nn.Module, str, nn.Parameter]]


@dataclass(slots=True)
class Observed:
    """One frozen weight, what was added to its products (or to itself) and the part each leaf plays."""

    base: Weight
    sums: list[Sum] = field(default_factory=list)
    merged: list[tuple[Merge, Product]] = field(default_factory=list)
    parts: dict[int, str] = field(default_factory=dict)  # leaf -> part

    @property
    def product(self) -> Product:
        return self.sums[0].base if self.sums else self.merged[0][1]

    @property
    def joined(self) -> int:
        """The event of the first sum."""
        return self.sums[0].event if self.sums else self.merged[0][0].event


@dataclass(frozen=True, slots=True)
class Leaves:
    """The parameters behind the leaves of a flow: ``owner`` and ``number`` (in ``Markers.parameters``) where known."""

    tensors: list[Tensor]
    owners: list[nn.Module | None]
    numbers: list[int | None]
    names: list[str]

    @classmethod
    def of(cls, flow: Flow, parameters: Parameters) -> "Leaves":
        """A sharded parameter is another tensor while its module runs: there the name tells."""
        known = {id(p): i for i, (_, _, p) in enumerate(parameters)}
        named = {(module, name): i for i, (module, name, _) in enumerate(parameters)}
        numbers = [known.get(id(t), named.get((m, n)) if m is not None else None) for t, m, n in flow.leaves]
        owners = [m if i is None else parameters[i][0] for i, (_, m, _) in zip(numbers, flow.leaves, strict=True)]
        names = [n if i is None else parameters[i][1] for i, (_, _, n) in zip(numbers, flow.leaves, strict=True)]
        return cls([t for t, _, _ in flow.leaves], owners, numbers, names)

    def owner(self, leaf: int, used: nn.Module | None) -> nn.Module | None:
        """Of the modules that hold the parameter the one that ``used`` it, where that does."""
        held = used is not None and any(p is self.tensors[leaf] for p in used._parameters.values())
        return used if held else self.owners[leaf]


def observed(flow: Flow, leaves: Leaves, declared: frozenset[nn.Module]) -> list[Observed]:
    """By the frozen weight that is adapted; what belongs to ``declared`` layers is left out."""
    found: dict[tuple[tuple[int, ...], bool], Observed] = {}  # a head may look up in what it multiplies with
    for one in flow.sums:
        key = one.base.weight.leaves, one.base.lookup
        found.setdefault(key, Observed(one.base.weight)).sums.append(one)
    added = {p.event for one in flow.sums for p in one.path}
    for merge, product in flow.merged:
        if product.event in added:
            continue  # the difference of the merged weight and the frozen one
        if merge.change.rank is None or 2 * merge.change.rank <= min(product.width_in, product.width_out):
            found.setdefault((merge.base.leaves, False), Observed(merge.base)).merged.append((merge, product))
    for site in found.values():
        site.parts = _parts(site, leaves)
    outside = {i for i, owner in enumerate(leaves.owners) if owner not in declared}
    return [site for site in found.values() if outside.issuperset(site.parts)]


def _parts(site: Observed, leaves: Leaves) -> dict[int, str]:
    out = dict.fromkeys((x for s in site.sums for x in s.scaled_by), "elementwise")
    for one in site.sums:
        out |= dict.fromkeys((x for p in gates(one) for x in p.weight.leaves), "elementwise")
        out |= dict.fromkeys((x for p in one.path for x in p.scaled_by), "elementwise")
    for one in site.sums:
        for i, p in enumerate(one.path):
            if len(one.path) == 1:
                out |= _sides(p.weight, site.product, leaves)
            else:
                out |= dict.fromkeys(p.weight.leaves, "up" if i else "down")
    for merge, product in site.merged:
        out |= dict.fromkeys((x for x in product.weight.leaves), "elementwise")
        out |= _sides(merge.change, product, leaves)
    return out | dict.fromkeys(site.base.leaves, "base")


def _sides(weight: Weight, base: Product, leaves: Leaves) -> dict[int, str]:
    """A has the input's width, B the output's; where both do, the right factor of the product is A."""
    out = {}
    for x in weight.leaves:
        shape = leaves.tensors[x].shape
        reads, writes = base.width_in in shape, base.width_out in shape
        both = reads == writes
        down = x in weight.right if both else reads
        out[x] = ("down" if down else "up") if x in (*weight.left, *weight.right) or not both else "elementwise"
    return out


def site_of(site: Observed, path: str, leaves: Leaves, dropout: float) -> AdapterSite:
    base = site.product
    owner = leaves.owners[site.base.leaves[0]]
    shape = features(owner) if owner is not None and not base.lookup else None
    first = next((x for x, part in site.parts.items() if part == "down"), site.base.leaves[0])
    return AdapterSite(
        path=path,
        kind="handwritten",
        rank=_rank(site),
        in_features=shape[0] if shape else base.width_in // prod(base.kernel),
        out_features=shape[1] if shape else base.width_out,
        dtype=dtype_name(leaves.tensors[first]),
        base_dtype=dtype_name(leaves.tensors[site.base.leaves[0]]),
        scaling=_scale(site),
        dropout=dropout,
        kernel=base.kernel,
        how="observed",
    )


def _rank(site: Observed) -> int | None:
    """Of all pairs on the same outputs together; pairs on other outputs of a fused layer count once."""
    if not site.sums:
        return site.merged[0][0].change.rank
    chains = [s for s in site.sums if s.base is site.product]
    widths = {s.path[0].event: (s.path[-1].width_out, _width(s.path)) for s in chains}.values()
    known = [(n == site.product.width_out, r) for n, r in widths if r is not None]
    return sum(r for whole, r in known if whole) + max((r for whole, r in known if not whole), default=0) or None


def _width(path: Sequence[Product]) -> int | None:
    return path[0].width_out if len(path) > 1 else path[0].weight.rank


def _scale(site: Observed) -> float | None:
    if not site.sums:
        return site.merged[0][0].change.scale
    one = site.sums[0]
    factors = [one.end.scale, *(x for p in one.path for x in (p.source.scale, p.weight.scale))]
    return prod(f for f in factors if f is not None) if None not in factors else None


def path_of(where: nn.Module | None, owner: nn.Module | None, paths: Mapping[nn.Module, str], alone: bool) -> str:
    """Of the layer that holds the frozen weight; of the module ``where`` the sum was made, if around this one alone."""
    own = paths.get(owner, "") if owner is not None else ""
    own = own.partition(PARAMETRIZED)[0]
    around = paths.get(where) if where is not None else None
    if around is None or not own:
        return own or around or ""
    return around if alone and own.rpartition(".")[0] == around else own


def dropout_of(events: Sequence[int], flow: Flow) -> float:
    """The greatest probability of the dropout modules that issued ``events``."""
    modules = [flow.log[e][0][3] for e in events if flow.log[e][0] is not None]
    return max((float(m.p) for m in modules if isinstance(m, nn.modules.dropout._DropoutNd)), default=0.0)


def gates(one: Sum) -> list[Product]:
    """Trained products that the chain's result was multiplied with before it was added."""
    beside = [p for p in one.end.products if p.weight.trains and p is not one.path[-1]]
    return beside if len(one.end.products) == 2 else []


def before(one: Sum) -> list[int]:
    """What the chain did to the input that the base did not."""
    return [e for e in one.path[0].source.events if e not in one.base.source.events]
