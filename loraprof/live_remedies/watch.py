"""Watches two or more steps of a program from outside: which networks run, on what, with which optimizer.

Step 1 shows the modules that run: those that lie in no other are networks. From step 2 on their calls are kept. Hooks
are torch's own; all are gone after ``remove``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from loraprof.live_remedies.program import Call, Loader, Program, Shapes


class Watch:
    """``install`` before the program starts, ``on_step`` after each of its steps, ``program`` for what was seen."""

    def __init__(self) -> None:
        self._seen: dict[int, nn.Module] = {}
        self._networks: list[nn.Module] = []
        self._calls: list[Call] = []
        self._shown: list[Call] = []
        self._hooks: list[Any] = []
        self._loaders: list[Loader] = []
        self._shapes: dict[int, set[Shapes]] = {}
        self._grads_kept = False
        self._plain_init: Callable[..., None] | None = None
        self.repeats = Repeats()

    def install(self) -> None:
        self._hooks.append(register_module_forward_pre_hook(self._see))
        plain = self._plain_init = DataLoader.__init__
        loaders = self._loaders

        def init(loader: Any, *args: Any, **kwargs: Any) -> None:
            plain(loader, *args, **kwargs)
            indexed = not isinstance(loader.dataset, IterableDataset)
            drawn = indexed and type(loader.sampler) is RandomSampler
            loaders.append(Loader(loader.num_workers, indexed, loader.dataset, loader.batch_size or 1, drawn))

        DataLoader.__init__ = init  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Safe to call more than once."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._plain_init is not None:
            DataLoader.__init__ = self._plain_init  # type: ignore[method-assign]
            self._plain_init = None
        self._seen, self._calls, self._shown = {}, [], []

    def on_step(self, optimizer: Optimizer) -> None:
        if not self._networks and self._seen:
            self._look_closer()
        self._shown, self._calls = self._calls, []
        self.repeats.step()

    def program(self, optimizer: Optimizer) -> Program | None:
        """None where no module has run."""
        if not self._networks:
            return None
        model = max(self._networks, key=lambda m: (_trains(m), sum(p.numel() for p in m.parameters())))
        return Program(
            model=model,
            optimizer=optimizer,
            networks=tuple(self._networks),
            calls=tuple(self._shown),
            grads_kept=self._grads_kept,
            loaders=tuple(self._loaders),
            period=self.repeats.period,
            shapes=frozenset(self._shapes.get(id(model), ())),
        )

    def _see(self, module: nn.Module, args: Any) -> None:
        self._seen.setdefault(id(module), module)

    def _look_closer(self) -> None:
        inner = {id(m) for outer in self._seen.values() for m in outer.modules() if m is not outer}
        self._networks = [m for key, m in self._seen.items() if key not in inner]
        self._seen = {}
        for hook in self._hooks:
            hook.remove()
        self._hooks = [n.register_forward_pre_hook(self._call, with_kwargs=True) for n in self._networks]

    def _call(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None:  # an earlier hook of this call took it off
            return
        if not self._calls:
            self._grads_kept = any(p.grad is not None for n in self._networks for p in n.parameters())
        kind = next((a.device.type for a in [*args, *kwargs.values()] if isinstance(a, Tensor)), "cpu")
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        call = Call(network, args, dict(kwargs), torch.is_grad_enabled(), autocast)
        self._calls.append(call)
        self._shapes.setdefault(id(network), set()).add(tuple(tuple(t.shape) for t in call.tensors()))
        if (not _trains(network) and not network.training) or not torch.is_grad_enabled():
            self.repeats.see([a for a in args if isinstance(a, Tensor)])


def _trains(network: nn.Module) -> bool:
    return any(p.requires_grad for p in network.parameters())


class Repeats:
    """After how many steps do the inputs of frozen networks come again?"""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._steps = 0
        self._new, self._old = False, False
        self.period: int | None = None

    @property
    def searching(self) -> bool:
        """A frozen network runs, and its inputs have not come again yet."""
        return bool(self._first) and self.period is None

    def see(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            for key in rows(tensor):
                known = self._first.setdefault(key, self._steps)
                self._new |= known == self._steps
                self._old |= known < self._steps

    def step(self) -> None:
        """A step all of whose inputs were there before ends the first round through the data."""
        if self.period is None and self._old and not self._new:
            self.period = self._steps - min(self._first.values())
        self._steps += 1
        self._new = self._old = False


def rows(tensor: Tensor) -> list[int]:
    """A key for the content of every row of a batch."""
    flat = tensor.detach().contiguous().cpu()
    if flat.dim() == 0:
        return [hash(flat.item())]
    data = flat.reshape(flat.shape[0], -1).contiguous().view(torch.uint8).numpy()
    return [hash((row.tobytes(), tensor.dtype, tuple(tensor.shape[1:]))) for row in data]
