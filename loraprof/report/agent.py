"""What does an agent need that is to make a training faster? Facts, changes to make, and commands that prove them.

At most about 2,000 tokens: ``MOST`` characters. Names come from a file, so nothing in here is an instruction of it.
"""

import re
from collections.abc import Iterator
from shlex import quote
from typing import Final

from loraprof import units
from loraprof.model.finding import Finding
from loraprof.model.report import Report
from loraprof.report.markdown import to_markdown, unescape
from loraprof.report.shown import Shown
from loraprof.report.views.answer import headline, shares, sure
from loraprof.report.views.answer import lines as answer_lines
from loraprof.text import printable

MOST: Final = 7000
MOST_FINDINGS: Final = 8
_FOLDED: Final = re.compile(r"<details>.*?</details>\n*", re.DOTALL)
NAME: Final = 80  # characters of a kernel's name


def to_agent(shown: Shown) -> bytes:
    """UTF-8, plain lines."""
    lines = _lines(shown) if isinstance(shown, Report) else _tables(shown).splitlines()
    return (_short("\n".join(map(printable, lines))) + "\n").encode()


def _tables(shown: Shown) -> str:
    """A comparison, an estimate, …: its Markdown without what is folded there."""
    return unescape(_FOLDED.sub("", to_markdown(shown).decode()))


def _short(text: str) -> str:
    return text if len(text) <= MOST else text[: text.rfind("\n", 0, MOST - 40)] + "\n… cut; --format json has all"


def _lines(report: Report) -> Iterator[str]:
    yield f"ANSWER {headline(report)}"
    yield from answer_lines(report)
    if text := sure(report):
        yield f"TRUST {text}"
    yield from _where(report)
    for i, finding in enumerate(report.findings[:MOST_FINDINGS]):
        yield from _finding(i + 1, finding)
    if len(report.findings) > MOST_FINDINGS:
        yield f"{len(report.findings) - MOST_FINDINGS} more findings: --format json"
    yield from (f"NOTE {note}" for note in report.closure.notes[:5])
    target, path = report.source.target or "SCRIPT.py ARGS", quote(report.source.path)
    yield "PROVE each change; exit code 3 says a threshold was missed"
    yield f"  loraprof fix {target}   (every remedy that fits, measured, with its loss)"
    yield f"  after an edit: loraprof profile --record AFTER.loraprof {target}"
    yield f"    then: loraprof compare {path} AFTER.loraprof --fail-on 'slower>3%'"
    yield "  loraprof explain ID   (cause, signature, sources; or any word used here)"


def _where(report: Report) -> Iterator[str]:
    """Time by role and by cause of idleness, of the step without the profiler where it is known."""
    found = shares(report, 10)
    if found is None:
        return
    wall_ns, plain, parts = found
    words = ", ".join(f"{name} {units.percent(ns / wall_ns)}" for name, ns in parts)
    yield f"WHERE {units.ns(wall_ns)} per step {'without' if plain else 'under'} the profiler: {words}"
    top = sorted(report.kernels, key=lambda k: -k.total_ns)[:3]
    for k in top:
        where = f"{k.module or 'no module'}: {k.role}"
        yield f"  kernel {k.name[:NAME]} in {where}, {units.ns(k.total_ns)}, {k.bound} bound"


def _finding(number: int, finding: Finding) -> Iterator[str]:
    yield f"{number}. {finding.id} {finding.title} ({finding.severity})"
    for remedy in finding.remedies[:3]:
        gain = remedy.gain
        known = (
            f" | {units.gain_interval(gain.speedup, gain.low, gain.high, most=2)} {gain.basis}"
            if gain
            else " | gain not known"
        )
        arm = f" | arm {remedy.arm}" if remedy.arm else ""
        yield f"   {remedy.kind}/{remedy.stack}{known}{arm}: {remedy.text}"
