"""Whose option is it: loraprof's or the script's?"""

from typing import Any

import pytest
from typer.main import get_command

from loraprof.cli.app import ClickException, app
from loraprof.cli.workload_options import workload_options
from loraprof.errors import UsageError, misplaced
from loraprof.runs.compare.workers import settings


def parsed(*args: str) -> dict[str, Any]:
    groups: Any = get_command(app)
    command = groups.commands["profile"]
    context: dict[str, Any] = command.make_context("profile", list(args), **command.context_settings).params
    return context


@pytest.mark.parametrize(
    "args",
    [
        ("--rank", "8", "tiny-llama-cpu"),
        ("tiny-llama-cpu", "--rank", "8"),
        ("--quiet", "tiny-llama-cpu", "--rank", "8"),
    ],
)
def test_options_on_either_side_of_a_workload(args: tuple[str, ...]) -> None:
    found = parsed(*args)
    assert found["rank"] == 8
    assert list(found["target"]) == ["tiny-llama-cpu"]


def test_a_script_keeps_its_options() -> None:
    found = parsed("--quiet", "train.py", "--rank", "8", "--help")
    assert found["rank"] is None
    assert found["quiet"] is True
    assert list(found["target"]) == ["train.py", "--rank", "8", "--help"]


def test_options_may_follow_recordings() -> None:
    found = parsed("a.loraprof", "b.loraprof", "--format", "json")
    assert list(found["target"]) == ["a.loraprof", "b.loraprof"]
    assert found["format"].value == "json"


def test_an_unknown_option_after_a_workload_is_refused() -> None:
    with pytest.raises(ClickException, match="nonsense"):
        parsed("tiny-llama-cpu", "--nonsense")


def test_any_field_of_a_preset_can_be_set() -> None:
    seen: list[dict[str, Any]] = []

    @workload_options
    def verb(*, overrides: dict[str, Any]) -> None:
        seen.append(overrides)

    verb(rank=4, set=["config.hidden_size=256", "lr=0.1"])
    assert seen == [{"rank": 4, "config.hidden_size": "256", "lr": "0.1"}]
    assert settings(seen[0]) == ["--set", "rank=4", "--set", "config.hidden_size=256", "--set", "lr=0.1"]
    assert parsed("tiny-llama-cpu", "--set", "lr=0.1", "--set", "clip=2")["set"] == ["lr=0.1", "clip=2"]
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        verb(set=["lr"])


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [(2, ["--only", "L2"], True), (2, ["data.txt"], False), (1, ["--only", "L2"], False), (2, [], False)],
)
def test_a_script_that_refuses_an_option_is_hinted_at_ours(code: int, words: list[str], said: bool) -> None:
    assert (misplaced(code, words) is not None) == said
