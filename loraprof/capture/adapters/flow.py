"""How do values flow in the forward pass of the counted step? Each op seen once, tensors known by their storage.

Follows which parameters a weight is made of and which products an activation went through, and notes every sum of a
frozen weight's product with a chain of trainable ones that starts from the same input and is narrow inside, as well as
every sum of a frozen weight with a product of trainable ones. Nothing is read from names or classes.
"""

import sys
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from loraprof.capture.adapters.ops import Kind, Op, is_convolution
from loraprof.capture.adapters.values import LIMIT, Activation, Merge, Product, Sum, Weight
from loraprof.capture.modules.shards import piece_at

_free: Any = torch.UntypedStorage._free_weak_ref
RANDOM = frozenset(("normal_", "uniform_", "random_", "exponential_"))  # values, while bernoulli_ makes a mask
Value = Weight | Activation
Frame = Any  # of ``Markers``: (range, module id, autograd number, module)


class Flow:
    """``frame`` gives the innermost module call. ``log`` holds (frame, op name) of every op that is no view."""

    def __init__(self, frame: Callable[[], Frame | None]) -> None:
        self.log: list[tuple[Frame, str]] = []
        self.leaves: list[tuple[Tensor, nn.Module | None, str]] = []  # with the module that was running, and its name
        self.sums: list[Sum] = []
        self.unfrozen: list[Sum] = []  # whose base is trained too
        # Event, result of weights alone, was it a product, elements of the largest tensor.
        self.weights: list[tuple[int, Weight, bool, int]] = []
        self.touched: list[tuple[int, Product]] = []  # ops on what one product gave, wherever that leads
        self.merged: list[tuple[Merge, Product]] = []
        self.failed: str | None = None
        self._frame = frame
        self._values: dict[int, Value] = {}  # by storage
        self._pieces: dict[int, Weight] = {}
        self._held: list[Any] = []  # weakly: a storage's address is no other's as long as it is referred to
        self._fresh = 0
        self._buffers: set[int] = set()
        self._sharded = "torch.distributed.fsdp" in sys.modules  # there may be flat parameters

    def adopt(self, modules: Iterable[nn.Module]) -> None:
        """Their buffers are weights: a quantised layer keeps its weight in one."""
        for module in modules:
            for buffer in module._buffers.values():
                if buffer is not None and buffer.numel() > 1 and buffer.layout == torch.strided:
                    self._buffers.add(buffer.untyped_storage()._cdata)

    def module(self, event: int) -> nn.Module | None:
        """The module that issued it."""
        frame = self.log[event][0]
        return frame[3] if frame is not None else None

    def clear(self) -> None:
        """Forgets the tensors; what was found stays."""
        held, self._held = self._held, []
        for one in held:
            _free(one)
        self._values, self._buffers = {}, set()

    def see(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], out: Any) -> None:
        """One op of the forward pass; ``tensors`` are those of ``args``.

        Never raises: what could not be followed ends the search, said in ``failed``.
        """
        kind = op.kind
        if self.failed is not None or (kind is Kind.VIEW and type(args[0]) is Tensor is type(out)):
            return
        try:
            if kind is Kind.VIEW:
                if type(args[0]) is nn.Parameter:  # shares its storage
                    if not hasattr(args[0], "_is_flat_param"):
                        self._value(args[0])
                    return
                value = self._value(tensors[0]) if tensors else None
            else:
                value = self._result(op, args, kwargs, tensors)
                if type(value) is Weight:
                    elements = max(t.numel() for t in (*tensors, *((out,) if isinstance(out, Tensor) else ())))
                    self.weights.append((len(self.log) - 1, value, kind is Kind.PRODUCT, elements))
            if value is not None:
                self._keep(value, out)
        except Exception as error:  # a tensor without storage, an op of another library: the training goes on
            self.failed = f"{op.name}: {error}"

    def _keep(self, value: Value, out: Any) -> None:
        if type(value) is Weight and value.leaf:  # a view with a storage of its own, which is freed with it
            value = replace(value, leaf=False)
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                address = storage._cdata
                known = self._values.get(address)
                if known is None:
                    self._held.append(storage._weak_ref())
                if known is None or not known.leaf:  # a parameter stays one, whatever is written to it
                    self._values[address] = value

    def _result(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Value:
        kind, name, foreign = op
        event = len(self.log)
        self.log.append((self._frame(), name))
        if kind is Kind.MADE:
            return Activation(self._number(), events=(event,), constant=not name.startswith(("rand", "new_rand")))
        if kind is Kind.PRODUCT and len(tensors) > 1:
            return self._product(event, name, args, kwargs, tensors)
        values = [self._value(t) for t in tensors]
        acts = [v for v in values if type(v) is Activation and not v.constant]
        weights = [v for v in values if type(v) is Weight] if len(acts) < len(values) else []
        if weights and (not acts or (foreign and type(values[0]) is Weight)):  # expands a quantised weight
            return self._of_weights(event, kind, name, weights, tensors, args)
        if not acts:
            filled = name in RANDOM or kind is Kind.PRODUCT
            events = (*(e for v in values if type(v) is Activation for e in v.events), event)[-LIMIT:]
            return Activation(self._number(), events=events, constant=not filled)
        if kind is Kind.SUM and len(acts) > 1:
            return self._sum(event, acts[0], acts[1], kwargs.get("alpha", 1.0))
        if name == "sum" and acts[0].stacked:
            return reduce(lambda a, b: self._sum(event, a, b, 1.0), acts[0].stacked)
        if len(acts) == 1 or kind is Kind.MOVED:
            made = [e for v in values if type(v) is Activation and v.constant for e in v.events]
            return self._moved(event, kind, name, acts, weights, args, made)
        return self._activation()

    def _value(self, t: Tensor, factor: Tensor | None = None, left: Value | None = None) -> Value:
        """``factor``: what it is multiplied with, which is ``left`` of it where that is given."""
        storage = t.untyped_storage()
        address = storage._cdata
        value = self._values.get(address)
        if self._sharded and (value is None or value.leaf) and t._is_view() and hasattr(t._base, "_is_flat_param"):
            return self._piece(piece_at(t._base, int(t.storage_offset())))
        if value is None or (type(t) is nn.Parameter and type(value) is Activation):  # a model made within the step
            whole = t._base if t._is_view() and t._base is not None else t
            held = type(whole) is nn.Parameter or address in self._buffers
            if held or isinstance(whole, nn.Parameter) or (factor is not None and _is_weight(t, factor, left)):
                value = self._leaf(whole)
            else:
                value = Activation(self._number(), constant=t.numel() == 1 or not t.is_floating_point())
            self._held.append(storage._weak_ref())
            self._values[address] = value
        if type(value) is Weight and value.trains and not t.requires_grad:
            detached = torch.is_grad_enabled() and not self._scripted()
            return replace(value, trains=False, frozen=True) if detached else value
        return value

    def _scripted(self) -> bool:
        """TorchScript differentiates what it runs itself: none of its tensors ask for a gradient."""
        frame = self._frame()
        return frame is not None and isinstance(frame[3], torch.jit.ScriptModule)

    def _piece(self, p: nn.Parameter | None) -> Value:
        """Of a flat parameter, whose parts share one storage."""
        if p is None:
            return self._activation()
        if id(p) not in self._pieces:
            self._pieces[id(p)] = self._leaf(p)
        return self._pieces[id(p)]

    def _leaf(self, t: Tensor) -> Weight:
        frame = self._frame()
        module = frame[3] if frame is not None else None
        name = next((n for n, p in module._parameters.items() if p is t), "") if module is not None else ""
        self.leaves.append((t, module, name))
        return Weight((len(self.leaves) - 1,), t.requires_grad, not t.requires_grad, leaf=True)

    def _number(self) -> tuple[int]:
        self._fresh += 1
        return (self._fresh,)

    def _activation(self, *products: Product) -> Activation:
        return Activation(self._number(), products)

    def _of_weights(
        self,
        event: int,
        kind: Kind,
        name: str,
        weights: list[Weight],
        tensors: list[Tensor],
        args: tuple[Any, ...],
    ) -> Weight:
        leaves = tuple(dict.fromkeys(x for w in weights for x in w.leaves))
        ranks = [w.rank for w in weights if w.rank is not None]
        sides = sum(w.trains and t.dim() > 1 for w, t in zip(weights, tensors, strict=False))
        multiplied = name.startswith("mul") and sides > 1
        out = Weight(
            leaves,
            any(w.trains for w in weights),
            any(w.frozen for w in weights),
            multiplied or any(w.made for w in weights),
            max(ranks, default=None),
            next((w.left for w in weights if w.left), ()),
            next((w.right for w in weights if w.right), ()),
            tuple(m for w in weights for m in w.merges)[-LIMIT:],
            _scaled(next((w.scale for w in weights if w.trains), 1.0), name, args),
        )
        if kind is Kind.SUM and len(weights) > 1 and tensors[0].numel() == tensors[1].numel():
            out.merges += _merges(event, weights[0], weights[1])
        if name == "cat" and out.trains and not all(w.trains for w in weights):
            along = args[1] if len(args) > 1 else 0
            out.parts = tuple((w, int(t.shape[along])) for w, t in zip(weights, tensors, strict=False))
        return out

    def _product(
        self, event: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> Value:
        first = 1 if name.startswith(("addm", "baddb")) else 0
        left, right = tensors[first], tensors[first + 1]
        a = self._value(left, right)
        b = self._value(right, left, a)
        if type(a) is Activation and a.constant and type(b) is Weight and left.is_floating_point():
            a = Weight((), False, False)  # a unit matrix: the product is what the weight does
        value: Value
        if type(a) is Weight and type(b) is Weight and (a.trains or b.trains):
            value = self._weight_product(event, name, a, b, left, right)
        elif type(b) is Weight:
            turned = is_convolution(name) and len(args) > 6 and args[6] is True
            value = self._applied(event, name, b, right.transpose(0, 1) if turned else right, a, left, last=True)
        elif type(a) is Weight:
            value = self._applied(event, name, a, left, b, right, last=False)
        else:
            value = self._activation()
        if type(value) is Activation and value.products:
            value.scale = _times(value.scale, kwargs.get("alpha", 1.0))
        added = self._value(tensors[0]) if first else None
        if type(added) is Activation and type(value) is Activation:
            return self._sum(event, added, value, 1.0)
        if type(added) is Weight and type(value) is Weight:
            value.leaves = tuple(dict.fromkeys((*added.leaves, *value.leaves)))
            value.merges = _merges(event, added, replace(value))
        return value

    def _weight_product(self, event: int, name: str, a: Weight, b: Weight, left: Tensor, right: Tensor) -> Weight:
        rank = int(left.shape[-1])
        if is_convolution(name):  # the weight is the second, and leads out of the rank
            a, b, rank = b, a, int(left.shape[-right.dim() + 1])
        ranks = [r for r in (rank, a.rank, b.rank) if r is not None]
        leaves = tuple(dict.fromkeys((*a.leaves, *b.leaves)))
        scale = _times(a.scale, b.scale)
        return Weight(leaves, True, a.frozen or b.frozen, True, min(ranks), a.leaves, b.leaves, scale=scale)

    def _applied(
        self, event: int, name: str, weight: Weight, matrix: Tensor, other: Value, x: Tensor, last: bool
    ) -> Activation:
        source = other if type(other) is Activation else self._activation()
        kernel: tuple[int, ...] = ()
        lookup = "embedding" in name
        if is_convolution(name) and matrix.dim() > 2:
            kernel = tuple(matrix.shape[2:])
            width_in, width_out = int(matrix[0].numel()), int(matrix.shape[0])
        elif lookup:
            width_in, width_out = int(matrix.shape[0]), int(matrix.shape[-1])
        elif matrix.dim() < 2 or not matrix.is_floating_point():
            width_in, width_out = int(x.shape[-1]), int(matrix.shape[0])
        else:
            width_in, width_out = int(matrix.shape[-2 if last else -1]), int(matrix.shape[-1 if last else -2])
        quiet = weight.trains and not torch.is_grad_enabled()
        product = Product(event, weight, width_in, width_out, source, lookup, kernel, quiet)
        self.merged += [(merge, product) for merge in weight.merges]
        return self._in_one(product) if weight.parts else self._activation(product)

    def _in_one(self, whole: Product) -> Activation:
        """Of weights put together: beside each other they give results that lie side by side, else one sum."""
        parts, total = whole.weight.parts, sum(size for _, size in whole.weight.parts)
        if total == whole.width_out:
            return self._activation(*(replace(whole, weight=w, width_out=size, scaled_by=[]) for w, size in parts))
        each = [self._activation(replace(whole, weight=w, width_in=size, scaled_by=[])) for w, size in parts]
        return reduce(lambda a, b: self._sum(whole.event, a, b, 1.0), each)

    def _sum(self, event: int, a: Activation, b: Activation, alpha: Any) -> Activation:
        found: list[Sum] = []
        linear, products = a.linear and b.linear, (*a.products, *b.products)
        for x, y, times in ((a, b, alpha), (b, a, 1.0)):
            for q in y.products if x.linear and x.products else ():
                if not (q.trains or any(p.trains for p in q.source.products)):
                    continue
                fits = [(p, path) for p in x.products if p is not q for path in [_chain(p, q)] if path]
                frozen = [(p, path) for p, path in fits if not p.weight.trains or (p.quiet and not q.quiet)]
                for base, path in (frozen or fits)[-1:]:
                    end = y if times == 1 else replace(y, scale=_times(y.scale, times))
                    one = Sum(event, base, path, end, tuple(p for p, _ in frozen[:-1]))
                    (found if frozen else self.unfrozen).append(one)
                    if frozen and not y.linear:  # a gated chain: what it was added to is what it was
                        linear, products = True, x.products
        self.sums += found
        used = {id(s.path[-1]) for s in found}
        return Activation(
            self._number(),
            tuple(p for p in dict.fromkeys(products) if id(p) not in used)[-LIMIT:],
            linear,
            sums=(*a.sums, *b.sums, *found)[-LIMIT:],
        )

    def _moved(
        self,
        event: int,
        kind: Kind,
        name: str,
        acts: list[Activation],
        weights: list[Weight],
        args: tuple[Any, ...],
        made: list[int],
    ) -> Activation:
        """``made``: events that made constants."""
        first = acts[0]
        products, origin, events, linear = first.products, first.origin, first.events, first.linear
        if len(products) == 1:
            self.touched.append((event, products[0]))
        for other in acts[1:]:
            both = (*other.products, *products) if other.linear and not linear else (*products, *other.products)
            linear = linear and other.linear and not (name.startswith("mul") and products and other.products)
            products = tuple(dict.fromkeys(both))[-LIMIT:]
            origin = tuple(dict.fromkeys((*origin, *other.origin)))[-LIMIT:]
            events = (*events, *other.events)
        scaling = name.startswith(("mul", "div"))
        if scaling and weights:
            leaves = [x for w in weights if w.trains for x in w.leaves]
            for p in products if leaves else ():
                p.scaled_by += leaves
            for s in first.sums if leaves else ():
                s.scaled_by += leaves
                s.after.append(event)
        linear = linear and kind is not Kind.OTHER
        scale = _scaled(first.scale, name, args) if scaling else first.scale
        sums = first.sums if kind is not Kind.OTHER and len(acts) == 1 else ()
        stacked = tuple(acts) if name == "stack" else ()
        return Activation(origin, products, linear, (*events, *made, event)[-LIMIT:], scale, sums, stacked=stacked)


def _chain(base: Product, last: Product) -> tuple[Product, ...] | None:
    """From the product that reads what ``base`` reads and is narrow, to ``last``; None where there is no such."""
    paths: list[tuple[Product, ...]] = [(last,)]
    most = min(base.width_in, base.width_out) // 2
    for _ in range(4):
        for path in paths:
            width = path[0].width_out if len(path) > 1 else _inner(last.weight, base.weight)
            fits = width is not None and width <= most and any(p.trains for p in path)
            if fits and not set(path[0].source.origin).isdisjoint(base.source.origin):
                return path
        below = [(p, path) for path in paths for p in path[0].source.products]
        paths = [(p, *path) for p, path in below if p is not base and p.width_out <= most]
    return None


def _inner(weight: Weight, base: Weight) -> int | None:
    """Inner width of a weight that is a product; a difference of weights holds the frozen one too."""
    if not weight.made or (weight.merges and not set(base.leaves) <= set(weight.leaves)):
        return None
    return weight.rank or 0


def _merges(event: int, a: Weight, b: Weight) -> tuple[Merge, ...]:
    pairs = ((a, b), (b, a))
    return tuple(Merge(event, base, change) for base, change in pairs if not base.trains and change.made)


def _bare(t: Tensor) -> bool:
    """A leaf that wants a gradient and is no parameter, or a view of one: a weight, or an input."""
    whole = t._base if t._is_view() and t._base is not None else t
    return whole.requires_grad and whole.is_leaf and not isinstance(whole, nn.Parameter)


def _is_weight(t: Tensor, factor: Tensor, left: Value | None) -> bool:
    """One that no module holds: what an activation is multiplied with, and leaves."""
    multiplies = type(left) is Activation or (_bare(t) and (left is not None or _bare(factor)))
    return multiplies and t.dim() > 1 and t.is_floating_point()


def _times(scale: float | None, factor: Any) -> float | None:
    return scale * factor if scale is not None and isinstance(factor, int | float) else None


def _scaled(scale: float | None, name: str, args: tuple[Any, ...]) -> float | None:
    """After a product or quotient with a number; None where the factor is a tensor of one element."""
    if len(args) < 2 or not name.startswith(("mul", "div")):
        return scale
    if isinstance(args[1], Tensor):
        return scale if args[1].dim() else None
    return _times(scale, 1 / args[1] if name.startswith("div") and args[1] else args[1])
