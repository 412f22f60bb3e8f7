"""What a user writes for a time or a size: ``120s``, ``2m``, ``80GiB``."""

import re
from typing import Final

from loraprof.errors import UsageError

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_PREFIXES: Final = "kmgt"
_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000 ** (i + 1) for i, letter in enumerate(_PREFIXES)},
    **{f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate(_PREFIXES)},
}


def parse_duration_ns(text: str) -> int:
    """``120s``, ``2m``, ``1h`` or plain seconds, in ns. Raises UsageError."""
    return round(_parse(text, _SECONDS, "a time", "write for example 120s or 2m") * 1e9)


def parse_bytes(text: str) -> int:
    """``80GiB``, ``500MB`` or plain bytes. Raises UsageError."""
    return round(_parse(text, _BYTES, "a size", "write for example 80GiB"))


def _parse(text: str, units: dict[str, int], what: str, hint: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].lower() not in units or float(found[1]) <= 0:
        raise UsageError(f"{text!r} is not {what}", hint)
    return float(found[1]) * units[found[2].lower()]
