"""What do the tool's own words mean? One glossary, ``glossary.toml`` beside this file, for ``loraprof explain``."""

from functools import cache
from pathlib import Path

import msgspec


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words that share one explanation."""

    words: tuple[str, ...]
    text: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    term: tuple[Term, ...]


@cache
def terms() -> dict[str, Term]:
    """By word, in lower case."""
    text = Path(__file__).with_name("glossary.toml").read_bytes()
    return {word.lower(): term for term in msgspec.toml.decode(text, type=_File).term for word in term.words}


def term(word: str) -> Term | None:
    """The explanation of a word, whatever its case; ``None`` where it is none of the tool's own."""
    return terms().get(" ".join(word.lower().split()))
