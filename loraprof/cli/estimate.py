"""``loraprof estimate MODEL --gpu NAME``: full, frozen and LoRA step from shapes and data sheets; nothing is run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraprof.report.output import Format, emit, refuse_existing, say

if TYPE_CHECKING:
    from loraprof.estimate.architecture import Architecture
    from loraprof.model.estimate import Settings
    from loraprof.model.gpu import GpuSpec

ALL = "all"


def estimate(
    model: Annotated[str, typer.Argument(help="A built-in workload, a Hugging Face config.json, or its folder.")],
    gpu: Annotated[str, typer.Option(help="A file of profiles/gpus, a driver's name, or `all` for a table.")] = ALL,
    tokens: Annotated[int | None, typer.Option(help="Tokens per micro-batch: batch times length.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences (images) per micro-batch and GPU.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapters.")] = None,
    targets: Annotated[str | None, typer.Option(help="Adapted layers: all · qv · q_proj,v_proj.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Probability of dropout before A.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the base model: bf16, fp16, fp32, fp8.")] = None,
    adapter_dtype: Annotated[str | None, typer.Option(help="Of the adapters: fp32 (PEFT's default) or same.")] = None,
    autocast: Annotated[str | None, typer.Option(help="Of the forward pass: none, bf16, fp16.")] = None,
    checkpointing: Annotated[bool | None, typer.Option(help="Of activations.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adamw-fused, adamw-8bit, sgd.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Micro-batches per optimizer step.")] = None,
    quantized: Annotated[str | None, typer.Option(help="Of the frozen weights: none, nf4.")] = None,
    gpus: Annotated[int | None, typer.Option(help="How many GPUs train together.")] = None,
    parallel: Annotated[str | None, typer.Option(help="How: ddp, fsdp, zero3.")] = None,
    kernels: Annotated[str | None, typer.Option(help="Of the base: eager, fused (Liger), compiled.")] = None,
    adapter_kernels: Annotated[str | None, typer.Option(help="Of the adapters: eager, compiled, fused (TE).")] = None,
    attention: Annotated[str | None, typer.Option(help="flash (SDPA too) or eager.")] = None,
    loss: Annotated[str | None, typer.Option(help="eager or fused (chunked cross-entropy).")] = None,
    host_us: Annotated[float | None, typer.Option(help="Host time per launch, µs; else as the rates say.")] = None,
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the estimate and errors.")] = False,
) -> None:
    """Estimate the step of full fine-tuning and of LoRA on a GPU that is not there."""
    from loraprof.estimate.estimate import estimate as estimated
    from loraprof.estimate.settings import overridden
    from loraprof.store.efficiencies import load_rates

    asked: dict[str, Any] = {
        "tokens": tokens, "batch": batch, "rank": rank, "targets": targets, "dropout": dropout, "dtype": dtype,
        "adapter_dtype": adapter_dtype, "autocast": autocast, "checkpointing": checkpointing, "optimizer": optimizer,
        "accumulate": accumulate, "quantized": quantized, "gpus": gpus, "parallel": parallel, "kernels": kernels,
        "adapter_kernels": adapter_kernels, "attention": attention, "loss": loss, "host_us": host_us,
    }  # fmt: skip
    refuse_existing(output, force)
    architecture, base = _model(model)
    settings = overridden(base, architecture, asked)
    emit(estimated(architecture, settings, _gpus(gpu), load_rates()), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)


def _model(word: str) -> "tuple[Architecture, Settings]":
    """A preset's name is one; anything else is a path. Raises UsageError."""
    from loraprof.errors import UsageError
    from loraprof.estimate.config import architecture
    from loraprof.estimate.settings import from_preset
    from loraprof.model.estimate import Settings
    from loraprof.store.model_configs import load_config
    from loraprof.store.specs import did_you_mean, load_workload, workload_names

    if word in workload_names():
        spec = load_workload(word)
        image = {"image_size": spec.seq} if spec.family == "resnet" else {}
        found = architecture({"model_type": spec.family, **image, **spec.config}, word, word)
        return found, from_preset(spec, found)
    path = Path(word).expanduser()
    if not path.exists():
        raise UsageError(f"{word}: neither a built-in workload nor a file", did_you_mean(word, workload_names()))
    config, file = load_config(path)
    name = str(config.get("_name_or_path") or "") or (path.name if path.is_dir() else path.resolve().parent.name)
    found = architecture(config, name, file)
    return found, Settings(seq=found.tokens_per_sample or min(1024, found.positions or 1024))


def _gpus(word: str) -> "dict[str, GpuSpec]":
    """The data sheets asked for, by file name. Raises UsageError that names the closest."""
    from loraprof.errors import UsageError
    from loraprof.store.gpus import gpu_files, load_gpu, match_gpu
    from loraprof.store.specs import did_you_mean

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
