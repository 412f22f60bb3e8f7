"""What a redacted copy is compared by."""

from collections import Counter
from typing import Any

import msgspec

from loraprof.model.report import Report


def numbers(report: Report) -> Counter[tuple[str, float]]:
    """Every figure of a report with the field it stands in, and every finding."""
    found: Counter[tuple[str, float]] = Counter()

    def walk(value: Any, field: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{field}.{key}")
        elif isinstance(value, list):
            for inner in value:
                walk(inner, field)
        elif isinstance(value, int | float):
            found[field, value] += 1

    walk(msgspec.to_builtins(report), "")
    return found + Counter((finding.id, 0.0) for finding in report.findings)
