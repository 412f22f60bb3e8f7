"""A function's annotations become a command line, and a shell can complete it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest

from loraprof.cli.app import COMPLETION, run
from loraprof.cli.command import Argument, Option, command


class Form(StrEnum):
    one = "one"
    other = "the-other"


def verb(
    target: Annotated[list[str] | None, Argument("What to do.")] = None,
    form: Annotated[Form, Option(help="How.")] = Form.one,
    way: Annotated[Literal["up", "down"], Option(help="Where to.")] = "up",
    place: Annotated[Path | None, Option("-o", "--place", help="To there.")] = None,
    times: Annotated[int, Option(help="So often.", min=1)] = 3,
    more_of: Annotated[list[str] | None, Option(help="Again and again.", panel="Rare")] = None,
    fresh: Annotated[bool | None, Option(help="Anew.")] = None,
    quiet: Annotated[bool, Option("--quiet", help="Silently.")] = False,
) -> None:
    """Do it."""


VERB = command("verb", verb, "\b\nExamples:\n  verb one  two")
UNSAID: dict[str, Any] = {
    "target": None,
    "form": Form.one,
    "way": "up",
    "place": None,
    "times": 3,
    "more_of": None,
    "fresh": None,
    "quiet": False,
}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", {}),
        ("a b", {"target": ["a", "b"]}),
        ("--form the-other --way down", {"form": Form.other, "way": "down"}),
        ("-o x/y --times 1", {"place": Path("x/y"), "times": 1}),
        ("--more-of a --more-of b", {"more_of": ["a", "b"]}),
        ("--no-fresh --quiet", {"fresh": False, "quiet": True}),
        ("--fresh", {"fresh": True}),
    ],
)
def test_what_is_said_has_the_annotated_type(line: str, said: dict[str, Any]) -> None:
    found = VERB.make_context("verb", line.split()).params
    assert found == UNSAID | said
    assert type(found["form"]) is Form


@pytest.mark.parametrize("line", ["--times 0", "--form third", "--way left", "--no-quiet", "--times many"])
def test_what_does_not_fit_is_refused(line: str) -> None:
    with pytest.raises(click.UsageError):
        VERB.make_context("verb", line.split())


def test_the_help_has_a_part_for_each_panel() -> None:
    shown = VERB.get_help(click.Context(VERB, info_name="verb"))
    parts = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    assert parts == ["Usage: verb [OPTIONS] [TARGET]...", "Arguments:", "Options:", "Rare:"]
    assert shown.count("What to do.") == 1
    assert "  verb one  two" in shown  # as it is written


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--show-completion", shell]) == 0
    assert COMPLETION in capsys.readouterr().out
