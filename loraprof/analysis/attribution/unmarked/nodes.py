"""What does a backward node differentiate, by its name alone? For traces without sequence numbers."""

import re

from loraprof.analysis.attribution.containers import Behaviour, own_role
from loraprof.analysis.attribution.weights import PRODUCT
from loraprof.model.vocabulary import Role

_NODE = re.compile(r"(\w+?)Backward\d*$")
LONGEST = 200  # characters of a node's name: the search looks at each from every place before it
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def role_of_node(name: str) -> Role:
    """Of "…: NativeBatchNormBackward0" that of aten::native_batch_norm."""
    node = _NODE.search(name[-LONGEST:])
    if node is None:
        return "other"
    op = f"aten::{_WORD.sub('_', node[1]).lower()}"
    return "base.linear" if PRODUCT.search(op) else own_role(op, Behaviour())
