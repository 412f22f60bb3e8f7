"""What part of the model is an op? From the module that issued it, never from the op's name alone.

Inside an adapted layer the part decides (base, A, B, the rest); elsewhere the module's class does. A class that says
nothing (blocks, whole models, a script's own layers) is judged by what it does: ``containers``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct, field

from loraprof.analysis.attribution.containers import Behaviour, own_role
from loraprof.analysis.attribution.weights import ADAPTER_PARTS, PRODUCT, Weights, product_role
from loraprof.model.compilation import Compilation
from loraprof.model.recording import AdapterOps, AdapterSite, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import Role

HEAD: Final = re.compile(r"(^|\.)(lm_head|score|classifier|embed_out|qa_outputs|head)(\.|$)")
LINEAR: Final = re.compile(r"Linear|Conv\dd?$|Conv1D|(LSTM|GRU|RNN)(Cell)?$")
ATTENTION: Final = re.compile(r"Attention|Attn$")
REPEATED: Final = re.compile(r"(^|\.)\d+(\.|$)")

# Class-name fragments in order of precedence, in lower case.
_CLASSES: Final[tuple[tuple[str, Role], ...]] = (
    ("rotary", "position"),
    ("positionalembedding", "embedding"),
    ("embedding", "embedding"),
    ("norm", "norm"),
    ("dropout", "dropout"),
    ("pool", "pooling"),
    ("loss", "loss"),
    ("gelu", "activation"),
    ("silu", "activation"),
    ("relu", "activation"),
    ("swish", "activation"),
    ("mish", "activation"),
    ("tanh", "activation"),
    ("sigmoid", "activation"),
    ("activation", "activation"),
    ("softmax", "attention"),
)
SCALING: Final = "aten::mul"  # what a module of no telling class does with a weight of one dimension
ROTARY_OPS = re.compile(r"aten::(mul|neg|cat|add|sub|cos|sin|split|chunk|narrow|slice|unsqueeze|_unsafe_view)_?$")


class Context(Struct, frozen=True):
    """What the surroundings of a row add to the question."""

    after_head: bool = False  # issued by a container once the head had run
    before_core: bool = False  # in an attention module before its first attention op
    top: str = ""  # the op that the module called and that calls this one; "": this one
    top_shapes: Shapes | None = None


class Roles(Struct):
    """The roles of one trace's modules. ``behaviour`` is filled from the ops that modules were seen to issue."""

    table: list[ModuleInfo]
    sites: list[AdapterSite] = field(default_factory=list)
    weights: Weights = field(default_factory=Weights)
    behaviour: dict[int, Behaviour] = field(default_factory=dict)
    heads: frozenset[int] = frozenset()
    rotary: bool = False
    adapter_ops: list[AdapterOps] = field(default_factory=list)
    compiled: frozenset[tuple[int, str]] = frozenset()  # module and op of what compiled forward graphs are made of

    def of(self, module: int, op: str, shapes: Shapes | None = None, context: Context = Context()) -> Role:
        """Role of an op issued by a module itself (not by a child)."""
        info = self.table[module]
        if info.site is not None and info.part not in (None, "base") and info.site < len(self.sites):
            return self._in_site(info, op, shapes)
        if module in self.heads:
            return "head"
        by_class = self._of_class(info, op, context)
        if by_class:
            return by_class
        if context.after_head:
            return "loss"
        behaviour = self.behaviour.get(module, Behaviour())
        named = context.top if own_role(context.top, behaviour) != "other" or PRODUCT.search(context.top) else op
        if PRODUCT.search(named):
            seen = context.top_shapes if named == context.top else shapes
            return product_role(named, seen, self.weights, module, behaviour, self.heads)
        if behaviour.attention and not info.cls.endswith("Embeddings"):
            return "position" if self._rotates(op, context) else "attention"
        if info.cls.endswith("Embeddings"):
            return "embedding"
        return own_role(named, behaviour)

    def of_gradient(self, module: int, op: str, shapes: Shapes | None) -> Role:
        """Role of a product in a backward node of a module that holds base and adapter."""
        info = self.table[module]
        assert info.site is not None
        return self.weights.of_site(info, self.sites[info.site], op, shapes, backward=True)

    def of_parameter(self, parameter: ParameterInfo) -> Role:
        """Role of summing up a parameter's gradient."""
        if parameter.part in ADAPTER_PARTS:
            return ADAPTER_PARTS[parameter.part]
        if parameter.part not in (None, "base"):
            return "adapter.elementwise"
        named = self.of(parameter.module, "")
        if named not in ("other", "adapter.elementwise"):
            return named
        return "base.linear" if parameter.part or len(parameter.shape) > 1 else own_role(SCALING, Behaviour())

    def _of_class(self, info: ModuleInfo, op: str, context: Context) -> Role | None:
        if LINEAR.search(info.cls):
            return "base.linear"
        if info.cls.endswith("Embeddings"):
            return None
        cls = info.cls.lower()
        found = next((role for fragment, role in _CLASSES if fragment in cls), None)
        if found is None and ATTENTION.search(info.cls):
            return "position" if self._rotates(op, context) else "attention"
        return found

    def _rotates(self, op: str, context: Context) -> bool:
        return self.rotary and context.before_core and bool(ROTARY_OPS.match(op))

    def _in_site(self, info: ModuleInfo, op: str, shapes: Shapes | None) -> Role:
        if info.part in ADAPTER_PARTS:
            return ADAPTER_PARTS[info.part]
        assert info.site is not None
        site = self.sites[info.site]
        multiplied = bool(PRODUCT.search(op))
        replaced = multiplied and site.kind in ("lora", "conv-lora")  # its layers would issue it: one function does
        if info.part == "fused" or site.kind == "handwritten" or replaced:
            return self.weights.of_site(info, site, op, shapes)
        return "adapter.down" if multiplied and site.kind != "dora" else "adapter.elementwise"


def roles_of(table: list[ModuleInfo], recording: Recording | None, sites: Sequence[AdapterSite] = ()) -> Roles:
    """The roles of a table of modules; a recording adds adapted layers and the shapes of weights.

    ``sites`` are those of a trace without one.
    """
    parameters = recording.parameters if recording else []
    return Roles(
        table,
        recording.sites if recording else list(sites),
        Weights.of(table, parameters),
        {},
        frozenset(_heads(table, [p.shape for p in parameters if table[p.module].cls == "Embedding"])),
        any("Rotary" in m.cls for m in table),
        recording.adapter_ops if recording else [],
        frozenset(_compiled_ops(recording.compilation if recording else None)),
    )


def _compiled_ops(compilation: Compilation | None) -> Iterator[tuple[int, str]]:
    graphs = compilation.graphs if compilation else ()
    return ((op.module, op.op) for g in graphs if not g.backward for call in g.calls for op in call.ops)


def _heads(table: list[ModuleInfo], embeddings: Iterable[tuple[int, ...]]) -> list[int]:
    """Modules that turn the last hidden state into the output: by name, or one linear as wide as the vocabulary."""
    vocabularies = set(embeddings)
    return [
        m.id
        for m in table
        if (LINEAR.search(m.cls) or m.part == "base" or HEAD.search(m.path))
        and (HEAD.search(m.path) or ((m.out_features, m.in_features) in vocabularies and not REPEATED.search(m.path)))
        and m.part in (None, "base")
        and not any(f in m.cls.lower() for f, role in _CLASSES if role in ("norm", "dropout", "activation", "pooling"))
    ]
