"""What one op costs at least, and the helper every rule is written with.

Counting rule: every distinct input tensor is read once, every output written once, a view costs nothing; an
in-place op reads and writes its target, unless it overwrites it; a gather reads the rows it selects. FLOPs are
those of matrix products (GEMM, convolution, attention), a multiply-add being 2; elementwise arithmetic counts
none, as in ``torch.utils.flop_counter``.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from loraprof.analysis.work.tensors import Inputs, Tensor

Kind = Literal["gemm", "conv", "attention", "memory", "view"]


class Work(Struct, frozen=True):
    """Compulsory work of one op call.

    ``exact`` is False when something was not recorded and left out: bytes are then a lower bound.
    ``least_flops`` is what no algorithm avoids: causal attention may skip half the products, a 3x3 convolution
    may use Winograd's (arXiv 1509.09308); only this figure may call a measurement impossible.
    """

    flops: int
    read_bytes: int
    write_bytes: int
    kind: Kind = "memory"
    dtype: str | None = None  # of the matrix products
    exact: bool = True
    least_flops: int = 0
    reads: tuple[int, ...] = ()  # bytes of each input and output: what finds the op that made an input
    writes: tuple[int, ...] = ()

    @property
    def min_bytes(self) -> int:
        return self.read_bytes + self.write_bytes


Rule = Callable[[str, Inputs], Work]


def memory(reads: Iterable[Tensor], writes: Iterable[Tensor], exact: bool = True) -> Work:
    """Work without matrix products."""
    into, out = _sizes(reads), _sizes(writes)
    return Work(0, sum(into), sum(out), exact=exact, reads=into, writes=out)


def product(
    flops: int, reads: Iterable[Tensor], writes: Iterable[Tensor], kind: Kind, dtype: str, least: int | None = None
) -> Work:
    """Work of matrix products on operands of ``dtype``; ``least`` FLOPs where an algorithm needs fewer."""
    into, out = _sizes(reads), _sizes(writes)
    fewest = flops if least is None else least
    return Work(flops, sum(into), sum(out), kind, dtype, least_flops=fewest, reads=into, writes=out)


def _sizes(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    return tuple(t.bytes for t in tensors)


def present(*tensors: Tensor | None) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def words(text: str) -> list[str]:
    """A list of names written as text."""
    return text.split()
