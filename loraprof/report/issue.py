"""What is pasted under "why is LoRA slow": the answer, versions and the command, without a name of anybody's.

Under 3,000 characters of Markdown. Of names only the tool's own words, kernels' kinds and package versions stay.
"""

from collections.abc import Iterator
from typing import Final

from loraprof import __version__, units
from loraprof.errors import UsageError
from loraprof.model.report import Report
from loraprof.report.markdown import escape
from loraprof.report.shown import Shown
from loraprof.report.views.answer import ranks, shares

MOST: Final = 2900
SHOWN: Final = 5


def to_issue(shown: Shown) -> bytes:
    """UTF-8. Raises UsageError for anything but a report."""
    if not isinstance(shown, Report):
        raise UsageError("--format issue is for a report", "loraprof report RECORDING.loraprof --format issue")
    text = "\n".join(_lines(shown))
    return (text if len(text) <= MOST else text[: text.rfind("\n", 0, MOST)]).encode() + b"\n"


def _lines(report: Report) -> Iterator[str]:
    s, t, a, v = report.source, report.timing, report.adapter, report.verdict
    yield "**LoRA step, profiled with loraprof**"
    yield ""
    if v.speedup_vs_full and v.speedup_low and v.speedup_high:
        ratio = units.ratio_interval(v.speedup_vs_full, v.speedup_low, v.speedup_high, most=2)
        yield f"LoRA runs at {ratio} the speed of full fine-tuning here ({v.basis})."
        yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| device | {escape(s.device_name or s.device or units.NA)} |"
    yield f"| torch, loraprof | {escape(s.torch or 'unknown')}, {__version__} |"
    if t.unprofiled:
        u = t.unprofiled
        yield f"| step | {units.ns_interval(u.median_ns, u.low_ns, u.high_ns)} without the profiler |"
    if a is not None:
        yield f"| adapters | {units.count(a.modules)} layers, rank {ranks(a)}, {escape(a.dtype or 'mixed dtypes')} |"
        yield f"| the adapters add | {units.ns(a.added_ns)} |"
    yield ""
    if report.rank_summary is not None:
        yield escape(report.rank_summary.sentence)
        yield ""
    yield from _where(report)
    yield ""
    yield "| cause | speed-up if mended | how known |"
    yield "|---|---|---|"
    for finding in report.findings[:SHOWN]:
        gain = finding.gain
        cell = units.gain_interval(gain.speedup, gain.low, gain.high, most=2) if gain else "not known"
        yield f"| {finding.id}: {escape(finding.title)} | {cell} | {gain.basis if gain else ''} |"
    yield ""
    yield "Reproduce: `loraprof profile YOUR_SCRIPT.py`, then `loraprof report RECORDING.loraprof --format issue`"


def _where(report: Report) -> Iterator[str]:
    found = shares(report, 8)
    if found is None:
        return
    wall_ns, plain, parts = found
    yield f"| part of the step, {'without' if plain else 'under'} the profiler | share |"
    yield "|---|---:|"
    yield from (f"| {name} | {units.percent(ns / wall_ns)} |" for name, ns in parts)
