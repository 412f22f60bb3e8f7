"""Which built-in workloads exist, and what does each train? Presets are TOML under ``profiles/workloads``."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, get_args

import msgspec

from loraprof.errors import InputError, MeasurementError, UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.store.profiles import profiles_dir, read_toml

CPU_DEFAULT: Final = "tiny-llama-cpu"
CUDA_DEFAULT: Final = "tinyllama-1.1b"
UNMEASURED: Final = ("mps", "xpu", "hpu", "mtia", "npu", "xla", "vulkan", "meta", "privateuseone")
FIELDS: Final = {f.name: f for f in msgspec.structs.fields(WorkloadSpec)}
NO_TEXT: Final = re.compile("[\ud800-\udfff]")  # bytes of a command line that are no UTF-8
AT_LEAST_ONE: Final = ("rank", "batch", "seq", "accumulate", "layers")
# Models that look positions up in a table, its size, and the rows of it that no token has.
POSITIONS: Final = {
    "gpt2": ("n_positions", 0),
    "opt": ("max_position_embeddings", 0),
    "roberta": ("max_position_embeddings", 2),
}


def default_workload(device: str) -> str:
    """The workload ``profile`` runs when none is named; ``device`` is "cpu" or "cuda"."""
    return CPU_DEFAULT if device == "cpu" else CUDA_DEFAULT


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint that names the closest choice, or all of them when none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def list_workloads() -> list[WorkloadSpec]:
    """Every preset, by name. Raises InputError for a preset that does not parse."""
    return [read_workload(path) for path in sorted((profiles_dir() / "workloads").glob("*.toml"))]


def workload_names() -> tuple[str, ...]:
    """Names of the presets, without reading them."""
    return tuple(sorted(path.stem for path in (profiles_dir() / "workloads").glob("*.toml")))


def load_workload(name: str, overrides: Mapping[str, object] | None = None) -> WorkloadSpec:
    """The preset ``name`` with ``overrides`` (field or ``config.KEY`` to value; strings are converted).

    ``targets`` may be a comma-separated string, "qv" or "all-linear". Raises UsageError for an unknown name,
    an unknown field or a bad value; InputError for a preset file that is itself wrong, with the key's path.
    """
    folder = profiles_dir() / "workloads"
    path = folder / f"{name}.toml"
    if name not in (known := [p.stem for p in folder.glob("*.toml")]):
        raise UsageError(f"no built-in workload {name!r}", did_you_mean(name, known))
    spec = read_workload(path)
    return _override(spec, overrides) if overrides else spec


def read_workload(path: Path) -> WorkloadSpec:
    raw = read_toml(path)
    for key in raw:
        if key not in WorkloadSpec.__struct_fields__:
            hint = did_you_mean(key, WorkloadSpec.__struct_fields__)
            raise InputError(f"{path}: unknown key `$.{key}`", hint)
    try:
        spec = msgspec.convert({"name": path.stem, **raw}, WorkloadSpec)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    if problem := _problem(spec):
        raise InputError(f"{path}: {problem}")
    return spec


def _override(spec: WorkloadSpec, overrides: Mapping[str, object]) -> WorkloadSpec:
    fields = msgspec.to_builtins(spec)
    for key, value in overrides.items():
        into, leaf = (fields["config"], key[7:]) if key.startswith("config.") else (fields, key)
        if not isinstance(into, dict) or leaf not in into or key == "name":
            known = set(into if isinstance(into, dict) else fields) - {"name"}
            raise UsageError(f"workload {spec.name} has no option {key!r}", did_you_mean(leaf, known))
        if isinstance(value, str) and NO_TEXT.search(value):
            raise UsageError(f"workload {spec.name}: `{key}` is no text: {value!r}")
        if into is fields["config"]:
            value = _like(into[leaf], value, f"workload {spec.name}: `{key}`")
        elif (choices := get_args(FIELDS[leaf].type)) and all(isinstance(c, str) for c in choices):
            _check_choice(spec.name, leaf, value, choices)
        into[leaf] = _targets(value) if key == "targets" else value
    try:
        changed = msgspec.convert(fields, WorkloadSpec, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"workload {spec.name}: {str(error).replace('$.', '')}") from None
    if problem := _problem(changed):
        raise UsageError(f"workload {spec.name}: {problem}")
    return changed


def changed_config(spec: WorkloadSpec) -> str | None:
    """The values of the config that are not the preset's, as ``--set`` takes them; None where there are none."""
    if spec.name not in workload_names():
        return None
    own = load_workload(spec.name).config
    return ", ".join(f"config.{key}={value}" for key, value in spec.config.items() if value != own.get(key)) or None


def _check_choice(workload: str, field: str, value: object, choices: tuple[str, ...]) -> None:
    if value in choices:
        return
    if field == "device" and str(value).partition(":")[0] in UNMEASURED:
        raise MeasurementError(f"{value}: torch knows this device, loraprof cannot measure it", "--device cpu or cuda")
    raise UsageError(f"workload {workload}: `{field}` is {value!r}, not one of {', '.join(choices)}")


def _like(old: object, value: object, where: str) -> object:
    """A string as the type that the preset has there: the config's fields have no types of their own."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.convert(value, type(old), strict=False)
    except msgspec.ValidationError:
        raise UsageError(f"{where} takes {type(old).__name__}, not {value!r}", f"the preset has {old}") from None


def _targets(value: object) -> object:
    names = value.split(",") if isinstance(value, str) else value
    return [] if names in (["all-linear"], ("all-linear",)) else names


def _problem(spec: WorkloadSpec) -> str | None:
    """What the types cannot say."""
    for field in AT_LEAST_ONE:
        value = getattr(spec, field)
        if value is not None and value < 1:
            return f"`{field}` must be at least 1, got {value}"
    for key, value in spec.config.items():
        sizes = value if isinstance(value, list) else [value]
        if any(isinstance(size, int) and not isinstance(size, bool) and size < 1 for size in sizes):
            return f"`config.{key}` must be at least 1, got {value}"
    heads, shared = spec.config.get("num_attention_heads"), spec.config.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        return f"`config.num_attention_heads` {heads} is no multiple of `config.num_key_value_heads` {shared}"
    table, unused = POSITIONS.get(spec.family, ("", 0))
    longest = spec.config.get(table)
    if isinstance(longest, int) and spec.seq > longest - unused:
        return f"`seq` {spec.seq} is longer than the model's {longest - unused} positions (`config.{table}`)"
    for field in ("alpha", "lr", "clip"):
        if not math.isfinite(getattr(spec, field) or 0):
            return f"`{field}` must be a finite number, got {getattr(spec, field)}"
    if not 0 <= spec.dropout < 1:
        return f"`dropout` must lie in [0, 1), got {spec.dropout}"
    if spec.lr < 0 or (spec.clip is not None and spec.clip <= 0):
        return "`lr` must not be negative and `clip` must be positive"
    return None
