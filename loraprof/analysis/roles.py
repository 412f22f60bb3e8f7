"""What part of the model is an op? From the module that issued it, never from the op's name alone.

Inside an adapted layer the part decides (base, A, B, the rest); elsewhere the module's class does, and only in
containers (blocks, whole models), which own a few ops of many kinds, does the op's name choose.
"""

import re
from dataclasses import dataclass

from loraprof.model.recording import AdapterSite, ModuleInfo
from loraprof.model.trace import Shapes

HEAD = re.compile(r"(^|\.)(lm_head|score|classifier|embed_out|qa_outputs|head)(\.|$)")
_LINEAR = re.compile(r"Linear|Conv\dd?$|Conv1D")
_PARTS = {"down": "adapter.down", "up": "adapter.up"}
_GEMM = {"aten::mm": (0, 1), "aten::addmm": (1, 2), "aten::bmm": (0, 1), "aten::baddbmm": (1, 2)}

# Class-name fragments in order of precedence.
_CLASSES: tuple[tuple[str, str], ...] = (
    ("Rotary", "position"),
    ("PositionalEmbedding", "embedding"),
    ("Embedding", "embedding"),
    ("Norm", "norm"),
    ("Dropout", "dropout"),
    ("Pool", "pooling"),
    ("Loss", "loss"),
    ("GELU", "activation"),
    ("SiLU", "activation"),
    ("ReLU", "activation"),
    ("Tanh", "activation"),
    ("Activation", "activation"),
    ("Softmax", "attention"),
)

# Ops a container issues itself.
_OWN: tuple[tuple[str, str], ...] = (
    (r"embedding", "embedding"),
    (r"layer_norm|rms_norm|batch_norm|rsqrt", "norm"),
    (r"cross_entropy|nll_loss|mse_loss|log_softmax", "loss"),
    (r"scaled_dot_product|softmax|bmm|matmul|baddbmm|flash|efficient_attention", "attention"),
    (r"gelu|silu|relu|tanh|sigmoid|aten::mul", "activation"),
    (r"dropout|bernoulli|aten::div_$", "dropout"),
    (r"pool", "pooling"),
    (r"aten::add_?$|_foreach_add", "residual"),
    (r"arange|cumsum|mask|tril|triu|::full|where|::(eq|ne|le|lt|ge|gt)$|logical|bitwise|isin|all$|any$", "attention"),
    (r"expand|unsqueeze|cat$|cos|sin|neg$|outer|::sub|diff|clamp", "position"),
    (r"view|reshape|alias|strided|narrow|empty|item|is_nonzero|detach|::t$|transpose|permute", "residual"),
    (r"::to$|copy|clone|contiguous|slice|select|index", "residual"),
)
_OWN_COMPILED = tuple((re.compile(p), role) for p, role in _OWN)
_ROTARY_OPS = re.compile(r"aten::(mul|neg|cat|add|sub|cos|sin|split|chunk|narrow|slice|unsqueeze|_unsafe_view)_?$")


@dataclass(frozen=True, slots=True)
class Context:
    """What the surroundings of a row add to the question."""

    after_head: bool = False  # issued by a container once the head had run
    before_core: bool = False  # in an attention module before its first attention op
    rotary: bool = False  # the model has a rotary embedding


def role_of(module: ModuleInfo, site: AdapterSite | None, op: str, shapes: Shapes | None, context: Context) -> str:
    """Role of an op issued by ``module`` itself (not by a child)."""
    if site is not None and module.part is not None:
        inside = _in_site(module, site, op, shapes)
        if inside:
            return inside
    cls = module.cls
    if _LINEAR.search(cls) or cls == "Embedding":
        if HEAD.search(module.path):
            return "head"
        return "embedding" if cls == "Embedding" else "base.linear"
    for fragment, role in _CLASSES:
        if fragment in cls and not (fragment == "Embedding" and cls.endswith("Embeddings")):
            return role
    if "Attention" in cls or cls.endswith("Attn"):
        rotating = context.rotary and context.before_core and _ROTARY_OPS.match(op)
        return "position" if rotating else "attention"
    if context.after_head:
        return "loss"
    if cls.endswith("Embeddings"):
        return "embedding"
    if HEAD.search(module.path):
        return "head"
    return next((role for pattern, role in _OWN_COMPILED if pattern.search(op)), "other")


def _in_site(module: ModuleInfo, site: AdapterSite, op: str, shapes: Shapes | None) -> str | None:
    part = module.part
    if part in _PARTS:
        return _PARTS[part]
    if part == "base":
        return None
    if part == "fused":
        return _by_weight(site, op, shapes)
    return "adapter.elementwise"


def _by_weight(site: AdapterSite, op: str, shapes: Shapes | None) -> str:
    """Base and adapter in one module: the weight an op uses tells which path it is on.

    A contracts ``in_features`` into r, B contracts r into ``out_features``; views of a weight follow its shape.
    """
    full, r = {site.in_features, site.out_features}, site.rank
    if shapes is None:
        return "adapter.elementwise"
    operands = [d for d in shapes.dims if len(d) >= 2 and all(isinstance(x, int) for x in d)]
    if op in _GEMM and len(operands) >= 2:
        left, right = operands[-2], operands[-1]
        if r in (left[-1], right[-2]):
            return "adapter.up"
        if r in (right[-1], left[-2]):
            return "adapter.down"
        return "base.linear"
    for dims in operands:
        if len(dims) == 2 and r in dims:
            other = dims[0] if dims[1] == r else dims[1]
            first = dims[0] == r
            if other in full:
                return "adapter.down" if first or other != site.out_features else "adapter.up"
        if set(dims) == full and len(dims) == 2:
            return "base.linear"
    return "adapter.elementwise"
