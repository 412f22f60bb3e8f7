"""What the trace cannot say about a model and its optimizer: sizes, dtypes, flags, missing gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from loraprof.capture.markers import Markers, named_modules, never_compiled, plain
from loraprof.capture.sites import Found, features, find_sites
from loraprof.model.recording import AdapterSite, Memory, ModuleInfo, ParameterInfo


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct storages."""
    return sum({(t.data_ptr(), t.numel()): t.numel() * t.element_size() for t in tensors}.values())


def memory_of(
    roots: list[nn.Module], optimizer: Optimizer, device: torch.device, saved_bytes: int | None = None
) -> Memory:
    """Sizes by kind; peak and reserved only where the allocator keeps statistics (CUDA).

    Activations are what is left of the peak, on a CPU the ``saved_bytes`` that the forward pass kept.
    """
    parameters = [p for root in roots for p in root.parameters()]
    weights = tensor_bytes([*parameters, *(b for root in roots for b in root.buffers())])
    gradients = tensor_bytes(p.grad for p in parameters if p.grad is not None)
    state = tensor_bytes(
        v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor) and v.dim()
    )
    if device.type != "cuda":
        return Memory(
            weights_bytes=weights, gradients_bytes=gradients, optimizer_bytes=state, activations_bytes=saved_bytes
        )
    stats: dict[str, Any] = torch.cuda.memory_stats(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Memory(
        peak_bytes=peak,
        reserved_bytes=torch.cuda.memory_reserved(device),
        allocator_retries=int(stats.get("num_alloc_retries", 0)),
        total_bytes=torch.cuda.get_device_properties(device).total_memory,
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=state,
        activations_bytes=max(peak - weights - gradients - state, 0),
    )


def missing_gradients(roots: list[nn.Module]) -> list[str]:
    """Names of trainable parameters that got no gradient in this step."""
    return [plain(n) for root in roots for n, p in root.named_parameters() if p.requires_grad and p.grad is None]


def optimizer_name(optimizer: Optimizer) -> str:
    """Class and implementation, e.g. ``AdamW(fused)``."""
    group = optimizer.param_groups[0]
    flags = [k for k in ("fused", "foreach", "capturable") if group.get(k)]
    return type(optimizer).__name__ + (f"({', '.join(flags)})" if flags else "")


def tokens_of(markers: Markers) -> int | None:
    """Tokens of one step: elements that the largest embedding looked up in it. None: no embedding ran."""
    return markers.embedded or None


class Padding:
    """Counts real and padded tokens by the ``attention_mask`` that root modules are given while it is installed."""

    def __init__(self, roots: list[nn.Module]) -> None:
        self.real, self.all = 0, 0
        self._roots = roots
        self._handles: list[RemovableHandle] = []
        never_compiled(Padding._see)
        self.resume()

    def resume(self) -> None:
        """Puts the hooks back that ``pause`` took off; none after ``remove``."""
        if not self._handles:
            self._handles = [r.register_forward_pre_hook(self._see, with_kwargs=True) for r in self._roots]

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2 and torch._C._current_graph_task_id() < 0:
            self.real += int((mask != 0).sum())
            self.all += mask.numel()

    def pause(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def remove(self) -> None:
        self.pause()
        self._roots = []

    def share(self) -> float | None:
        """Real tokens of all; None where no mask was passed."""
        return self.real / self.all if self.all else None


def module_table(markers: Markers) -> tuple[list[ModuleInfo], list[AdapterSite]]:
    """Every numbered module with its path, and the adapted layers with the part each module plays."""
    paths: dict[nn.Module, str] = {}
    found: list[Found] = []
    for i, root in enumerate(markers.roots):
        prefix = "" if i == 0 else f"{type(root).__name__}"
        for name, module in named_modules(root):
            paths.setdefault(module, ".".join(p for p in (prefix, name) if p))
        found += find_sites(root)
    where = {m: (i, part) for i, f in enumerate(found) for m, part in f.parts.items()}
    table = []
    for module, number in sorted(markers.ids.items(), key=lambda item: item[1]):
        site, part = where.get(module, (None, None))
        shape = features(module)
        table.append(
            ModuleInfo(
                id=number,
                path=paths.get(module, type(module).__name__),
                cls=type(module).__name__,
                origin=type(module).__module__,
                site=site,
                part=part,
                in_features=shape[0] if shape else None,
                out_features=shape[1] if shape else None,
            )
        )
    return table, [f.site for f in found]


def parameter_table(markers: Markers) -> list[ParameterInfo]:
    """Every parameter, by the number its gradient marker carries."""
    return [
        ParameterInfo(
            id=i,
            name=name,
            module=markers.ids[module],
            shape=tuple(p.shape),
            dtype=str(p.dtype).removeprefix("torch."),
            trainable=p.requires_grad,
            device=str(p.device),
        )
        for i, (module, name, p) in enumerate(markers.parameters)
    ]
