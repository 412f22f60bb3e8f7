"""Do the data tell the causes apart? Where the two leading ones may gain the same, which measurement would decide?

Two mechanisms often fit the same step time (the paper's own table is an example), so a single cause is named only
where its gain exceeds the next one's with both intervals. Otherwise: a step that waits for its host keeps its length
when the tokens double, one that streams tensors doubles; a rank that doubles costs only what depends on it; and what
an arm leaves out is measured by running that arm.
"""

from collections.abc import Sequence

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.judge import rule_of
from loraprof.diagnosis.remedy import COMPARED, compare_command, target
from loraprof.model.finding import Finding


def unclear(case: Case, found: Sequence[Finding]) -> str | None:
    """None where the leading cause is clear, or there are not two with a known gain."""
    causes = [f for f in found if f.gain is not None and f.is_cause]
    if len(causes) < 2:
        return _unknown(case, found)
    first, second = causes[:2]
    assert first.gain is not None
    assert second.gain is not None
    if second.gain.high < first.gain.low:
        return None
    measures = _measures(case, (first, second))
    decides = f"; {' or '.join(measures)} would decide" if measures else ""
    return f"{first.id} and {second.id} may gain the same: their intervals overlap{decides}"


def _unknown(case: Case, found: Sequence[Finding]) -> str | None:
    """Several causes of which no gain is known cannot be ranked."""
    causes = [f.id for f in found if f.is_cause]
    if len(causes) < 2 or case.timing.unprofiled is not None:
        return None
    return f"{', '.join(causes)} cannot be ranked without an unprofiled time; loraprof profile SCRIPT measures it"


def _measures(case: Case, found: Sequence[Finding]) -> list[str]:
    work = case.workload
    if work is None:
        return []
    builtin = work.kind == "builtin"
    out = []
    rules = [rule_of(f) for f in found]
    arms = list(
        dict.fromkeys(arm for f in found if (arm := next((r.arm for r in f.remedies if r.arm in COMPARED), None)))
    )
    if arms and (command := compare_command(case, arms)):
        out.append(command)
    for option in ("batch", "rank"):
        if any(rule.probe == option for rule in rules):
            value = work.options.get(option)
            command = f"loraprof profile {target(case)} --{option} {2 * value}" if isinstance(value, int) else None
            out.append(command if builtin and command else f"a profile with the {option} doubled")
    return out
