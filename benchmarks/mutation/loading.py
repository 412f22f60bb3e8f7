"""A mutant in the place of a module: as it is imported, or in the functions that a process holds already."""

import functools
import gc
from collections import defaultdict
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, FunctionType
from typing import Any

from benchmarks.mutation.changes import ROOT, Mutant


class Finder:
    """Gives one module another text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        place = str(ROOT / self.mutant.file)
        return spec_from_file_location(name, place, loader=Loader(name, place, self.mutant.text))


class Loader(SourceFileLoader):
    def __init__(self, name: str, place: str, text: str) -> None:
        super().__init__(name, place)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.text, self.path, "exec")
        return code


class Loaded:
    """The functions of this repository that this process holds, by where their code begins."""

    def __init__(self) -> None:
        gc.unfreeze()
        self._functions = defaultdict[tuple[str, str, int], list[FunctionType]](list)
        self._caches = []
        for one in gc.get_objects():
            if isinstance(one, functools._lru_cache_wrapper) and _own(one.__wrapped__):
                self._caches.append(one)
            elif isinstance(one, FunctionType) and _own(one):
                self._functions[_begin(one.__code__)].append(one)
        gc.freeze()

    def change(self, mutant: Mutant) -> None:
        """Gives the functions of a file the code of the mutant; what was computed before is forgotten."""
        place = str(ROOT / mutant.file)
        before = compile(mutant.before, place, "exec")
        for old, new in _pairs(before, compile(mutant.text, place, "exec")):
            for function in self._functions[_begin(old)]:
                function.__code__ = new
        for cache in self._caches:
            cache.cache_clear()


def _own(function: Any) -> bool:
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(str(ROOT))


def _begin(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    codes = [[one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new)]
    for pair in zip(*codes, strict=True):
        yield pair
        yield from _pairs(*pair)
