"""What is to be changed? The findings' remedies in the order in which a user would try them."""

from collections.abc import Collection
from typing import Final

from loraprof import units
from loraprof.diagnosis.causes import is_cause
from loraprof.model.report import Finding, RemedyReport, Report
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
    known = any(_gains(r) for f in report.findings if is_cause(f) for r in f.remedies)
    for title, kinds in GROUPS:
        best = [(f, r) for f in report.findings if is_cause(f) and (r := _best(f, kinds))]
        worth = [(f, r) for f, r in best if _gains(r)]
        worth.sort(key=lambda pair: -pair[1].gain.ns if pair[1].gain else 0)
        made = []
        unknown = [pair for pair in best if pair[1].gain is None]
        for finding, remedy in (worth if known else unknown[:1])[: MOST_SAME if kinds is SAME else MOST - number]:
            number += 1
            made.append(_proposal(number, finding, remedy, now.median_ns if now else None))
        if made:
            groups.append((title, tuple(made)))
    if not groups:
        block: Block = Paragraph("None of the known causes shows, or this input does not allow to tell.")
    else:
        block = Proposals(tuple(groups))
    return Section("do", "What to do", (block,), brief=True)


def _gains(remedy: RemedyReport) -> bool:
    return remedy.gain is not None and remedy.gain.speedup > LEAST


def _best(finding: Finding, kinds: Collection[str]) -> RemedyReport | None:
    """Of these kinds, the remedy that gains most."""
    remedies = [r for r in finding.remedies if r.kind in kinds]
    return max(remedies, key=lambda r: r.gain.ns if r.gain else 0, default=None)


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
    text = first_clause(remedy.text) + CHECK.get(remedy.kind, "")
    return Proposal(number, finding.title, finding.id, step, speedup, basis, text, left)


def first_clause(text: str) -> str:
    """The first of the alternatives of a remedy: the others are in the findings."""
    head, _, _ = text.partition("; ")
    return head
