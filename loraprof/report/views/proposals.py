"""What is to be changed? The findings' remedies in the order in which a user would try them."""

from typing import Final

from loraprof import units
from loraprof.diagnosis.proposed import OTHERWISE, SAME, best, gains
from loraprof.model.finding import Finding, RemedyReport
from loraprof.model.report import Report
from loraprof.report.document import Block, Paragraph, Proposal, Proposals, Section

GROUPS: Final = (("Do this, same training", SAME), ("Or change what is trained, or on what", OTHERWISE))
OVERLAP: Final = "; gains overlap and do not add up"
MOST: Final = 4  # of which SAME come first
MOST_SAME: Final = 3
CHECK: Final = {"other_training": "check the quality", "numerics": "check the loss"}


def proposals_section(report: Report) -> Section:
    """At most four changes, of which three may keep the training as it is; the rest is among the findings."""
    now = report.timing.unprofiled
    number, groups = 0, []
    known = any(gains(r) for f in report.findings if f.is_cause for r in f.remedies)
    for title, kinds in GROUPS:
        proposals, found = [], best(report.findings, kinds)
        worth = [(f, r) for f, r in found if gains(r)]
        unknown = [(f, r) for f, r in found if r.gain is None]
        for finding, remedy in (worth if known else unknown[:1])[: MOST_SAME if kinds is SAME else MOST - number]:
            number += 1
            proposals.append(_proposal(number, finding, remedy, now.median_ns if now else None))
        if proposals:
            groups.append((title, tuple(proposals)))
    if not groups:
        block: Block = Paragraph("None of the known causes shows, or this input does not allow to tell.")
    else:
        overlap = OVERLAP if number > 1 and known else ""
        block = Proposals(((groups[0][0] + overlap, groups[0][1]), *groups[1:]))
    return Section("do", "What to do", (block,), brief=True)


def _proposal(number: int, finding: Finding, remedy: RemedyReport, now: int | None) -> Proposal:
    step = speedup = basis = ""
    left = None
    gain = remedy.gain
    if gain is not None and now is not None:
        if units.is_known(gain.low, gain.high):
            scale = units.ns_scale([now], 3)
            step = f"{scale(now)} → {scale(max(now - gain.ns, 0))} {scale.unit}"
            left = max(now - gain.ns, 0) / now if now else None
        speedup = units.gain_interval(gain.speedup, gain.low, gain.high, most=2)
        basis = str(gain.basis)
    text, check = first_clause(remedy.text), CHECK.get(remedy.kind, "")
    return Proposal(number, finding.title, finding.id, step, speedup, basis, text, left, check)


def first_clause(text: str) -> str:
    """The first of the alternatives of a remedy: the others are in the findings."""
    head, _, _ = text.partition("; ")
    return head
