"""What did the script name the kernels of its CUDA graphs when it captured them?

``torch.cuda._graph_annotations.mark_kernels(name)`` around a part of a capture (torch 2.13, CUDA 13.1) keeps the name
under each kernel's graph node id, the id that the profiler writes. Without it nothing is known.
"""

import sys
from typing import Any


def graph_nodes() -> dict[int, str]:
    """Graph node id -> innermost name; empty where the script named nothing. Imports nothing."""
    annotations: Any = sys.modules.get("torch.cuda._graph_annotations")
    known: Any = getattr(annotations, "get_kernel_annotations", dict)()
    return {int(node): _name(names[-1]) for node, names in known.items() if names}


def _name(annotation: Any) -> str:
    """A mark is fields; torch keeps a plain text as the field "str"."""
    return str(annotation.get("str", annotation)) if isinstance(annotation, dict) else str(annotation)
