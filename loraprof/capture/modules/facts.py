"""What the trace cannot say about a model and its optimizer: sizes, dtypes, flags, missing gradients."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from loraprof.capture.adapters.find import find_sites
from loraprof.capture.adapters.sites import dtype_name, features
from loraprof.capture.compiled.dynamo import never_compiled
from loraprof.capture.device.protocol import Allocator
from loraprof.capture.modules.markers import Markers
from loraprof.capture.modules.shards import first_byte, is_sharded, local
from loraprof.model.recording import AdapterOps, AdapterSite, Memory, ModuleInfo, ParameterInfo

IGNORED: Final = -100  # the label of a position without a loss


class Tables(NamedTuple):
    """``notes`` say how adapters that are ambiguous were read."""

    modules: list[ModuleInfo]
    sites: list[AdapterSite]
    parameters: list[ParameterInfo]
    adapter_ops: list[AdapterOps]
    dense_ops: list[AdapterOps] | None
    notes: list[str]


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct storages on this rank."""
    held = [local(t) for t in tensors]
    return sum({(first_byte(t), t.numel()): t.numel() * t.element_size() for t in held}.values())


def memory_of(
    markers: Markers, optimizer: Optimizer, allocator: Allocator | None, saved_bytes: int | None = None
) -> Memory:
    """Sizes by kind; peak and reserved only where an allocator keeps statistics.

    Activations are what is left of the peak, elsewhere the ``saved_bytes`` that the forward pass kept.
    """
    parameters = [p for _, _, p in markers.parameters]
    weights = tensor_bytes([*parameters, *(b for m in markers.ids for b in m.buffers(recurse=False))])
    gradients = tensor_bytes(p.grad for p in parameters if p.grad is not None)
    state = tensor_bytes(v for s in optimizer.state.values() for v in _tensors(list(s.values())) if v.dim())
    if allocator is None:
        return Memory(
            weights_bytes=weights, gradients_bytes=gradients, optimizer_bytes=state, activations_bytes=saved_bytes
        )
    return Memory(
        peak_bytes=allocator.peak_bytes,
        reserved_bytes=allocator.reserved_bytes,
        allocator_retries=allocator.retries,
        total_bytes=allocator.total_bytes,
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=state,
        activations_bytes=max(allocator.peak_bytes - weights - gradients - state, 0),
    )


def _tensors(held: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those in lists too: L-BFGS keeps its history in them."""
    for value in held:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def missing_gradients(markers: Markers) -> list[str]:
    """Names of trainable parameters that got no gradient in this step. FSDP's first version leaves empty ones; an
    optimizer that steps inside the backward pass has let go of them by its end."""
    paths = {module: path for path, module in markers.paths().items()}
    silent = {module for top in markers.silent for module in top.modules()}
    return [
        f"{paths.get(module, '')}.{name}".strip(".")
        for number, (module, name, p) in enumerate(markers.parameters)
        if p.requires_grad and p.grad is None and p.numel() and number not in markers.arrived and module not in silent
    ]


def optimizer_name(optimizer: Optimizer) -> str:
    """Class and implementation, e.g. ``AdamW(fused)``."""
    group = optimizer.param_groups[0]
    flags = [k for k in ("fused", "foreach", "capturable") if group.get(k)]
    return type(optimizer).__name__ + (f"({', '.join(flags)})" if flags else "")


def autocast_of(markers: Markers) -> str | None:
    """Autocast's dtype in the counted step, "none" where it was off, None where no module was counted."""
    kinds = {str(one.autocast).removeprefix("torch.") for one in markers.called.values() if one.autocast is not None}
    return min(kinds) if kinds else "none" if markers.called else None


def tokens_of(markers: Markers) -> int | None:
    """Tokens of one step: the most elements that were looked up in one of the widest tables.

    Positions are looked up once for a batch, biases of relative positions in narrow tables. Of several networks those
    that are trained count, and of their calls those with gradient. None: no embedding ran.
    """
    trained = {module for top in markers.trained() for module in top.modules()}
    seen = {key: n for key, n in markers.embedded.items() if key.outer in trained} or markers.embedded
    seen = {key: n for key, n in seen.items() if key.gradient} or seen
    counts: Counter[tuple[int, int]] = Counter()
    for key, n in seen.items():
        counts[key.width, key.rows] += n
    return max(((width, n) for (width, _), n in counts.items()), default=(0, None))[1]


def micro_batches_of(markers: Markers) -> int | None:
    """Forward passes of the first trained network in one step: those with gradient, where there are any."""
    roots = {markers.ids[r] for r in markers.trained()[:1]}
    calls = [c for c in markers.calls if c.module in roots and not c.recompute]
    return sum(c.after > c.before for c in calls) or len(calls) or None


class Padding:
    """The ``attention_mask`` and ``labels`` that root modules are given while it is installed. They are counted only
    when it is asked: a profiled step shall not count them."""

    def __init__(self, roots: list[nn.Module]) -> None:
        self._given: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []  # mask, labels
        self._roots = [r for r in roots if not isinstance(r, torch.jit.ScriptModule)]  # they take no hooks
        self._handles: list[RemovableHandle] = []
        never_compiled(Padding._see, _per_token)
        self.resume()

    def resume(self) -> None:
        """Puts the hooks back that ``pause`` took off; none after ``remove``."""
        if not self._handles:
            self._handles = [r.register_forward_pre_hook(self._see, with_kwargs=True) for r in self._roots]

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> None:
        """Without ``kwargs``: an earlier hook of this call took it off, as one does that notices a step's end."""
        if kwargs is None or torch._C._current_graph_task_id() >= 0:
            return
        mask, labels = _per_token(kwargs.get("attention_mask")), _per_token(kwargs.get("labels"))
        if mask is not None or labels is not None:
            self._given.append((mask, labels))

    def pause(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def remove(self) -> None:
        self.pause()
        self._roots = []

    @property
    def seen(self) -> bool:
        return bool(self._given)

    def shares(self) -> dict[str, float]:
        """Of all tokens: ``real`` ones, those up to the ``longest`` row's last, ``labelled`` ones. What was not passed
        is missing."""
        counts: Counter[str] = Counter()
        for mask, labels in self._given:
            if mask is not None:
                counts.update(masked=mask.numel(), real=int((mask != 0).sum()))
                if labels is not None and labels.shape == mask.shape:
                    counts.update(both=mask.numel(), longest=len(mask) * columns_used(mask, labels))
            if labels is not None:
                counts.update(labels=labels.numel(), labelled=int((labels != IGNORED).sum()))
        pairs = (("real", "masked"), ("longest", "both"), ("labelled", "labels"))
        return {part: counts[part] / counts[whole] for part, whole in pairs if counts[whole]}


def _per_token(value: object) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) and value.dim() == 2 and not value.is_floating_point() else None


def columns_used(mask: torch.Tensor, labels: torch.Tensor) -> int:
    """Columns up to the last that any row uses: that its mask lets through, or that has a label."""
    used = ((mask != 0) | (labels != IGNORED)).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def tables_of(markers: Markers) -> Tables:
    """Every numbered module with its path, the adapted layers, and every parameter by its marker's number.

    Modules and parameters carry the part they play in an adapted layer.
    """
    named = markers.paths()
    silent = frozenset(module for top in markers.silent for module in top.modules())
    sites = find_sites(named, markers.parameters, markers.flow, markers.ids, silent)
    found = sites.found
    paths = {module: path for path, module in named.items()}
    where = {m: (i, part) for i, f in enumerate(found) for m, part in f.parts.items()}
    for module, caller in markers.hung:  # put into an adapted layer's base while it runs
        if module not in where and caller in where:
            where |= {m: (where[caller][0], "elementwise") for m in module.modules() if m not in where}
    root = markers.root_of()
    modules = [
        _module_info(number, paths.get(m, type(m).__name__), m, root.get(m, 0), *where.get(m, (None, None)))
        for m, number in sorted(markers.ids.items(), key=lambda item: item[1])
    ]
    weights = {number: part for f in found for number, part in f.weights.items()}
    parameters = [
        ParameterInfo(
            id=i,
            name=name,
            module=markers.ids[module],
            shape=tuple(p.shape),
            dtype=dtype_name(p),
            trainable=p.requires_grad and module not in silent,
            device=str(p.device),
            part=weights.get(id(p)) or _part_of_parameter(where.get(module, (None, None))[1]),
            local_shape=tuple(local(p).shape) if is_sharded(p) else None,
        )
        for i, (module, name, p) in enumerate(markers.parameters)
    ]
    return Tables(modules, [f.site for f in found], parameters, sites.ops, sites.dense, sites.notes)


def _module_info(
    number: int, path: str, module: nn.Module, root: int, site: int | None, part: str | None
) -> ModuleInfo:
    shape = features(module)
    return ModuleInfo(
        id=number,
        path=path,
        cls=type(module).__name__,
        origin=type(module).__module__,
        site=site,
        part=part,
        in_features=shape[0] if shape else None,
        out_features=shape[1] if shape else None,
        root=root,
    )


def _part_of_parameter(part: str | None) -> str | None:
    """Of a parameter whose module plays ``part``: what a fused layer holds beside A and B is the base's."""
    return {"fused": "base", "wrapper": "elementwise"}.get(part, part) if part else None
