"""Where did the time of a profile go? Said in one line at its end."""

import time
from collections.abc import Callable

from loraprof import units


class Spent:
    """Parts of the time since ``began_ns`` of the clock, or since it was made, in order."""

    def __init__(self, began_ns: int | None = None, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock, self._last = clock, clock() if began_ns is None else began_ns
        self._ns: dict[str, int] = {}

    def ends(self, part: str) -> None:
        """All since the last call belongs to ``part``."""
        now = self._clock()
        self._ns[part] = self._ns.get(part, 0) + now - self._last
        self._last = now

    def sentence(self) -> str:
        parts = ", ".join(f"{part} {units.ns(ns, 2)}" for part, ns in self._ns.items())
        return f"{units.ns(sum(self._ns.values()), 2)} in all: {parts}"
