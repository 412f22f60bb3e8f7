"""From an architecture and settings to the estimate on one or several GPUs."""

from collections.abc import Iterable, Mapping, Sequence

from loraprof.errors import UsageError
from loraprof.estimate.architecture import Architecture, adapted_layers, adapter_parameters
from loraprof.estimate.crossover import crossover_width, pays, waterfall
from loraprof.estimate.findings import Case, findings
from loraprof.estimate.step import ARMS, Question, arm_estimate, spans
from loraprof.estimate.work import variant
from loraprof.model.estimate import Estimate, GpuEstimate, Rate, Settings
from loraprof.model.gpu import GpuSpec
from loraprof.store.efficiencies import rates_of
from loraprof.units import nbytes

FLOAT8 = "fp8: products of the blocks alone; head and adapters stay in 16 bits"


def estimate(
    architecture: Architecture, settings: Settings, gpus: Mapping[str, GpuSpec], rates: Sequence[Rate]
) -> Estimate:
    """``gpus`` by the name of their file. Findings and ranges of tokens are worked out for a single GPU.

    Raises UsageError for a step that no GPU asked for can hold or run.
    """
    known = {key: spec for key, spec in gpus.items() if _runs(spec, settings)}
    if not known:
        what = f"{settings.dtype} products, or its bandwidth or memory is unknown"
        raise UsageError(f"{_names(gpus.values())}: the data sheet has no {what}", "--dtype bf16 or another --gpu")
    found = [_on_gpu(key, spec, architecture, settings, rates, len(gpus) == 1) for key, spec in known.items()]
    if not any(one.arms["lora"].memory.fits for one in found):
        least = min(found, key=lambda one: one.arms["lora"].memory.peak_bytes)
        need = nbytes(least.arms["lora"].memory.peak_bytes)
        hint = "--checkpointing, --quantized nf4, a smaller --batch, or --gpus 8 --parallel fsdp"
        raise UsageError(f"{architecture.name}: LoRA needs {need}, more than {_names(known.values())} has", hint)
    return Estimate(
        model=architecture.name,
        parameters=architecture.parameters,
        adapted=adapted_layers(architecture, settings.targets),
        adapter_parameters=adapter_parameters(architecture, settings.rank, settings.targets),
        variant=variant(settings),
        images=architecture.tokens_per_sample is not None,
        settings=settings,
        gpus=found,
        notes=[*architecture.notes, *[FLOAT8] * (settings.dtype == "float8")],
    )


def _names(gpus: Iterable[GpuSpec]) -> str:
    names = [spec.name for spec in gpus]
    return names[0] if len(names) == 1 else f"every one of the {len(names)} GPUs"


def _runs(gpu: GpuSpec, settings: Settings) -> bool:
    """fp8 needs units of its own; a 16-bit type without units is emulated in fp32."""
    has = gpu.peak("float8_e4m3fn") if settings.dtype == "float8" else gpu.peak("float32")
    return bool(has and gpu.dram_bytes_per_s and gpu.memory_bytes)


def _on_gpu(
    key: str, spec: GpuSpec, architecture: Architecture, settings: Settings, rates: Sequence[Rate], detail: bool
) -> GpuEstimate:
    question = Question(architecture, settings, spec, rates_of(key, rates))
    span = spans(question)
    arms = {arm: arm_estimate(question, arm, span[arm]) for arm in ARMS}
    case = Case(question, arms, span["speedup"])
    return GpuEstimate(
        gpu=key,
        name=spec.name,
        arms=arms,
        speedup=span["speedup"],
        ideal=span["ideal"],
        waterfall=waterfall(arms),
        crossover_width=crossover_width(question),
        pays=pays(question) if detail else None,
        findings=findings(case) if detail else None,
        rates=question.used(),
    )
