"""What is known about a cause, in words: the texts behind every rule, for findings and for ``loraprof explain``.

The data are ``catalogue.toml`` beside this file, checked against ``Entry`` when they are first read. A threshold stands
in a signature as ``{name:unit}``, and its value is the rule's: the text cannot disagree with the code.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from loraprof import units


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known cause; ``gain`` is what others saw, ``evidence`` how well that is supported."""

    id: str
    title: str
    cause: str
    signature: str
    remedy: str
    gain: str
    evidence: Literal["measured", "asserted", "derived", "unverified"]
    sources: tuple[str, ...]
    formula: str | None = None

    def filled(self, thresholds: Mapping[str, float]) -> "Entry":
        """With the thresholds in the signature. Raises KeyError where it names one that the rule does not have."""
        return replace(self, signature=_Thresholds().vformat(self.signature, (), thresholds))


class _Thresholds(Formatter):
    """``{share:share}`` -> ``30 %``: the part after the colon is a unit of ``units``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        written = {"share": units.percent(value, 0), "ratio": f"{value:g}x", "": f"{value:g}"}
        return written.get(format_spec) or units.quantity(value, format_spec)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entry: tuple[Entry, ...]


@cache
def texts() -> Mapping[str, Entry]:
    """All causes by id, as they are written."""
    text = Path(__file__).with_name("catalogue.toml").read_bytes()
    return {e.id: e for e in msgspec.toml.decode(text, type=_File).entry}
