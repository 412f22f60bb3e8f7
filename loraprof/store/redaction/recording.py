"""What of a recording may be handed on? Numbers, and of the texts what ``RULES`` name; every other text becomes a
pseudonym, so a field that nobody thought of gives nothing away."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from loraprof.model.recording import Nvml, Recording
from loraprof.model.vocabulary import ROLES
from loraprof.store.redaction.words import Pseudonyms

Rule = Callable[[Pseudonyms, str], str]
T = TypeVar("T", Recording, Nvml)
GONE: Final = "redacted"


def _kept(_: Pseudonyms, text: str) -> str:
    return text


def _known(kind: str) -> Rule:
    return lambda names, text: names.known(kind, text)


def _hidden(kind: str) -> Rule:
    return lambda names, text: names.of(kind, text)


def _setting(names: Pseudonyms, text: str) -> str:
    return names.numbers("value", text)


def _op_or_role(names: Pseudonyms, text: str) -> str:
    return text if text in ROLES else names.name(text)


_MODULE_PATH: Final[Rule] = Pseudonyms.path
# Lists are left out of a place; "*" stands for the keys of a table, which have a rule of their own.
RULES: Final[Mapping[str, Rule]] = {
    "schema": _kept,
    "created": _kept,
    **dict.fromkeys(("environment.loraprof", "environment.python", "environment.torch"), Pseudonyms.version),
    **dict.fromkeys(("environment.cuda", "environment.packages.*", "device.driver", "driver"), Pseudonyms.version),
    "environment.platform": Pseudonyms.platform,
    "environment.packages": _known("package"),
    "environment.variables": _known("variable"),
    "environment.variables.*": _setting,
    "environment.launch": _hidden("launch"),
    "environment.machine": _hidden("machine"),
    "device.kind": _known("kind"),
    "device.name": Pseudonyms.device,
    "workload.name": _known("workload"),
    "workload.kind": _known("kind"),
    "workload.argv": _hidden("argument"),
    "workload.arm": _known("arm"),
    "workload.options": _known("option"),
    "workload.options.*": _setting,
    "workload.autocast": _known("value"),
    "workload.checkpointing": _known("value"),
    "workload.optimizer": _known("optimizer"),
    "workload.optimizer_flags": _known("option"),
    "workload.optimizer_flags.*": _setting,
    "workload.missing_gradients": _MODULE_PATH,
    "workload.trainers": _kept,  # this and other closed sets: reading a recording refuses every other text
    "modules.path": _MODULE_PATH,
    "modules.cls": Pseudonyms.cls,
    "modules.origin": Pseudonyms.origin,
    "modules.part": _known("part"),
    "parameters.name": _MODULE_PATH,
    "parameters.dtype": _known("dtype"),
    "parameters.device": Pseudonyms.place,
    "parameters.part": _known("part"),
    "sites.path": _MODULE_PATH,
    **dict.fromkeys(("sites.kind", "sites.dtype", "sites.base_dtype"), _known("kind")),
    "sites.how": _kept,
    **dict.fromkeys(("adapter_ops", "dense_ops"), _op_or_role),
    "timing.clock": _known("clock"),
    "counted.phase": _known("phase"),
    "counted.op": Pseudonyms.name,
    "counted.shapes": Pseudonyms.name,
    "attention.dtype": _known("dtype"),
    **dict.fromkeys(("attention.mask", "attention.backend", "attention.faster", "attention.obstacles"), _kept),
    "repeated.op": Pseudonyms.name,
    "calibration.gemm.dtype": _known("dtype"),
    "overhead_ns": _known("hook"),
    "compilation.passes.name": Pseudonyms.name,
    "compilation.graphs.region": _setting,
    "compilation.graphs.calls": Pseudonyms.name,
    "graph_nodes": _kept,
    "graph_nodes.*": _MODULE_PATH,
    "violations_ns": _known("violation"),
    "missing": _known("figure"),
}  # fmt: skip
TABLES: Final = frozenset(
    (
        *("environment.packages", "environment.variables", "workload.options", "workload.optimizer_flags"),
        *("overhead_ns", "graph_nodes", "violations_ns", "missing"),
    )
)


def redacted(value: T, names: Pseudonyms) -> T:
    """The recording, or its samples, with pseudonyms; numbers as they are."""
    plain = _cleaned(msgspec.to_builtins(value, str_keys=True), "", names)
    if isinstance(value, Recording):
        plain["environment"]["host"] = plain["device"]["uuid"] = None
    else:
        plain["uuid"] = GONE
    return msgspec.convert(plain, type(value), strict=False)


def _cleaned(value: Any, place: str, names: Pseudonyms) -> Any:
    match value:
        case str():
            return RULES.get(place, _hidden("text"))(names, value)
        case list():
            return [_cleaned(inner, place, names) for inner in value]
        case dict() if place in TABLES:
            return {RULES[place](names, key): _cleaned(inner, f"{place}.*", names) for key, inner in value.items()}
        case dict():
            return {key: _cleaned(inner, f"{place}.{key}".lstrip("."), names) for key, inner in value.items()}
        case _:
            return value
