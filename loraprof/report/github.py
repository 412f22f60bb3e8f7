"""How do findings appear on a GitHub run? As workflow commands: one annotation per finding.

Format and escaping: GitHub's "Workflow commands" page and actions/toolkit, packages/core/src/command.ts.
"""

from loraprof.model.compare import Comparison
from loraprof.model.estimate import Estimate
from loraprof.model.finding import Finding
from loraprof.model.fix import Fix
from loraprof.model.sweep import Sweep
from loraprof.model.watch import Watch
from loraprof.report.shown import Shown, document_of
from loraprof.report.views.report import remark
from loraprof.text import printable

_LEVELS = {"blocker": "error", "major": "warning", "minor": "notice", "info": "notice"}


def to_github(shown: Shown) -> bytes:
    """UTF-8, one command per line: the verdict as a notice, then every finding."""
    found = _findings(shown)
    lines = [_command("notice", "loraprof", document_of(shown).headline), *map(_annotation, found)]
    if isinstance(shown, Comparison | Fix) and shown.missed:
        lines.append(_command("error", "loraprof: threshold missed", shown.missed))
    return "".join(f"{line}\n" for line in lines).encode()


def _findings(shown: Shown) -> list[Finding]:
    match shown:
        case Sweep() | Fix() | Watch():
            return []
        case Estimate():
            return [finding for one in shown.gpus for finding in one.findings or ()]
        case _:
            return shown.findings


def _annotation(finding: Finding) -> str:
    item = remark(finding)
    parts = [
        item.remedy,
        f"gain: {item.gain}" if item.gain else "",
        "; ".join(item.evidence),
        f"see {', '.join(item.see)}" if item.see else "",
    ]
    message = "\n".join(part for part in parts if part)
    return _command(_LEVELS[item.severity], f"{item.id} {item.title}", message)


def _command(level: str, title: str, message: str) -> str:
    return f"::{level} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    lines = (printable(line) for line in text.splitlines())
    return "%0A".join(line.replace("%", "%25") for line in lines)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
