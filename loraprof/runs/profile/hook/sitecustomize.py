"""Python runs this first in every process of a profiled command: it waits for the first optimizer that is made.

Its folder stands first in PYTHONPATH. It costs a process that never trains next to nothing: until there is an
optimizer, nothing of loraprof is imported.
"""

import functools
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

JOB: Final = "LORAPROF_ATTACH"  # what is to be done, as JSON
ROOT: Final = "LORAPROF_ROOT"  # where loraprof is, should this Python not have it
_HERE: Final = os.path.dirname(os.path.abspath(__file__))


class _WaitForTorch:
    """Stays until torch runs: who asks whether it is there, as transformers does, imports nothing yet."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        for finder in [one for one in sys.meta_path if one is not self]:
            spec: ModuleSpec | None = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                loader: Any = spec.loader
                loader.exec_module = functools.partial(self._loaded, loader.exec_module)
                return spec
        return None

    def _loaded(self, run: Any, module: Any) -> None:
        finders: list[Any] = sys.meta_path
        if self in finders:
            finders.remove(self)
        run(module)
        _wait_for_optimizer(module)


def _wait_for_optimizer(module: Any) -> None:
    optimizer = module.optim.Optimizer
    plain = optimizer.__init__

    @functools.wraps(plain)
    def first(self: Any, *args: Any, **kwargs: Any) -> None:
        optimizer.__init__ = plain
        _attach()
        plain(self, *args, **kwargs)

    optimizer.__init__ = first


def _attach() -> None:
    """Whatever goes wrong here, the training goes on."""
    try:
        if PathFinder.find_spec("loraprof") is None:
            sys.path.append(os.environ[ROOT])
        from loraprof.runs.profile.attach import attach

        attach(os.environ[JOB])
    except Exception as error:
        print(f"loraprof: process {os.getpid()} is not recorded: {error}", file=sys.stderr)


def _run_hidden() -> None:
    """The ``sitecustomize`` that this one hides."""
    spec = PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p) != _HERE])
    if spec is not None and spec.loader is not None and spec.origin is not None:
        module = type(sys)("sitecustomize")
        module.__file__, module.__spec__ = spec.origin, spec
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    if JOB in os.environ:
        waiting: Any = _WaitForTorch()
        sys.meta_path.insert(0, waiting)
    _run_hidden()
