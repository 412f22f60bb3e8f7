"""Do the intervals hold what was measured? The recordings of an H100 in ``profiles``, diagnosed, against its own arms.

    python benchmarks/coverage.py

``measured.json`` holds what ``benchmarks/gpu_suite.py`` measured there, arms in turn (2026-11-27): full over LoRA, what
the adapters cost, and the speed-up of remedies by the name of their arm.
"""

import json
from pathlib import Path

import loraprof
from loraprof.model.report import Report

HERE = Path(__file__).parent
RECORDINGS = HERE.parent / "profiles" / "recordings" / "h100-sxm"
Predicted = tuple[float, float, float]


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


def main() -> None:
    reports: dict[str, Report] = {}
    covered = total = 0
    for row in json.loads((HERE / "measured.json").read_text()):
        name, what, measured = row["recording"], row["what"], row["measured"]
        report = reports.setdefault(name, loraprof.diagnose(RECORDINGS / f"{name}.loraprof"))
        found = predicted(report, what)
        if found is None:
            print(f"{name:15} {what:18} {measured:8.2f}  nothing predicted")
            continue
        estimate, low, high = found
        inside = low <= measured <= high
        covered, total = covered + inside, total + 1
        print(
            f"{name:15} {what:18} {measured:8.2f}  {estimate:8.2f} [{low:.2f}, {high:.2f}]  {'in' if inside else 'out'}"
        )
    print(f"{covered} of {total} measured values lie in their interval ({covered / total:.0%})")


if __name__ == "__main__":
    main()
