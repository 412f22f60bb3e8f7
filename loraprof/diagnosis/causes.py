"""Which findings say where time goes? Read off the finding itself, so that who shows a report needs no rules."""

from typing import Final

from loraprof.model.report import Finding

GATES: Final = "G"  # ids of the family that asks whether the numbers mean what they seem to mean begin with it


def is_cause(finding: Finding) -> bool:
    """Whether it says where time goes, and more than for information: of those about the comparison, what gains."""
    return finding.severity != "info" and (finding.gain is not None or not finding.id.startswith(GATES))
