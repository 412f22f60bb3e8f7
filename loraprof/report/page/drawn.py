"""What does a page in a browser show besides the report? The reported step to look at, and what changes would give."""

from loraprof.analysis.prediction.plain_scene import plain_scene
from loraprof.analysis.step.scene import scene_of
from loraprof.diagnosis.build import Diagnosis
from loraprof.diagnosis.what_if import what_if
from loraprof.model.scene import Drawn


def drawn_of(diagnosis: Diagnosis) -> Drawn:
    case, analysis = diagnosis.case, diagnosis.analysis
    profiled = scene_of(analysis)
    if case is None:
        return Drawn((profiled,) if profiled else ())
    plain = plain_scene(analysis, case.ledger, case.unprofiled, case.replay) if case.unprofiled else None
    return Drawn(tuple(filter(None, (plain, profiled))), what_if(case, diagnosis.report.findings))
