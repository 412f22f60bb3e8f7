"""What is an op that a module without a telling class issues itself? By the op's name and by what the module does.

Containers own a few ops of many kinds. What they do besides settles the ambiguous ones: a module that issues an
attention core is an attention module, one without children that takes a mean square is a norm, and masks and positions
are made only above attention.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from loraprof.model.vocabulary import Role

CORE: Final = re.compile(r"scaled_dot_product|_flash_attention|efficient_attention|_attention_forward")
_MEAN_SQUARE: Final = re.compile(r"rsqrt|var_mean|native_layer_norm|rms_norm|_norm$|linalg_vector_norm")


class Behaviour(Struct, frozen=True):
    """What a module was seen to do."""

    attention: bool = False  # it issues an attention core, or products of activations, in a block
    norm: bool = False
    above_attention: bool = False  # attention runs below it
    whole: bool = False  # a whole model or a wrapper around one


# Ops by what they are for, whoever issues them; the first that matches.
_PLAIN: Final[tuple[tuple[str, Role], ...]] = (
    (r"embedding", "embedding"),
    (r"layer_norm|rms_norm|batch_norm|group_norm|rsqrt|vector_norm|::norm$|weight_norm", "norm"),
    (r"(?i)cross_?entropy|nll_loss|_loss|log_?prob|log_softmax|ctc", "loss"),
    (r"scaled_dot_product|flash|efficient_attention", "attention"),
    (r"gelu|silu|relu|tanh|sigmoid|softplus|hardswish|mish|elu|glu$|::erf$", "activation"),
    (r"dropout|bernoulli|::rand|aten::div_$|uniform_", "dropout"),
    (r"pool|upsample|interpolate", "pooling"),
    (r"aten::add_?$|_foreach_add", "residual"),
)
# Masks, positions: only modules above attention make them.
_ABOVE: Final[tuple[tuple[str, Role], ...]] = (
    (r"arange|cumsum|mask|tril|triu|::full|where|::(eq|ne|le|lt|ge|gt)$|logical|bitwise|isin|all$|any$|argmax|vmap"
     r"|resize_|::zeros|::ones|scalar_tensor|::zero_|::fill_|is_same_size", "attention"),
    (r"expand|repeat|unsqueeze|cat$|stack|cos|sin|neg$|outer|::sub|diff|clamp", "position"),
    (r"::(mean|sum|amax|max|argmin)$", "pooling"),
)  # fmt: skip
# Moves and reshapes of the stream, routing to experts among them.
_STREAM: Final = (
    r"view|reshape|alias|strided|narrow|empty|item|is_nonzero|detach|::t$|transpose|permute|expand|unsqueeze|squeeze"
    r"|::to$|copy|clone|contiguous|slice|select|index|gather|scatter|topk|sort|histc|bincount|one_hot|nonzero|cat$"
    r"|stack|split|chunk|unbind|roll|pad|repeat|flip|unfold|fold|take|where|mask|arange|cumsum|argmax|unique|zeros"
    r"|zero_|fill_|::full|ones|resize_|size|is_same|searchsorted|::sum$|::(eq|ne|le|lt|ge|gt)$"
)
_POINTWISE: Final = (
    r"::(mul|div|pow|square|sqrt|exp|exp2|expm1|log|log2|log1p|logsumexp|neg|abs|sub|rsub|reciprocal|clamp\w*|softmax"
    r"|_softmax|mean|var|std|amax|amin|max|min|maximum|minimum|prod|sign|floor|ceil|round|remainder|addcmul|addcdiv"
    r"|lerp|cumprod|sin|cos|rsub|logical_\w+|bitwise_\w+|all|any|isin|isnan|isinf|item|result_type|complex|real|imag"
    r"|fft\w*|_fft\w*|logaddexp|norm)_?$"
)
_RULES_PLAIN = tuple((re.compile(p), role) for p, role in _PLAIN)
_RULES_ABOVE = tuple((re.compile(p), role) for p, role in _ABOVE)
_RULES_REST: Final[tuple[tuple[re.Pattern[str], Role], ...]] = (
    (re.compile(_STREAM), "residual"),
    (re.compile(_POINTWISE), "activation"),
)


def own_role(op: str, behaviour: Behaviour) -> Role:
    """Role of an op, products aside, that a module of no telling class issued itself; "other" where nothing fits."""
    if behaviour.norm:
        return "norm"
    rules = (*_RULES_PLAIN, *(_RULES_ABOVE if behaviour.above_attention else ()), *_RULES_REST)
    return next((role for pattern, role in rules if pattern.search(op)), "other")


def behaves(ops: Iterable[str], free_products: bool, vectors_only: bool, above: bool, whole: bool) -> Behaviour:
    """From the ops a module issued itself; ``free_products``: some multiply activations alone; ``vectors_only``: it
    has no children, and weights of one dimension."""
    names = list(ops)
    return Behaviour(
        attention=not above and (free_products or any(CORE.search(n) for n in names)),
        norm=vectors_only and any(_MEAN_SQUARE.search(n) for n in names),
        above_attention=above,
        whole=whole,
    )
