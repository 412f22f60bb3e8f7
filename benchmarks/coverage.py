"""Do the intervals hold what was measured? Every prediction that the repository keeps a measurement of.

    python benchmarks/coverage.py

* ``measured.json``: what ``benchmarks/gpu_suite.py`` measured on an H100, arms in turn (2026-11-27), against its
  recordings in ``profiles``, diagnosed anew: full over LoRA, what the adapters cost, remedies by the name of their arm;
* ``differences.json``: what ``benchmarks/predictions.py --save`` predicted and measured on a CPU;
* ``remedies.json``: what ``loraprof fix`` predicted and measured there, where one round more decides nothing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import loraprof
from loraprof.model.report import Report

HERE = Path(__file__).parent
RECORDINGS = HERE.parent / "profiles" / "recordings" / "h100-sxm"
GOAL = 0.9
Predicted = tuple[float, float, float]  # estimate, low, high


class Row(NamedTuple):
    case: str
    what: str
    measured: float
    predicted: Predicted | None  # None: nothing is said of it

    @property
    def inside(self) -> bool:
        return self.predicted is not None and self.predicted[1] <= self.measured <= self.predicted[2]

    def __str__(self) -> str:
        start = f"{self.case[:56]:56} {self.what:20} {self.measured:8.2f}"
        if self.predicted is None:
            return f"{start}  nothing predicted"
        estimate, low, high = self.predicted
        return f"{start}  {estimate:8.2f} [{low:.2f}, {high:.2f}]  {'in' if self.inside else 'out'}"


def diagnosed() -> Iterator[Row]:
    """Of the recordings of an H100."""
    reports: dict[str, Report] = {}
    for row in _read("measured.json"):
        name, what = row["recording"], row["what"]
        report = reports.setdefault(name, loraprof.diagnose(RECORDINGS / f"{name}.loraprof"))
        yield Row(f"H100, {name}", what, row["measured"], predicted(report, what))


def kept(name: str, where: str) -> Iterator[Row]:
    for row in _read(name):
        estimate, low, high = row["predicted"]
        yield Row(f"{where}, {row['case']}", row["what"], row["measured"], (estimate, low, high))


def predicted(report: Report, what: str) -> Predicted | None:
    """Estimate, low and high of what was measured; None where the report says nothing of it."""
    v, a, now = report.verdict, report.adapter, report.timing.unprofiled
    if what == "full/LoRA":
        ends = v.speedup_vs_full, v.speedup_low, v.speedup_high
        return None if None in ends else ends  # type: ignore[return-value]
    if what == "adapter cost, ms":
        if a is None or now is None or a.predicted_frozen_ns is None or a.predicted_frozen_interval is None:
            return None
        frozen = a.predicted_frozen_ns, a.predicted_frozen_interval.high, a.predicted_frozen_interval.low
        estimate, low, high = ((now.median_ns - ns) / 1e6 for ns in frozen)
        return estimate, low, high
    gains = (r.gain for f in report.findings for r in f.remedies if r.arm == what and r.gain)
    gain = next(gains, None)
    return (gain.speedup, gain.low, gain.high) if gain else None


def _read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return found


def main() -> None:
    total = covered = 0
    for rows in (diagnosed(), kept("differences.json", "CPU"), kept("remedies.json", "fix")):
        known = []
        for row in rows:
            print(row)
            known += [row] if row.predicted else []
        inside = sum(row.inside for row in known)
        print(f"  {inside} of {len(known)} lie in their interval\n")
        total, covered = total + len(known), covered + inside
    met = "met" if covered >= GOAL * total else "missed"
    print(f"{covered} of {total} in all, {covered / total:.0%} (goal {GOAL:.0%}: {met})")


if __name__ == "__main__":
    main()
