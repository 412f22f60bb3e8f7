"""What does a machine read? The contract's JSON, names and all: the model is the schema.

Deterministic: the same report gives the same bytes. A number that is not finite becomes null.
"""

import msgspec

from loraprof.model.compare import Comparison
from loraprof.model.report import Report


def to_json(document: Report | Comparison) -> bytes:
    """UTF-8, two spaces of indentation, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
