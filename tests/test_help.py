"""``--help``: every option says what it does, and every example is a command line that works."""

import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from recordings import trace_bytes, write_recording
from typer.main import get_command

from loraprof.cli.app import app, run
from loraprof.cli.examples import EXAMPLES
from loraprof.cli.quantities import parse_bytes, parse_duration_ns
from loraprof.cli.verbs import VERBS
from loraprof.comparison.grid import parse_axes
from loraprof.comparison.ratios import parse_threshold
from loraprof.model.recording import Recording, Timing
from loraprof.store.specs import workload_names

ROOT: Any = get_command(app)
README = Path(__file__).parents[1] / "README.md"
SHOWN = [(verb, line) for verb, lines in EXAMPLES.items() for line in lines]
IN_README = [line.split("#")[0].strip() for line in README.read_text().splitlines() if line[:13] == "    loraprof "]
VALUES: dict[str, Callable[[Any], object]] = {
    "fail_on": parse_threshold,
    "budget": parse_duration_ns,
    "iso_memory": parse_bytes,
}


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The verb and its parameters; raises for what click or a value's own parser refuses."""
    words = shlex.split(line)
    verb, *rest = words[words.index("loraprof") + 1 :]
    command = ROOT.commands[verb]
    values: dict[str, Any] = command.make_context(verb, rest, **command.context_settings).params
    for name, parse in VALUES.items():
        if values.get(name) is not None:
            parse(values[name])
    return verb, values


@pytest.mark.parametrize("verb", sorted(ROOT.commands))
def test_every_option_says_what_it_does(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ROOT.commands[verb].params:
        assert getattr(option, "help", None), option.name
    assert run([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in shown for line in EXAMPLES[verb])


def test_every_verb_has_examples_and_one_line_of_its_own_help() -> None:
    assert set(EXAMPLES) == set(ROOT.commands)
    for verb, line in VERBS.items():
        assert ROOT.commands[verb].help.startswith(line.removesuffix(".")), verb
    assert IN_README


@pytest.mark.parametrize(("verb", "line"), [*SHOWN, *((line.split()[1], line) for line in IN_README)])
def test_an_example_parses(verb: str, line: str) -> None:
    named, values = parsed(line)
    assert named == verb
    target = values.get("target") or []
    if verb == "sweep":
        axes = [*(values["over"] or ()), *(word for word in target if "=" in word)]
        assert len(parse_axes(axes)) == len(axes) > 0
    elif target and target[0] not in workload_names() and not target[0].endswith(".loraprof"):
        assert target[-1:] == ["train.py"] or target == ["train.py", "--lr", "3e-4"]  # what follows a script is its own


def timed(place: Path, step_ns: int) -> None:
    """A small recording with steps of this length."""
    write_recording(place)
    found = msgspec.json.decode((place / "recording.json").read_bytes(), type=Recording)
    timing = Timing(samples_ns=[step_ns, step_ns + 1000] * 10, dropped=0, clock="cuda_event")
    (place / "recording.json").write_bytes(msgspec.json.encode(replace(found, timing=timing)))


@pytest.mark.parametrize(
    "line",
    [
        line
        for verb, line in SHOWN
        if verb in ("report", "export", "explain", "workloads") or line.startswith("loraprof compare base.loraprof")
    ],
)
def test_an_example_that_measures_nothing_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "base", "new"):
        timed(tmp_path / f"{name}.loraprof", 8_000_000)
    (tmp_path / "trace.json.gz").write_bytes(trace_bytes())
    words = shlex.split(line)
    assert run(words[1:]) == 0, capsys.readouterr().err
    written = [Path(word) for before, word in pairwise(words) if before == "-o"]
    assert all(place.exists() for place in written)
    assert written or re.search(r"\w", capsys.readouterr().out)
