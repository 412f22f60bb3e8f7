"""What does a machine read? The model's own names: ``loraprof schema`` prints them.

Deterministic: the same report gives the same bytes. A number that is not finite becomes null. What a terminal or a
runner would obey in a string is written as JSON's escapes, which a reader undoes.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from loraprof.report.shown import Shown

AT_ONCE: Final = 256
_COMMAND = re.compile(rb"##(?=(vso)?\[)")


def to_json(document: Shown) -> bytes:
    """UTF-8, two spaces of indentation, a newline at the end."""
    return b"".join(json_parts(document))


def json_parts(document: Shown) -> Iterator[bytes]:
    """The same a field, or ``AT_ONCE`` elements of a list, at a time: that of many steps is never held whole."""
    before = b"{\n"
    for field in msgspec.structs.fields(document):
        value = getattr(document, field.name)
        yield before + b'  "' + field.encode_name.encode() + b'": '
        if isinstance(value, list) and value:
            for i in range(0, len(value), AT_ONCE):
                yield (b"," if i else b"[") + _text(value[i : i + AT_ONCE])[len(b"[") : -len(b"\n  ]")]
            yield b"\n  ]"
        else:
            yield _text(value)
        before = b",\n"
    yield b"\n}\n"


def _text(value: object) -> bytes:
    """As it stands in a field."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).replace(b"\n", b"\n  ")
    text = _COMMAND.sub(rb"#\\u0023", text)
    return text if text.isascii() else "".join(map(_escaped, text.decode())).encode()


def _escaped(character: str) -> str:
    return character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
