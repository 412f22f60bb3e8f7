"""How loraprof's hooks live beside ``torch.compile``: its wrappers are no modules, the hooks no code of its."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As ``root.named_modules()``, but for the wrappers of ``torch.compile``: neither they nor their names count."""
    for name, module in root.named_modules():
        if not is_wrapper(module):
            yield ".".join(part for part in name.split(".") if part != "_orig_mod"), module


def is_wrapper(module: nn.Module) -> bool:
    """What ``torch.compile(module)`` returns: it calls the module."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def never_compiled(*functions: Callable[..., Any]) -> None:
    """Dynamo runs these as they are, wherever they are called; what they call is another matter."""
    decorators = sys.modules.get("torch._dynamo.decorators")
    skip: Any = getattr(decorators, "skip_code", None)
    for function in functions if skip is not None else ():
        skip(function.__code__)
