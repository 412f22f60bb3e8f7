"""Which fields of the report's JSON are known for which kind of input? ``fields.md`` says so, and is walked here.

A field of a list's elements is known where it is in every element. Run with LORAPROF_GOLDEN=write to list them anew.
"""

import gzip
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
from recorded import recorded

import loraprof
from loraprof.store.profiles import profiles_dir

PAGE = Path(__file__).parents[1] / "examples" / "fields.md"
KINDS = ("GPU recording", "CPU recording", "trace with shapes", "trace without shapes")
GPU = reference.found_in(profiles_dir() / "recordings")
BY_CHANCE = {
    "findings[].evidence[].value",
    "verdict.limiting_cause",
    "verdict.unclear",
}
HEAD = """# Fields that are never null

Of the report's JSON (`loraprof report --format json`), by kind of input. `[]` is every element of a list. What is not
marked may be null: it is unknown, and a note of `closure.notes` says why. A test walks this page.

"""


def known(value: Any, path: str = "") -> dict[str, bool]:
    """Paths of the leaves and lists in the JSON; False for those that are null somewhere."""
    if isinstance(value, dict):
        inner = [known(v, f"{path}.{k}" if path else k) for k, v in value.items()]
    elif isinstance(value, list):
        inner = [{path: True}, *(known(v, f"{path}[]") for v in value if isinstance(v, dict))]
    else:
        return {path: value is not None}
    found: dict[str, bool] = {}
    for part in inner:
        for key, ok in part.items():
            found[key] = ok and found.get(key, True)
    return found


def inputs(kind: str, folder: Path) -> list[Path]:
    if kind == "GPU recording":
        return GPU
    if kind == "CPU recording":
        return [recorded("tiny-llama-cpu"), recorded("resnet18")]
    traces = [place / "rank0.trace.json.gz" for place in GPU]
    return traces if kind == "trace with shapes" else [_without_shapes(trace, folder) for trace in traces]


def _without_shapes(trace: Path, folder: Path) -> Path:
    target = folder / f"{trace.parent.stem}.json.gz"
    text = re.sub(rb'"(Input (Dims|type|Strides)|Concrete Inputs)": \[[^\n]*?\](, |,)(?="[A-Z])', b"", _text(trace))
    target.write_bytes(gzip.compress(text, 1))
    return target


def _text(trace: Path) -> bytes:
    return gzip.decompress(trace.read_bytes())


def seen(kind: str, folder: Path) -> tuple[set[str], set[str]]:
    """Fields that are there in every input of the kind, and those that are null somewhere."""
    each = [known(msgspec.to_builtins(loraprof.diagnose(path))) for path in inputs(kind, folder)]
    null = {path for one in each for path, ok in one.items() if not ok}
    return set.intersection(*(set(one) for one in each)), null


def within(path: str, null: set[str]) -> bool:
    """Whether the field or what holds it is null somewhere."""
    return any(path == one or path.startswith(f"{one}.") for one in null)


def listed(kind: str) -> set[str]:
    column = KINDS.index(kind)
    rows = [line.strip()[1:-1].split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {row[0].strip(" `") for row in rows if row[column + 1].strip() == "yes"}


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("LORAPROF_GOLDEN") == "write", reason="the page is being written")
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_page_promises_is_there(kind: str, tmp_path: Path) -> None:
    promised = listed(kind)
    assert len(promised) > 40
    _, null = seen(kind, tmp_path)
    assert not {path for path in promised if within(path, null)}


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("LORAPROF_GOLDEN") != "write", reason="only on request")
def test_write_the_page(tmp_path: Path) -> None:
    found = {}
    for kind in KINDS:
        there, null = seen(kind, tmp_path)
        found[kind] = {path for path in there - BY_CHANCE if not within(path, null)}
    rows = [f"| field | {' | '.join(KINDS)} |", f"|---|{'---|' * len(KINDS)}"]
    for path in sorted(set.union(*found.values())):
        rows += [f"| `{path}` | {' | '.join('yes' if path in found[kind] else '' for kind in KINDS)} |"]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n")


def test_shapes_are_really_gone(tmp_path: Path) -> None:
    text = _text(_without_shapes(GPU[0] / "rank0.trace.json.gz", tmp_path))
    assert b'"Input Dims"' not in text
    assert text.count(b'"cpu_op"') == _text(GPU[0] / "rank0.trace.json.gz").count(b'"cpu_op"')
