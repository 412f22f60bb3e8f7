"""How does a function become a verb? Each parameter's annotation says what it is on the command line (click's).

    path: Annotated[str, Argument("What is read.")]
    output: Annotated[Path | None, Option("-o", "--output", help="Write it to this file.")] = None

An option without a name of its own is called after its parameter, a flag also ``--no-NAME``.
"""

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import click


class Argument(NamedTuple):
    """Words without a dash."""

    help: str


class Option:
    """``panel``: the part of the help that it stands in."""

    def __init__(
        self, *names: str, help: str, min: int | None = None, hidden: bool = False, panel: str = "Options"
    ) -> None:
        self.names, self.help, self.min, self.hidden, self.panel = names, help, min, hidden, panel


class Command(click.Command):
    """Its help has a part for each panel."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panels.setdefault(getattr(parameter, "panel", "Options"), []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A part of its own from click 8.5 on: here they are a panel."""


class _Argument(click.Argument):
    """One that has its line in the help."""

    panel = "Arguments"

    def __init__(self, name: str, help: str, **settings: Any) -> None:
        super().__init__([name], **settings)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.human_readable_name, self.help or ""


class _Option(click.Option):
    def __init__(self, names: list[str], panel: str, **settings: Any) -> None:
        super().__init__(names, show_default=True, **settings)
        self.panel = panel


class _OneOf(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """A member of an enumeration, by its value."""

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__([member.value for member in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._kind(super().convert(value, param, ctx))


def command(
    name: str, verb: Callable[..., Any], epilog: str, kind: type[Command] = Command, **settings: Any
) -> Command:
    """The verb ``name`` that runs the function ``verb``, whose docstring is its help."""
    parameters = [_parameter(one) for one in inspect.signature(verb).parameters.values()]
    return kind(name, callback=verb, params=parameters, help=inspect.getdoc(verb), epilog=epilog, **settings)


def _parameter(one: inspect.Parameter) -> click.Parameter:
    kind, asked = get_args(one.annotation)
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    many = get_origin(kind) is list
    required = one.default is inspect.Parameter.empty
    settings: dict[str, Any] = {"required": required, "callback": _listed if many else None}
    if not required and not many:
        settings["default"] = one.default
    if isinstance(asked, Argument):
        return _Argument(one.name, asked.help, type=_type(kind, None), nargs=-1 if many else 1, **settings)
    word = one.name.replace("_", "-")
    names = asked.names or ((f"--{word}/--no-{word}",) if kind is bool else (f"--{word}",))
    settings |= {"is_flag": True} if kind is bool else {"type": _type(kind, asked.min), "multiple": many}
    return _Option([one.name, *names], asked.panel, help=asked.help, hidden=asked.hidden, **settings)


def _type(kind: Any, least: int | None) -> click.ParamType[Any]:
    if get_origin(kind) is list:
        return _type(get_args(kind)[0], least)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if issubclass(kind, Enum):
        return _OneOf(kind)
    if issubclass(kind, Path):
        return click.Path(path_type=Path)
    return click.IntRange(min=least) if least is not None else click.types.convert_type(kind)


def _listed(ctx: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> list[str] | None:
    return list(words) or None
