"""The skill for coding agents that the package ships: when to profile, how to read it, how to prove a change."""

from pathlib import Path
from typing import Final

SKILL: Final = Path(__file__).resolve().parents[1] / ".agents" / "skills" / "loraprof" / "SKILL.md"


def skill_text() -> str:
    """With its front matter."""
    return SKILL.read_text(encoding="utf-8")
