"""What is a model made of, as far as its time and memory go? Linears, attention, norms and activations by layer.

Counts follow the public modelling code of transformers. A linear may run several times on a share of the tokens:
experts of a mixture, or positions of an image under a convolution.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Norm = Literal["rms", "layer", "batch"]
Activation = Literal["gated", "gelu_tanh", "gelu", "relu"]


class Linear(Struct, frozen=True):
    """A weight of n x k. ``calls`` separate weights of this shape, each seeing ``share`` of the tokens."""

    name: str
    k: int
    n: int
    bias: bool = False
    calls: int = 1
    share: float = 1.0

    @property
    def parameters(self) -> int:
        return self.calls * (self.k * self.n + (self.n if self.bias else 0))


class Layer(Struct, frozen=True):
    """One block. ``norms`` run over the hidden width; ``inner`` is the activation's width, all experts together."""

    linears: tuple[Linear, ...]
    hidden: int
    norms: int
    norm: Norm
    activation: Activation
    inner: float
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    attentions: int = 1
    causal: bool = True
    rotary: bool = False
    dropout: bool = False  # the base model drops out residuals and attention in training
    experts: int = 0
    routed: int = 0  # experts per token
    share: float = 1.0  # positions per token, of images

    @property
    def norm_parameters(self) -> int:
        return self.norms * self.hidden * (1 if self.norm == "rms" else 2)

    @property
    def parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears) + self.norm_parameters


class Stack(Struct, frozen=True):
    """``count`` equal layers."""

    count: int
    layer: Layer


class Architecture(Struct, frozen=True):
    """``positions``: rows of learned position tables. ``labels``: of a classifier, 0 where the head is a language
    model's. ``embeds`` False: no token table (images)."""

    name: str
    family: str
    hidden: int
    stacks: tuple[Stack, ...]
    vocabulary: int
    tied: bool
    positions: int = 0
    labels: int = 0
    embeds: bool = True
    tokens_per_sample: int | None = None  # images: patches and class token
    extra: int = 0  # parameters outside the layers that are no table: poolers, a patch projection
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return sum(stack.count for stack in self.stacks)

    @property
    def table_parameters(self) -> int:
        """Embeddings and head, tied ones once."""
        tokens = self.vocabulary * self.hidden if self.embeds else 0
        head = self.labels * self.hidden if self.labels else 0 if self.tied else self.vocabulary * self.hidden
        return tokens + head + self.positions * self.hidden

    @property
    def block_parameters(self) -> int:
        return sum(stack.count * stack.layer.parameters for stack in self.stacks)

    @property
    def parameters(self) -> int:
        """The last norm included."""
        return self.block_parameters + self.table_parameters + self.extra + self.hidden

    def linears(self) -> Iterator[tuple[int, Linear]]:
        """Every linear of a layer with the number of layers that hold it."""
        for stack in self.stacks:
            for linear in stack.layer.linears:
                yield stack.count, linear


def adapted(linear: Linear, targets: tuple[str, ...]) -> bool:
    """Whether the adapters' targets name this linear. Routers are never adapted by default."""
    if not targets:
        return not linear.name.endswith(ROUTER)
    return any(linear.name == target or linear.name.endswith(f".{target}") for target in targets)


ROUTER = "router"


def adapter_parameters(architecture: Architecture, rank: int, targets: tuple[str, ...]) -> int:
    """r (k + n) per adapted weight."""
    return sum(
        count * linear.calls * rank * (linear.k + linear.n)
        for count, linear in architecture.linears()
        if adapted(linear, targets)
    )


def adapted_layers(architecture: Architecture, targets: tuple[str, ...]) -> int:
    """How many weights carry an adapter."""
    return sum(count * linear.calls for count, linear in architecture.linears() if adapted(linear, targets))
