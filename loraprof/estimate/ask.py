"""From a model's and a GPU's name, as a user writes them, to the estimate: ``loraprof.estimate_step``."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

from loraprof.errors import UsageError
from loraprof.estimate.architecture import Architecture
from loraprof.estimate.config import architecture
from loraprof.estimate.estimate import estimate
from loraprof.estimate.settings import from_preset, overridden
from loraprof.model.estimate import Estimate, Settings
from loraprof.model.gpu import GpuSpec
from loraprof.store.efficiencies import load_rates
from loraprof.store.gpus import gpu_files, load_gpu, match_gpu
from loraprof.store.model_configs import load_config
from loraprof.store.specs import did_you_mean, load_workload, workload_names

ALL: Final = "all"


def estimate_step(model: str | PathLike[str] | Mapping[str, Any], gpu: str = ALL, **options: Any) -> Estimate:
    """Full, frozen and LoRA step from shapes and data sheets; nothing is run, torch is not loaded.

    ``model``: a built-in workload's name, a Hugging Face ``config.json`` or its folder, or the config itself as a
    mapping (``model.config.to_dict()``). ``gpu``: a file of ``profiles/gpus``, a driver's name, or "all".
    ``options`` are those of ``loraprof estimate`` with ``_`` for ``-`` (``rank=16, targets="qv", batch=4``); None is
    not asked for. Times of the result are ns, sizes bytes. Raises UsageError in one line for what is unknown,
    contradicts itself or fits on no GPU asked for.
    """
    unknown = options.keys() - {*Settings.__struct_fields__, "tokens"}
    if unknown:
        name = min(unknown)
        raise UsageError(f"no option {name!r} of an estimate", did_you_mean(name, Settings.__struct_fields__))
    found, base = _from_config(model, "config", "config") if isinstance(model, Mapping) else _named(model)
    return estimate(found, overridden(base, found, options), _gpus(gpu), load_rates())


def _named(model: str | PathLike[str]) -> tuple[Architecture, Settings]:
    """A preset's name is one; anything else is a path."""
    if isinstance(model, str) and model in workload_names():
        spec = load_workload(model)
        image = {"image_size": spec.seq} if spec.family == "resnet" else {}
        found = architecture({"model_type": spec.family, **image, **spec.config}, model, model)
        return found, from_preset(spec, found)
    path = Path(model).expanduser()
    if not path.exists():
        hint = did_you_mean(str(model), workload_names())
        raise UsageError(f"{model}: neither a built-in workload nor a file", hint)
    config, file = load_config(path)
    return _from_config(config, path.name if path.is_dir() else path.resolve().parent.name, file)


def _from_config(config: Mapping[str, Any], name: str, file: str) -> tuple[Architecture, Settings]:
    found = architecture(config, str(config.get("_name_or_path") or "") or name, file)
    return found, Settings(seq=found.tokens_per_sample or min(1024, found.positions or 1024))


def _gpus(word: str) -> dict[str, GpuSpec]:
    """The data sheets asked for, by file name. Raises UsageError that names the closest."""
    files = gpu_files()
    if word == ALL:
        return {key: load_gpu(path) for key, path in files.items()}
    key = word.strip().lower().replace(" ", "-").replace("_", "-")
    if key not in files:  # a driver's name for it
        named = match_gpu(word)
        key = next((stem for stem, path in files.items() if load_gpu(path) == named), key)
    if key not in files:
        raise UsageError(f"no data sheet for a GPU {word!r}", did_you_mean(key, files))
    return {key: load_gpu(files[key])}
