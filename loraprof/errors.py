"""Errors a user can act on: one line, a hint, and an exit code."""

from collections.abc import Sequence
from typing import Final

MEANINGS: Final = {
    0: "done",
    2: "bad usage",
    3: "a threshold was missed",
    4: "cannot be measured here",
    5: "unreadable input",
    130: "interrupted",
}  # any other is the profiled script's own, or 1 for an error inside loraprof

MISPLACED: Final = "what stands behind the script is its own: loraprof's options stand before it"


def misplaced(code: int, words: Sequence[str]) -> str | None:
    """The hint for a program that ended with ``code`` and was given ``words``, where it may not have known them."""
    return MISPLACED if code == 2 and any(word.startswith("-") for word in words) else None


class LoraprofError(Exception):
    """Printed once by ``cli/app.py`` as ``message`` and ``hint``; never as a traceback.

    Exit codes: 2 bad usage, 3 threshold missed, 4 cannot be measured here, 5 unreadable input.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(hint)  # shown where a Python program lets the error through


class UsageError(LoraprofError):
    """The command line or a specification asks for something that does not exist."""

    exit_code = 2


class ThresholdError(LoraprofError):
    """A limit the user set was missed (``--fail-on``, ``selftest``)."""

    exit_code = 3


class MeasurementError(LoraprofError):
    """This cannot be measured here: no such device, no permission, the capture failed."""

    exit_code = 4


class InputError(LoraprofError):
    """A recording or trace that cannot be read."""

    exit_code = 5
