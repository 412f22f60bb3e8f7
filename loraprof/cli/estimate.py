"""``loraprof estimate MODEL --gpu NAME``: full, frozen and LoRA step from shapes and data sheets; nothing is run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loraprof.report.output import Format, emit, refuse_existing, say


def estimate(
    model: Annotated[str, typer.Argument(help="A built-in workload, a Hugging Face config.json, or its folder.")],
    gpu: Annotated[str, typer.Option(help="A file of profiles/gpus, a driver's name, or `all` for a table.")] = "all",
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
    from loraprof.estimate.ask import estimate_step

    asked: dict[str, Any] = {
        "tokens": tokens, "batch": batch, "rank": rank, "targets": targets, "dropout": dropout, "dtype": dtype,
        "adapter_dtype": adapter_dtype, "autocast": autocast, "checkpointing": checkpointing, "optimizer": optimizer,
        "accumulate": accumulate, "quantized": quantized, "gpus": gpus, "parallel": parallel, "kernels": kernels,
        "adapter_kernels": adapter_kernels, "attention": attention, "loss": loss, "host_us": host_us,
    }  # fmt: skip
    refuse_existing(output, force)
    emit(estimate_step(model, gpu, **asked), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)
