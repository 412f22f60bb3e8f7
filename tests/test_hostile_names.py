"""Whatever stands in a report's texts: in no format does it begin a line, steer a terminal or a runner, call people."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from sample_report import report

from loraprof.model.report import Report
from loraprof.report.registry import RENDERERS, render
from loraprof.report.terminal.render import to_text

EVIL = "x\nINJECTED @octocat <img src=x>\r::set-output name=a::b\u2028::error::c \x1b[31m\u202e##[group]|`"
KEPT = ("schema", "id", "created", "href")


def free(kind: Any) -> bool:
    """Whether a field takes any text."""
    match kind:
        case msgspec.inspect.StrType():
            return True
        case msgspec.inspect.UnionType(types=kinds):
            return any(map(free, kinds))
        case _:
            return False


def evil(value: Any) -> Any:
    """The same with ``EVIL`` in the place of every free text."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.inspect.type_info(type(value))
        assert isinstance(fields, msgspec.inspect.StructType)
        return msgspec.structs.replace(value, **dict(_fields(value, fields)))
    if isinstance(value, list | tuple):
        return type(value)(map(evil, value))
    return {key: evil(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _fields(value: msgspec.Struct, kind: msgspec.inspect.StructType) -> Iterator[tuple[str, Any]]:
    for field in kind.fields:
        inner = getattr(value, field.name)
        text = isinstance(inner, str) and free(field.type) and field.name not in KEPT
        yield field.name, EVIL if text else evil(inner)


@pytest.fixture(scope="module")
def hostile() -> Report:
    found: Report = evil(report())
    return found


@pytest.mark.parametrize("form", [form for form in RENDERERS if form not in ("json", "html")])
def test_no_name_steers_a_reader(form: str, hostile: Report) -> None:
    text = to_text(hostile, full=True) if form == "terminal" else render(hostile, form)
    page = text.decode()
    assert "octocat" in page
    lines = page.split("\n")
    begins = ("::set-output", "::error::c", *(() if form == "terminal" else ("INJECTED",)))  # a terminal wraps
    assert not [line for line in lines if line.lstrip(" *|-").startswith(begins)]
    for steering in ("\r", "\u2028", "\u202e", "##[", *(() if form == "terminal" else ("\x1b",))):
        assert steering not in page
    assert "\x1b[31mx" not in page
    if form in ("markdown", "issue"):
        assert "@octocat" not in page
        assert "<img" not in page.replace("\\<img", "")


def test_no_name_opens_a_tag(hostile: Report) -> None:
    assert b"<img src=x" not in render(hostile, "html")
