"""What is each remedy expected to give, by the recording? The finding that it answers, a gain, or why none is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from loraprof.diagnosis.build import Diagnosis
from loraprof.diagnosis.expected import Expected, expected
from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.model.finding import Finding, Gain
from loraprof.model.report import Report

NOTHING_SEEN: Final = "the recording shows nothing that it would help against"
NOT_TOLD: Final = "the recording shows the cause, and not what this change would save of it"
NO_RULE: Final = "no rule says what it saves"


@dataclass(frozen=True, slots=True)
class Promises:
    """Of one recording; without one nothing is expected."""

    report: Report | None = None
    effects: Mapping[str, Expected] = field(default_factory=dict)

    def of(self, remedy: LiveRemedy) -> tuple[Finding | None, Gain | None, str | None]:
        """The finding, what this very change gains (of several causes the most), else why that is not known."""
        if self.report is None:
            return None, None, "there is no recording"
        found = self.report.findings
        own = [(f, r.gain) for f in found for r in f.remedies if r.arm == remedy.name]
        finding, gain = max(own, key=lambda pair: pair[1].ns if pair[1] else 0) if own else (None, None)
        if finding is None:
            finding = next((f for key in remedy.findings for f in found if f.id == key), None)
        effect = self.effects.get(remedy.name)
        if gain is not None:
            return finding, gain, None
        if isinstance(effect, Gain):
            return finding, effect, None
        return finding, None, effect or (NOT_TOLD if finding else NOTHING_SEEN if remedy.findings else NO_RULE)

    def speedup(self, remedy: LiveRemedy) -> float:
        """1 where nothing is known."""
        _, gain, _ = self.of(remedy)
        return gain.speedup if gain else 1.0


def promised(diagnosis: Diagnosis) -> Promises:
    """By a recording that was read."""
    return Promises(diagnosis.report, expected(diagnosis.case) if diagnosis.case else {})
