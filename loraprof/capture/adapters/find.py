"""Which layers are adapted, and which module and parameter of each is the base, A, B? By structure, without a flag."""

from collections.abc import Mapping

from torch import nn

from loraprof.capture.adapters.handwritten import handwritten
from loraprof.capture.adapters.peft import peft_layer
from loraprof.capture.adapters.sites import Found, Modules


def modules_of(named: Mapping[str, nn.Module]) -> Modules:
    below: dict[str, dict[str, nn.Module]] = {path: {} for path in named}
    for path, module in named.items():
        if path:
            below.setdefault(path.rpartition(".")[0], {})[path] = module
    return Modules(named, below)


def find_sites(named: Mapping[str, nn.Module]) -> list[Found]:
    """Adapted layers among modules by path, in their order; a module belongs to one site only."""
    modules = modules_of(named)
    taken: set[nn.Module] = set()
    out: list[Found] = []
    for path, module in named.items():
        if module in taken:
            continue
        found = peft_layer(path, module) or handwritten(path, module, modules)
        if found is None:
            continue
        parts = {m: part for m, part in found.parts.items() if m not in taken}
        if parts.keys() != found.parts.keys() and found.site.kind == "handwritten":
            continue  # a part of a layer that is adapted already, seen from another side
        taken |= parts.keys()
        out.append(Found(found.site, parts, found.weights))
    return out
