"""Which of the known causes does this step show? One small function each, ordered by what fixing it gains.

G findings that forbid a comparison come first, then by gain, unknown gains last. Gains that overlap are not added.
"""

from collections.abc import Callable

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.adapter import COSTS
from loraprof.diagnosis.findings.adapter_form import FORMS
from loraprof.diagnosis.findings.advice import ADVICE
from loraprof.diagnosis.findings.base import BASE
from loraprof.diagnosis.findings.comparability import COMPARABILITY
from loraprof.diagnosis.findings.compiled import COMPILED
from loraprof.diagnosis.findings.distributed import DISTRIBUTED
from loraprof.diagnosis.findings.host import HOST
from loraprof.diagnosis.findings.power import POWER_FINDINGS
from loraprof.model.report import Finding

Rule = Callable[[Case], Finding | None]
RULES: tuple[Rule, ...] = (
    *COMPARABILITY, *POWER_FINDINGS, *HOST, *COMPILED, *COSTS, *FORMS, *BASE, *DISTRIBUTED, *ADVICE,
)  # fmt: skip
EXPLAINED = {"D1", "D2", "D4", "D5"}
SEVERITY = {"blocker": 0, "major": 1, "minor": 2, "info": 3}


def findings(case: Case) -> list[Finding]:
    found = [f for f in (rule(case) for rule in RULES) if f is not None]
    return sorted(_consistent(found), key=_order)


def _consistent(found: list[Finding]) -> list[Finding]:
    """ "Nothing to fix" (G6) goes where something else is major, and takes the advice on adapters along where not.

    Exposed communication (D6) goes where another finding says why.
    """
    found = [f for f in found if f.id != "D6" or not EXPLAINED & {other.id for other in found}]
    bounded = any(f.id == "G6" for f in found)
    other = any(f.severity in ("major", "blocker") and f.id[0] != "L" for f in found)
    gone = ("G6",) if other else tuple(f.id for f in found if f.id[0] == "L" and f.severity != "major")
    return [f for f in found if f.id not in gone] if bounded else found


def _order(finding: Finding) -> tuple[bool, float, int, str]:
    gain = -float(finding.gain.ns) if finding.gain else 0.0
    return not (finding.id[0] == "G" and finding.severity == "blocker"), gain, SEVERITY[finding.severity], finding.id
