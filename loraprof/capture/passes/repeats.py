"""Which ops of the counted forward pass compute again what another module has computed already?

Value numbering: a tensor's number stands for the op and the numbers of its inputs, so equal numbers are equal values,
however long the chain that made them. Tensors are known by storage, place in it and version; a small one that no op
of the step has made, by its content, unless its class is a library's own. Random results, what only fills memory, and
what a gradient flows through never count as repeated.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

from loraprof.model.recording import RepeatedOp

_weak: Final[Any] = StorageWeakRef
READ: Final = 4096  # elements up to which a tensor is known by what it holds
FILLS: Final = frozenset((
    "arange", "clone", "detach", "empty", "empty_like", "empty_strided", "full", "full_like", "lift_fresh", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "scalar_tensor", "zeros",
    "zeros_like",
))  # fmt: skip
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of every op, found out once."""

    name: str
    random: bool
    changes: bool  # what it was given
    counts: bool  # as work

    @classmethod
    def of(cls, func: Any) -> "_Facts":
        name = func.overloadpacket.__name__
        changes = bool(func._schema.is_mutable) and not func.is_view
        random = torch.Tag.nondeterministic_seeded in func.tags
        return cls(name, random, changes, name not in FILLS and not func.is_view and not changes)


def _trains(argument: Any) -> bool:
    """Whether a gradient flows through: then it is no metadata."""
    if isinstance(argument, Tensor):
        return argument.requires_grad
    return isinstance(argument, tuple | list) and any(map(_trains, argument))


class Repeats:
    """Ask ``see`` of every op, after it has run."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}  # of what an op made of numbered inputs
        self._facts: dict[Any, _Facts] = {}
        self._values: dict[Key, int] = {}  # of tensors
        self._held: dict[int, Any] = {}  # a storage's address is no other's as long as it is referred to
        self._places: defaultdict[Key, Counter[int]] = defaultdict(Counter)  # by op and inputs: times per module
        self.failed: str | None = None

    def see(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, where: tuple[int, str, int]
    ) -> None:
        """``where``: as for ``Counting``. Never raises: what cannot be followed ends the search."""
        if self.failed is not None or where[1] not in ("forward", "other"):
            return
        try:
            self._see(func, args, kwargs, out, where[0] if where[1] == "forward" else -1)
        except Exception as error:  # a tensor without storage, an op of another library: the training goes on
            self.failed = f"repeated work could not be followed, {type(error).__name__}: {error}"

    def repeated(self) -> list[RepeatedOp]:
        """Ops whose result another module had before; ``modules``: how many modules computed it. Ends the search."""
        self._numbers, self._values, self._held = {}, {}, {}
        counts: Counter[tuple[int, str]] = Counter()
        most: dict[tuple[int, str], int] = {}
        for (func, *_), places in self._places.items():
            for module in list(places)[1:]:
                key = module, f"aten::{func.overloadpacket.__name__}"
                counts[key] += places[module]
                most[key] = max(most.get(key, 0), len(places))
        return [RepeatedOp(module=k[0], op=k[1], count=n, modules=most[k]) for k, n in sorted(counts.items())]

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, module: int) -> None:
        facts = self._facts.get(func)
        if facts is None:
            facts = self._facts[func] = _Facts.of(func)
        if facts.random or _trains(args):
            return
        outputs = out if isinstance(out, tuple | list) else (out,)
        produced = [t for t in outputs if isinstance(t, Tensor) and not t.is_inference()]
        if facts.name == "lift_fresh" and produced:
            self._values[self._key(produced[0])] = self._value(args[0])
            return
        key = func, self._of(args), self._of(sorted(kwargs.items()))
        for i, t in enumerate(produced):
            self._values[self._key(t, int(facts.changes))] = self._number((*key, i))
        if facts.counts and module >= 0:
            self._places[key][module] += 1

    def _of(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return "tensor", self._value(argument)
        if isinstance(argument, tuple | list):
            return tuple(self._of(x) for x in argument)
        return type(argument).__name__, argument if argument.__hash__ else repr(argument)

    def _number(self, key: Key) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _value(self, t: Tensor) -> int:
        if t.is_inference():  # it counts no versions
            return self._number((object(),))
        key = self._key(t)
        known = self._values.get(key)
        if known is None:
            if t.numel() <= READ and not t.requires_grad and type(t) in (Tensor, Parameter):
                content: Key = str(t.dtype), str(t.device), tuple(t.shape), tuple(t.flatten().tolist())
            else:
                content = (object(),)  # equal to nothing else
            known = self._values[key] = self._number(content)
        return known

    def _key(self, t: Tensor, later: int = 0) -> Key:
        """``later``: an op that writes to it has run, and its version is counted up when autograd returns."""
        storage = t.untyped_storage()
        if storage._cdata not in self._held:
            self._held[storage._cdata] = _weak(storage)
        return storage._cdata, t.storage_offset(), tuple(t.shape), t.stride(), t.dtype, t._version + later
