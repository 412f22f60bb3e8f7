"""Do the data tell the causes apart? Where the two leading ones may gain the same, which measurement would decide?

Two mechanisms often fit the same step time (the paper's own table is an example), so a single cause is named only
where its gain exceeds the next one's with both intervals. Otherwise: a step that waits for its host keeps its length
when the tokens double, one that streams tensors doubles; a rank that doubles costs only what depends on it; and what
an arm leaves out is measured by running that arm.
"""

from collections.abc import Sequence
from typing import Final

from loraprof.diagnosis.case import Case
from loraprof.model.report import Finding

ARMS: Final = {
    "L1": "lora-fused",
    "L2": "lora-bf16",
    "L3": "lora-bf16",
    "L4": "lora-nodropout",
    "L6": "lora-qv",
    "W1": "full",
}
TOKENS: Final = ("H1", "H2", "B4")  # costs that do not grow with the tokens
RANK: Final = ("L5",)


def unclear(case: Case, found: Sequence[Finding]) -> str | None:
    """None where the leading cause is clear, or there are not two with a known gain."""
    causes = [f for f in found if f.gain is not None and f.id[0] != "G" and f.severity != "info"]
    if len(causes) < 2:
        return _unknown(case, found)
    first, second = causes[:2]
    assert first.gain is not None
    assert second.gain is not None
    if second.gain.high < first.gain.low:
        return None
    measures = _measures(case, (first.id, second.id))
    decides = f"; {' or '.join(measures)} would decide" if measures else ""
    return f"{first.id} and {second.id} may gain the same: their intervals overlap{decides}"


def _unknown(case: Case, found: Sequence[Finding]) -> str | None:
    """Several causes of which no gain is known cannot be ranked."""
    causes = [f.id for f in found if f.id[0] != "G" and f.severity != "info"]
    if len(causes) < 2 or case.timing.unprofiled is not None:
        return None
    return f"{', '.join(causes)} cannot be ranked without an unprofiled time; loraprof profile SCRIPT measures it"


def _measures(case: Case, ids: Sequence[str]) -> list[str]:
    work = case.workload
    if work is None:
        return []
    builtin = work.kind == "builtin"
    target = work.name if builtin else " ".join(work.argv)
    out = []
    arms = list(dict.fromkeys(ARMS[i] for i in ids if i in ARMS))
    if arms and (builtin or arms == ["full"]):
        out.append(f"loraprof compare --arms lora,{','.join(arms)} {target}")
    for causes, option, words in ((TOKENS, "batch", "batch doubled"), (RANK, "rank", "rank doubled")):
        if any(i in causes for i in ids):
            value = work.options.get(option)
            command = f"loraprof profile {target} --{option} {2 * value}" if isinstance(value, int) else None
            out.append(command if builtin and command else f"a profile with the {words}")
    return out
