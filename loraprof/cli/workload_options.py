"""The options that every verb running a built-in workload shares: declared once, handed over as ``overrides``."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import typer

from loraprof.errors import UsageError

PANEL: Final = "Built-in workload"
R = TypeVar("R")


def _option(kind: Any, help: str | None = None) -> Any:
    return Annotated[kind | None, typer.Option(help=help, rich_help_panel=PANEL)]


OPTIONS: Final[dict[str, Any]] = {
    "rank": _option(int),
    "alpha": _option(float),
    "dropout": _option(float),
    "targets": _option(str, "q_proj,v_proj · qv · all-linear"),
    "batch": _option(int),
    "seq": _option(int),
    "dtype": _option(str),
    "autocast": _option(str),
    "checkpointing": _option(str),
    "layers": _option(int),
    "optimizer": _option(str),
    "accumulate": _option(int),
    "device": _option(str),
    "seed": _option(int),
    "set": _option(list[str], "KEY=VALUE, any other field of the preset: --set config.hidden_size=1024"),
}


def as_words(overrides: dict[str, Any]) -> list[str]:
    """The command line that gives these overrides."""
    return [
        word
        for key, value in overrides.items()
        for word in ((f"--{key}", str(value)) if key in OPTIONS else ("--set", f"{key}={value}"))
    ]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"--set {text!r} is not KEY=VALUE", "write for example --set config.hidden_size=1024")
    return key, value


def workload_options(verb: Callable[..., R]) -> Callable[..., R]:
    """Gives ``verb`` the options above on the command line; it receives those that were set as ``overrides``."""
    signature = inspect.signature(verb)
    own = [p for p in signature.parameters.values() if p.name != "overrides"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]

    @functools.wraps(verb)
    def wrapped(**values: Any) -> R:
        given = {name: values.pop(name, None) for name in OPTIONS}
        more = dict(_pair(text) for text in given.pop("set") or ())
        return verb(**values, overrides={name: value for name, value in given.items() if value is not None} | more)

    hints = {name: kind for name, kind in inspect.get_annotations(verb).items() if name != "overrides"}
    wrapped.__annotations__ = {**hints, **OPTIONS}
    wrapped.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return wrapped
