"""Which command lines show what a verb is for? Printed under its ``--help``; the tests run or parse every one."""

from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "profile": (
        "loraprof profile",
        "loraprof profile tiny-llama-cpu --rank 8 --seq 256",
        "loraprof profile --record run.loraprof train.py --lr 3e-4",
        "loraprof profile -- accelerate launch train.py",
        "torchrun --nproc-per-node 2 -m loraprof profile train.py",
    ),
    "compare": (
        "loraprof compare --arms full,frozen,lora",
        "loraprof compare --arms lora,full --budget 2m train.py --lr 3e-4",
        "loraprof compare llama-3.2-1b --iso-memory 80GiB",
        "loraprof compare base.loraprof new.loraprof --fail-on 'slower>3%'",
    ),
    "fix": (
        "loraprof fix",
        "loraprof fix --budget 5m --also other-training --seconds 60 train.py --lr 3e-4",
        "loraprof fix --nproc-per-node 2 --only L1,fused-optimizer train.py",
        "loraprof fix run.loraprof --only L2,fused-optimizer",
        "loraprof fix tiny-llama-cpu --require 'faster>10%' --format json -o fix.json",
    ),
    "sweep": (
        "loraprof sweep --over rank=4,16,64 tokens=256,1024",
        "loraprof sweep gpt2-xl --over hidden=512,1024 --budget 30s",
    ),
    "watch": (
        "loraprof watch train.py --lr 3e-4",
        "loraprof watch --no-recording --format json -o watch.json train.py",
    ),
    "report": (
        "loraprof report run.loraprof",
        "loraprof report trace.json.gz --format html -o report.html",
        "loraprof report run.loraprof --format issue",
    ),
    "export": (
        "loraprof export run.loraprof --to tensorboard -o runs",
        "loraprof export run.loraprof --to perfetto -o tracks.json.gz",
        "loraprof export run.loraprof --to recording -o open.loraprof --redact",
    ),
    "estimate": (
        "loraprof estimate llama-3-8b --gpu h100-sxm",
        "loraprof estimate tinyllama-1.1b --gpu all --tokens 8192 --batch 4",
        "loraprof estimate ~/models/qwen/config.json --gpu rtx-4090 --targets qv --quantized nf4",
    ),
    "explain": ("loraprof explain", "loraprof explain L2", "loraprof explain turnaround"),
    "schema": ("loraprof schema report",),
    "workloads": ("loraprof workloads",),
    "doctor": ("loraprof doctor", "loraprof doctor --calibrate --dtype bfloat16"),
    "selftest": ("loraprof selftest", "loraprof selftest --device cpu --only sleep,gemm"),
    "skill": ("loraprof skill",),
    "mcp": ("loraprof mcp",),
}


def epilog(verb: str) -> str:
    """The examples as typer sets them: a blank line is a new line there."""
    return "\n\n".join(("Examples:", *(f"  {line}" for line in EXAMPLES[verb])))
