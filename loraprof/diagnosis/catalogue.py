"""What is known about a cause: the texts behind every finding's id, for ``loraprof explain``.

The data are ``catalogue.toml`` beside this file, checked against ``Entry`` when they are first read.
"""

from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from loraprof.diagnosis.glossary import terms
from loraprof.errors import UsageError
from loraprof.model.report import Evidence, Finding, Severity

FAMILIES = {
    "G": "can the runs be compared",
    "L": "the adapter's path",
    "H": "host and scheduling",
    "B": "the base model",
    "D": "several devices",
    "N": "clocks, power, memory",
    "W": "is LoRA the right lever",
}


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

    @property
    def family(self) -> str:
        return FAMILIES[self.id[0]]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entry: tuple[Entry, ...]


@cache
def entries() -> tuple[Entry, ...]:
    """All causes, in the catalogue's order."""
    text = resources.files("loraprof.diagnosis").joinpath("catalogue.toml").read_bytes()
    return msgspec.toml.decode(text, type=_File).entry


def entry(id: str) -> Entry:
    """The cause with this id, whatever its case. Raises UsageError that names the closest ids."""
    known = {e.id: e for e in entries()}
    wanted = id.strip().upper()
    if wanted in known:
        return known[wanted]
    close = get_close_matches(wanted, known, n=3, cutoff=0.4) or get_close_matches(id.lower(), terms(), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`loraprof explain` lists all findings"
    raise UsageError(f"no finding and no word of the pages is called {id!r}", hint)


def known(id: str, severity: Severity, seen: list[Evidence]) -> Finding:
    """A finding with the catalogue's own words."""
    text = entry(id)
    return Finding(id=id, severity=severity, title=text.title, evidence=seen, remedy=text.remedy)
