"""What a running program is made of, as two of its steps showed: model, optimizer, networks and their calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a network. ``grad``: autograd was recording; ``autocast``: its dtype there, None where it is off."""

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    grad: bool
    autocast: torch.dtype | None

    def tensors(self) -> list[Tensor]:
        return [value for value in [*self.args, *self.kwargs.values()] if isinstance(value, Tensor)]

    def tensor(self, name: str) -> Tensor | None:
        """A keyword argument that is a tensor."""
        value = self.kwargs.get(name)
        return value if isinstance(value, Tensor) else None


@dataclass(frozen=True, slots=True)
class Loader:
    """How a DataLoader was built. ``shuffled``: it draws at random from a dataset that can be indexed."""

    workers: int
    map_style: bool
    dataset: Any = None
    batch: int = 1
    shuffled: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """``model`` is the network with most parameters; ``networks`` are the outermost modules that ran in a step.

    ``calls`` are those of the last step that was watched. ``grads_kept``: gradients were there, zeroed, when the step's
    first forward began. ``shapes`` of its inputs, each way the model was called in any watched step. ``period``: steps
    after which every input of a frozen network comes again, None unknown.
    """

    model: nn.Module
    optimizer: Optimizer
    networks: Sequence[nn.Module] = ()
    calls: Sequence[Call] = ()
    grads_kept: bool = False
    loaders: Sequence[Loader] = field(default_factory=tuple)
    period: int | None = None
    shapes: frozenset[Shapes] = frozenset()

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the optimizer owns and trains."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.trained), torch.device("cpu"))

    def calls_of(self, network: nn.Module) -> list[Call]:
        return [call for call in self.calls if call.network is network]
