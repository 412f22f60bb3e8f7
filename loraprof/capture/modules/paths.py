"""What is each module called, those included that are called inside a model without being part of it?"""

from itertools import chain, count

from torch import nn

from loraprof.capture.compiled.dynamo import named_modules


def paths_of(roots: list[nn.Module], hung: list[tuple[nn.Module, nn.Module]]) -> dict[str, nn.Module]:
    """Every module by its path; further roots start with their class, ``hung`` ones with their caller (the second)."""
    named: dict[str, nn.Module] = {}
    where: dict[nn.Module, str] = {}

    def enter(prefix: str, top: nn.Module) -> None:
        for name, module in named_modules(top):
            if module not in where:
                where[module] = ".".join(p for p in (prefix, name) if p)
                named[where[module]] = module

    for i, root in enumerate(roots):
        enter(_free(type(root).__name__, named) if i else "", root)
    for module, caller in hung:
        above = where.get(caller, type(caller).__name__)
        enter(_free(f"{above}.{_name_below(caller, module)}".strip("."), named), module)
    return named


def _name_below(caller: nn.Module, module: nn.Module) -> str:
    """What the owner of the caller's replaced ``forward`` calls ``module``, else its class."""
    owner = getattr(caller.forward, "__self__", None)
    names = named_modules(owner) if isinstance(owner, nn.Module) and owner is not caller else ()
    return next((name for name, m in names if m is module and name), type(module).__name__)


def _free(path: str, named: dict[str, nn.Module]) -> str:
    """``path``, numbered where it is taken."""
    return next(p for p in chain([path], (f"{path}_{n}" for n in count(2))) if p not in named)
