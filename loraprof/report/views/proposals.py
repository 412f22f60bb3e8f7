"""What is to be changed? The findings' remedies in the order in which a user would try them."""

from typing import Final

from loraprof import units
from loraprof.model.report import Finding, Gain, Report
from loraprof.report.document import Block, Paragraph, Proposal, Proposals, Section

SAME: Final = ("same_training", "numerics", "data")
OTHERWISE: Final = ("other_training", "hardware")
GROUPS: Final = (("Do this, same training", SAME), ("Or change what is trained, or on what", OTHERWISE))
MOST: Final = 4  # of which SAME come first
MOST_SAME: Final = 3
LEAST: Final = 1.005
CHECK: Final = {"other_training": "; check the quality", "numerics": "; check the loss"}


def proposals_section(report: Report) -> Section:
    """At most four changes, of which three may keep the training as it is; the rest is among the findings."""
    now = report.timing.unprofiled
    number, groups = 0, []
    for title, kinds in GROUPS:
        chosen = [(f, kind, text, gain) for f in report.findings for kind, text, gain in _remedies(f) if kind in kinds]
        worth = [c for c in chosen if c[3] is not None and c[3].speedup > LEAST] or chosen[:1]
        made = []
        for finding, kind, text, gain in worth[: MOST_SAME if kinds is SAME else MOST - number]:
            number += 1
            made.append(_proposal(number, finding, kind, text, gain, now.median_ns if now else None))
        if made:
            groups.append((title, tuple(made)))
    if not groups:
        block: Block = Paragraph("None of the known causes shows, or this input does not allow to tell.")
    else:
        block = Proposals(tuple(groups))
    return Section("do", "What to do", (block,), brief=True)


def _remedies(finding: Finding) -> list[tuple[str, str, Gain | None]]:
    """(kind, text, gain) of each; gates and remarks ask for no change."""
    if finding.id.startswith("G") and finding.gain is None:
        return []
    kind = "other_training" if finding.id in ("L6", "W1") else "same_training"
    return [(kind, finding.remedy, finding.gain)]


def _proposal(number: int, finding: Finding, kind: str, text: str, gain: Gain | None, now: int | None) -> Proposal:
    step = speedup = basis = ""
    if gain is not None and now is not None:
        scale = units.ns_scale([now], 3)
        step = f"{scale(now)} → {scale(max(now - gain.ns, 0))} {scale.unit}"
        speedup = units.ratio_interval(gain.speedup, gain.low, gain.high, most=2)
        basis = str(gain.basis)
    text = first_clause(text) + CHECK.get(kind, "")
    return Proposal(number, finding.title, finding.id, step, speedup, basis, text)


def first_clause(text: str) -> str:
    """The first of the alternatives of a remedy: the others are in the findings."""
    head, _, _ = text.partition("; ")
    return head
