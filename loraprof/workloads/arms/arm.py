"""What an arm is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec


@dataclass(frozen=True)
class Arm:
    """``adapt(base, spec, k)`` sets what is trained and returns the model; it raises UsageError where it cannot.

    ``method`` names the published method the arm stands for. ``k`` is a number of layers, 0 where none applies.
    """

    name: str
    adapt: Callable[[nn.Module, WorkloadSpec, int], nn.Module]
    summary: str
    method: str
    takes_k: bool = False
    k: int = 0

    @property
    def label(self) -> str:
        """How the arm is written on the command line."""
        return f"{self.name}:{self.k or 'K'}" if self.takes_k else self.name

    def with_k(self, k: int) -> "Arm":
        return replace(self, k=k)


def top_layers(layers: list[nn.Module], k: int, name: str) -> list[nn.Module]:
    """The upper ``k`` layers. Raises UsageError when there are fewer."""
    if k > len(layers):
        raise UsageError(f"arm {name}:{k} asks for more layers than the model's {len(layers)}")
    return layers[-k:]
