"""Which verbs are there, and where is each? A verb's module is imported when it is run or asked for its help.

The list itself is plain text: drawing it would import more than any verb does.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from loraprof.cli.examples import epilog

VERBS: Final[dict[str, str]] = {
    "profile": "Profile one training step and explain it.",
    "compare": "Compare arms, or recordings.",
    "fix": "Apply every remedy that fits, measure each, then those that helped.",
    "sweep": "Measure LoRA against full fine-tuning over a grid of workloads.",
    "watch": "Watch a whole training for shifts of its step time.",
    "report": "Analyse a recording or a foreign trace and print where the step's time went.",
    "export": "Write the analysis for TensorBoard, Perfetto, a page or a program.",
    "estimate": "Estimate the step of full fine-tuning and of LoRA on a GPU that is not there.",
    "explain": "Explain a finding or a word.",
    "schema": "Print the JSON Schema of an output.",
    "workloads": "List the built-in workloads.",
    "doctor": "Say what can be measured here and what cannot, with the remedy for each.",
    "selftest": "Plant known work on this device and check that the analysis finds it.",
    "skill": "Print the skill for coding agents.",
    "mcp": "Serve profile, report, explain, compare, fix and estimate to an agent.",
}
TARGETS: Final = {
    "profile": "ProfileCommand",
    "compare": "TargetCommand",
    "fix": "TargetCommand",
    "watch": "TargetCommand",
}


class Commands(Mapping[str, Any]):
    """Verbs by name; each is loaded when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in VERBS:
            raise KeyError(verb)
        if verb not in self._loaded:
            self._loaded[verb] = _command(verb)
        return self._loaded[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class Group(TyperGroup):
    """``loraprof`` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"rich_markup_mode": None})
        self.commands = Commands()  # type: ignore[assignment]  # no verb is added

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _command(verb: str) -> Any:
    """The verb as typer makes it of its function."""
    options: dict[str, Any] = {}
    if verb in TARGETS:
        own = getattr(import_module("loraprof.cli.target"), TARGETS[verb])
        options = {"cls": own, "context_settings": {"allow_interspersed_args": False}}
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(verb, epilog=epilog(verb), **options)(getattr(import_module(f"loraprof.cli.{verb}"), verb))
    return get_command(alone)
