"""How are the files of a recording called? ``recording.json``, ``nvml.json``, ``fix.json``, and per rank a trace and,
of several ranks, a recording of its own."""

import re
from typing import Final

RECORDING: Final = "recording.json"
NVML: Final = "nvml.json"
FIX: Final = "fix.json"  # what ``loraprof fix`` measured of the program that was recorded
CLAIM: Final = ".claim"  # ends the name of a file that says which process writes a rank's part
_TRACE = re.compile(r"^rank(\d+)\.trace\.json(?:\.gz)?$")
_OWN = re.compile(r"^rank(\d+)\.json$")


def trace_name(rank: int) -> str:
    return f"rank{rank}.trace.json.gz"


def own_name(rank: int) -> str:
    """One rank's recording."""
    return f"rank{rank}.json"


def rank_of_trace(name: str) -> int | None:
    """The rank whose trace a file is; None where it is none."""
    found = _TRACE.match(name)
    return int(found[1]) if found else None


def rank_of_own(name: str) -> int | None:
    """The rank whose recording a file is; None where it is none."""
    found = _OWN.match(name)
    return int(found[1]) if found else None
