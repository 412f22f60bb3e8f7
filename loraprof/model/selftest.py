"""The result of the self-test, schema ``loraprof.selftest/1``: names here are the JSON's names.

    {"schema", "device", "device_name", "ok", "notes": [...],
     "rows":    [{"plant", "what", "unit", "relation", "planted", "reported", "off", "ok"}],
     "skipped": [{"plant", "reason", "failed"}]}

``planted`` is what the work itself knows, ``reported`` what the analysis made of its trace, ``off`` is
reported / planted - 1 (of a plant that must leave nothing: the share of its step). ``None`` is unknown.
"""

from typing import Literal

import msgspec

SCHEMA = "loraprof.selftest/1"

Unit = Literal["ns", "flops", "bytes", "count", "flops/s", "bytes/s"]
Relation = Literal["equal", "at least", "at most"]  # how ``reported`` must stand to ``planted``


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of one plant. ``off`` is null where a share cannot be formed."""

    plant: str
    what: str
    unit: Unit
    relation: Relation
    planted: float
    reported: float | None
    off: float | None
    ok: bool


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A plant that did not run, or not to its end: it does not apply here, or ``failed``."""

    plant: str
    reason: str
    failed: bool


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """``ok``: every row is, and no plant failed."""

    schema: str = SCHEMA
    device: str
    device_name: str
    ok: bool
    rows: list[Row]
    skipped: list[Skipped]
    notes: list[str] = []

    def wrong(self) -> list[str]:
        """Quantities that are not what was planted."""
        return [f"{row.plant}: {row.what}" for row in self.rows if not row.ok]

    def failed(self) -> list[str]:
        """Plants that could not be planted, with the reason."""
        return [f"{one.plant}: {one.reason}" for one in self.skipped if one.failed]
