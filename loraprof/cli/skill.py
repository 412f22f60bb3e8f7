"""``loraprof skill``: what a coding agent should know before it uses loraprof."""


def skill() -> None:
    """Print the skill for coding agents."""
    from loraprof.report.skill import skill_text

    print(skill_text(), end="")
