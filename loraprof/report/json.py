"""What does a machine read? The model's own names: ``loraprof schema`` prints them.

Deterministic: the same report gives the same bytes. A number that is not finite becomes null.
"""

import msgspec

from loraprof.report.shown import Shown


def to_json(document: Shown) -> bytes:
    """UTF-8, two spaces of indentation, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
