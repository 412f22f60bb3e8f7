"""What a tensor of the counted step is made of: weights alone, or activations and the products they went through.

Structs of msgspec: made for every op, in less than half of the time that a dataclass takes.
"""

from typing import ClassVar

from msgspec import Struct, field

LIMIT = 8  # products, origins and sums that a value remembers: of a residual stream, the latest


class Merge(Struct, eq=False):
    """A frozen weight to which a product of trainable ones is added."""

    event: int
    base: "Weight"
    change: "Weight"


class Weight(Struct, eq=False):
    """Made of parameters and buffers alone. ``leaves``: which; ``rank``: the least width that a product of them
    contracted, None where none did. ``left`` and ``right``: the leaves of the last such product's two sides."""

    leaves: tuple[int, ...]
    trains: bool
    frozen: bool
    made: bool = False  # of trainable ones multiplied with each other
    rank: int | None = None
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()
    merges: tuple[Merge, ...] = ()
    scale: float | None = 1.0
    leaf: bool = False
    parts: "tuple[tuple[Weight, int], ...]" = ()  # frozen and trained ones put together, and the size of each


class Product(Struct, eq=False):
    """An activation (``source``) times a weight. ``quiet``: no gradient leads to the weight, though it is trained."""

    event: int
    weight: Weight
    width_in: int
    width_out: int
    source: "Activation"
    lookup: bool = False
    kernel: tuple[int, ...] = ()
    quiet: bool = False
    scaled_by: list[int] = field(default_factory=list)  # leaves

    @property
    def trains(self) -> bool:
        return self.weight.trains or bool(self.scaled_by)


class Sum(Struct, eq=False):
    """Where the chain ``path`` (from the narrow product to the last) was added to the result of ``base``.

    ``others``: further products that could be the base; ``scaled_by``: leaves the result was scaled with.
    """

    event: int
    base: Product
    path: tuple[Product, ...]
    end: "Activation"
    others: tuple[Product, ...] = ()
    scaled_by: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)  # events


class Activation(Struct, eq=False):
    """``products``: those whose results it is made of, by sums, scalings and moves, or functions of one of them;
    ``linear``: no function lies between. ``origin``: the values it is a scaled, moved or mapped form of. ``events``:
    the ops since its last product or sum."""

    origin: tuple[int, ...]
    products: tuple[Product, ...] = ()
    linear: bool = True
    events: tuple[int, ...] = ()
    scale: float | None = 1.0
    sums: tuple[Sum, ...] = ()
    leaf: ClassVar = False
    constant: bool = False  # zeros, positions, masks: joined with weights it is one
    stacked: tuple["Activation", ...] = ()
