"""Which of the known causes does this step show? Ordered by what fixing them gains.

Findings that forbid a comparison come first, then by gain, unknown gains last. Gains that overlap are not added.
"""

from difflib import get_close_matches

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.adapter import COSTS
from loraprof.diagnosis.findings.adapter_form import FORMS
from loraprof.diagnosis.findings.advice import ADVICE
from loraprof.diagnosis.findings.base import BASE_RULES
from loraprof.diagnosis.findings.comparability import COMPARABILITY_RULES
from loraprof.diagnosis.findings.distributed import DISTRIBUTED
from loraprof.diagnosis.findings.host import HOST_RULES
from loraprof.diagnosis.findings.power import POWER_FINDINGS
from loraprof.diagnosis.glossary import terms
from loraprof.diagnosis.rule import Rule
from loraprof.errors import UsageError
from loraprof.model.finding import Finding

RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        *COMPARABILITY_RULES,
        *COSTS,
        *FORMS,
        *HOST_RULES,
        *BASE_RULES,
        *DISTRIBUTED,
        *POWER_FINDINGS,
        *ADVICE,
    )
}
SEVERITY = {"blocker": 0, "major": 1, "minor": 2, "info": 3}


def findings(case: Case) -> list[Finding]:
    found = [(rule, f) for rule in RULES.values() if (f := rule.find(case)) is not None]
    return sorted(_consistent(found), key=_order)


def rule_of(finding: Finding) -> Rule:
    """The rule that made a finding."""
    return RULES[finding.id]


def rule_named(id: str) -> Rule:
    """The rule with this id, whatever its case. Raises UsageError that names the closest ids."""
    wanted = id.strip().upper()
    if wanted in RULES:
        return RULES[wanted]
    close = get_close_matches(wanted, RULES, n=3, cutoff=0.4) or get_close_matches(id.lower(), terms(), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`loraprof explain` lists all findings"
    raise UsageError(f"no finding and no word of the pages is called {id!r}", hint)


def _consistent(found: list[tuple[Rule, Finding]]) -> list[Finding]:
    """What another finding explains goes. "Nothing to fix" in a family goes where something else is major, and takes
    the advice on that family along where not."""
    seen = [rule for rule, _ in found]
    left = [(rule, f) for rule, f in found if not any(rule in seen for rule in rule.explained_by)]
    for bound in (rule for rule in seen if rule.bounds):
        elsewhere = any(f.severity in ("major", "blocker") and rule.family is not bound.bounds for rule, f in left)
        dropped = [bound] if elsewhere else [r for r, f in left if r.family is bound.bounds and f.severity != "major"]
        left = [(rule, f) for rule, f in left if rule not in dropped]
    return [f for _, f in left]


def _order(finding: Finding) -> tuple[bool, float, int, str]:
    gain = -float(finding.gain.ns) if finding.gain else 0.0
    forbids = rule_of(finding).family.gate and finding.severity == "blocker"
    return not forbids, gain, SEVERITY[finding.severity], finding.id
