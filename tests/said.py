"""All that steps of known numbers say, beside what their tests ask for: held against ``tests/golden/said``.

A line per finding: its evidence, gain and remedies, and of texts what has a digit in it. Where a change is meant::

    rm tests/golden/said/*; LORAPROF_GOLDEN=write pytest -n0 -q tests
"""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import zip_longest
from math import copysign, isclose
from pathlib import Path
from typing import Any

import msgspec

from loraprof.diagnosis.build import Diagnosis
from loraprof.diagnosis.expected import expected
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.what_if import what_if
from loraprof.diagnosis.worth import Worth
from loraprof.model.finding import Finding, Gain
from loraprof.model.report import Report

FOLDER = Path(__file__).parent / "golden" / "said"
SECTION = "== "
SAME = 1e-5  # numbers that differ by less, of their size
lines: list[str] = []  # of the running test


def say(*values: Any) -> None:
    """One line."""
    lines.append(" ".join(map(plain, values)))


def say_report(report: Report) -> None:
    v, notes, sentence = report.verdict, report.closure.notes, report.verdict.sentence
    for text in (text for f in report.findings for text in (f.title, *(one.text for one in f.remedies))):
        sentence = sentence.replace(text, "")
    words = (digits(text) for text in (sentence, v.unclear))
    say("verdict", len(sentence.split()), *words, v.speedup_vs_full, v.ideal_speedup, v.proven)
    say(len(notes), "notes", digits(" ".join(notes)))
    for finding in report.findings:
        say_finding(finding)


def say_parts(whole: msgspec.Struct) -> None:
    """How many numbers and words each part has, whatever their order, and the sum of the numbers' roots."""
    for name, part in msgspec.to_builtins(whole).items():
        leaves = [one for one in _leaves(part) if one is not None]
        numbers = [float(one) for one in leaves if not isinstance(one, str)]
        if numbers and name not in ("source", "verdict", "findings"):
            say(f"{name}: {len(leaves)}", sum(copysign(abs(n) ** 0.5, n) for n in numbers))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def say_more(diagnosis: Diagnosis) -> None:
    """What changes give that answer no finding; of those that do, each with the next one, and all together."""
    case = diagnosis.case
    if case is None or case.timing.unprofiled is None:
        return
    effects = ((arm, digits(e) if isinstance(e, str) else plain([*_gain(e)])) for arm, e in expected(case).items())
    told = "besides " + "; ".join(f"{arm} {words}" for arm, words in effects if words)
    if told not in lines:
        say(told)
    together = what_if(case, diagnosis.report.findings)
    if together is None:
        return
    say("together", *(one.id for one in together.choices), "alone", *(one.id for one, _ in together.alone))
    count = len(together.choices)
    for chosen in dict.fromkeys((*(0b11 << i for i in range(count - 1)), 2**count - 1)):
        one = together.outcomes[chosen]
        say(f"  {chosen:b}", one.step_ns, one.speedup, one.low, one.high, one.basis)


def say_seen(seen: Seen) -> None:
    """What a rule's test saw."""
    values = [one for value in seen.values.values() for one in (worth(value) if isinstance(value, Worth) else [value])]
    say("saw", [e.value for e in seen.evidence], seen.severity, seen.spent_ns, *worth(seen.saved), "for", *values)


def worth(one: Worth | None) -> Iterable[Any]:
    return (one.ns, one.low, one.high, one.basis, one.bounded) if one else ()


def say_finding(finding: Finding) -> None:
    """Once in a test."""
    told = len(lines)
    say(finding.id, finding.severity, "says", [e.value for e in finding.evidence], *_gain(finding.gain))
    for one in finding.remedies:
        say(f"  {one.kind}", one.stack, one.arm, digits(one.text), *_gain(one.gain))
    block = lines[told:]
    if any(lines[i : i + len(block)] == block for i in range(told)):
        lines[told:] = [f"{finding.id} as before"]


def _gain(gain: Gain | None) -> Iterable[Any]:
    return ("gains", gain.ns, gain.speedup, gain.low, gain.high, gain.basis) if gain else ()


def digits(text: str | None) -> str:
    """The words that have one."""
    return " ".join(re.findall(r"\S*\d\S*", text or ""))


def plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"[{', '.join(map(plain, value))}]" if isinstance(value, list | tuple) else str(value)


def check(test: str) -> None:
    """What was said since the last test began, against what the file says; ``test``: its pytest name."""
    if not lines:
        return
    module, _, name = test.partition("::")
    path = FOLDER / f"{Path(module).stem}.txt"
    known = sections(path)
    if os.environ.get("LORAPROF_GOLDEN") == "write":
        known[name] = [*lines]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{SECTION}{name}\n" + "".join(f"{line}\n" for line in known[name]) for name in known))
    for seen, before in zip_longest(lines, known.get(name, []), fillvalue=""):
        assert _same(seen, before), f"{path.name}, {name}:\n-{before}\n+{seen}"


@cache
def sections(path: Path) -> dict[str, list[str]]:
    """The lines of each test."""
    found: dict[str, list[str]] = {}
    for section in path.read_text(encoding="utf-8").split(f"\n{SECTION}") if path.exists() else ():
        name, *rest = section.removeprefix(SECTION).removesuffix("\n").split("\n")
        found[name] = rest
    return found


def _same(seen: str, before: str) -> bool:
    if seen == before:
        return True
    both = [re.split(r"([^\w.+-]+)", line) for line in (seen, before)]
    return len(both[0]) == len(both[1]) and all(map(_near, *both))


def _near(seen: str, before: str) -> bool:
    try:
        return seen == before or isclose(float(seen), float(before), rel_tol=SAME)
    except ValueError:
        return False
