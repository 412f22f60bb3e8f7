"""The options that every verb running a built-in workload shares: declared once, handed over as ``overrides``."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, get_args, get_type_hints

import typer

from loraprof.errors import UsageError
from loraprof.model.workload import WorkloadSpec

PANEL: Final = "Built-in workload"
R = TypeVar("R")


def _option(kind: Any, help: str) -> Any:
    return Annotated[kind | None, typer.Option(help=help, rich_help_panel=PANEL)]


def _choice(field: str, what: str) -> Any:
    return _option(str, f"{what}: {', '.join(get_args(get_type_hints(WorkloadSpec)[field]))}.")


OPTIONS: Final[dict[str, Any]] = {
    "rank": _option(int, "Rank of the adapters."),
    "alpha": _option(float, "Their scale: alpha / rank."),
    "dropout": _option(float, "Probability of dropout before A."),
    "targets": _option(str, "Adapted layers: q_proj,v_proj · qv · all-linear."),
    "batch": _option(int, "Sequences (images) per micro-batch."),
    "seq": _option(int, "Tokens per sequence (side of an image)."),
    "dtype": _choice("dtype", "Of the base model"),
    "autocast": _choice("autocast", "Of the forward pass"),
    "checkpointing": _choice("checkpointing", "Of activations"),
    "layers": _option(int, "How many layers the model has."),
    "optimizer": _choice("optimizer", "Of the step"),
    "accumulate": _option(int, "Micro-batches per optimizer step."),
    "device": _choice("device", "Where it runs"),
    "seed": _option(int, "Of weights and batches."),
    "set": _option(list[str], "KEY=VALUE, any other field of the preset: --set config.hidden_size=1024"),
}


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
        asked = {name: values.pop(name, None) for name in OPTIONS}
        more = dict(_pair(text) for text in asked.pop("set") or ())
        return verb(**values, overrides={name: value for name, value in asked.items() if value is not None} | more)

    hints = {name: kind for name, kind in inspect.get_annotations(verb).items() if name != "overrides"}
    wrapped.__annotations__ = {**hints, **OPTIONS}
    wrapped.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return wrapped
