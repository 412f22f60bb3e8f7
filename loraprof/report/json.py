"""What does a machine read? The model's own names: ``loraprof schema`` prints them.

Deterministic: the same report gives the same bytes. A number that is not finite becomes null. What a terminal or a
runner would obey in a string is written as JSON's escapes, which a reader undoes.
"""

import json
import re

import msgspec

from loraprof.report.shown import Shown

_COMMAND = re.compile(rb"##(?=(vso)?\[)")


def to_json(document: Shown) -> bytes:
    """UTF-8, two spaces of indentation, a newline at the end."""
    text = _COMMAND.sub(rb"#\\u0023", msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return text if text.isascii() else "".join(map(_escaped, text.decode())).encode()


def _escaped(character: str) -> str:
    return character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
