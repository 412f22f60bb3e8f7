"""The suite's workloads: presets with changes, shrunken for a rehearsal, and as words of a command line."""

from collections.abc import Mapping

from benchmarks.gpu.results import Options
from benchmarks.shrink import shrink
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.compare.workers import settings
from loraprof.store.specs import load_workload

BASE = ("name", "summary", "arms", "config")


def spec_of(options: Options, name: str, changes: Mapping[str, str]) -> WorkloadSpec:
    """The preset with ``changes``, on the suite's device; of the small size, two layers of it."""
    spec = load_workload(name, {**changes, "device": options.device})
    if options.size != "small":
        return spec
    return shrink(spec)


def words_of(spec: WorkloadSpec) -> list[str]:
    """Options that turn the preset of this name into ``spec``, then the name."""
    preset, changed = load_workload(spec.name), {}
    for field in spec.__struct_fields__:
        new, old = getattr(spec, field), getattr(preset, field)
        if field not in BASE and new != old:
            changed[field] = ",".join(new) if isinstance(new, tuple) else new
    changed |= {f"config.{key}": value for key, value in spec.config.items() if value != preset.config.get(key)}
    return [*settings(changed), spec.name]
