"""Steps of every kind: what holds of each report, and all that it says."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import Document
from contradictions import contradictions
from fleets import fleet
from provoke import made, on_cpu, shaped, synthetic, workload
from said import say_more, say_parts, say_report
from synthetic.faults import events, mapped, on_gpu, without
from synthetic.presets import PRESETS
from synthetic.randomised import random_run
from synthetic.simulate import Synthetic, simulate
from varied import retold, varied

import loraprof
from loraprof.model.recording import AttentionCall, CountedOp, GradientCost, Memory, TrainingCost
from loraprof.report.export.job import Job
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source

H100 = profiles_dir() / "recordings" / "h100-sxm" / "minimind-26m.loraprof"
ROOFS = "faster than its roof"  # simulated times know nothing of the calibration beside them
COMPILED = Path(__file__).parent / "golden" / "compiled.loraprof"  # of scripts/compiled.py whole, on a CPU
LARGE: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 32000}


def random(seed: int) -> Path:
    return made(simulate(*random_run(seed)))


def bare(run: Synthetic) -> Path:
    """The trace alone."""
    return made(run) / "rank0.trace.json.gz"


def coarse(run: Synthetic, grid_us: int) -> Synthetic:
    """By a clock that ticks in ``grid_us``: what follows at once begins as the other ends."""

    def rounded_to(event: Document) -> Document:
        if event["ph"] != "X":
            return event
        begin, end = event["ts"] // grid_us * grid_us, (event["ts"] + event["dur"]) // grid_us * grid_us
        return {**event, "ts": begin, "dur": end - begin}

    return replace(run, document=mapped(run.document, rounded_to))


def headless(run: Synthetic) -> Synthetic:
    """Nothing before the first module: it is row 0 of the host, its first kernel record 0 of the device."""
    first = next(e["ts"] for e in run.document["traceEvents"] if e.get("name") == "loraprof::m0")
    early = [e for e in events(run.document) if e["ts"] < first or "ProfilerStep" in e["name"]]
    calls = {e["args"]["correlation"] for e in early if "correlation" in e.get("args", {})}
    late = [e for e in events(run.document) if on_gpu(e) and e["args"]["correlation"] in calls]
    return replace(run, document=without(run.document, *early, *late))


def renumbered(run: Synthetic, by: int) -> Synthetic:
    """Modules with other numbers: 0 is one that works."""
    count = len(run.recording.modules)

    def moved(number: int) -> int:
        return (number + by) % count

    def renamed(event: Document) -> Document:
        name = str(event.get("name", ""))
        return {**event, "name": f"loraprof::m{moved(int(name[11:]))}"} if name.startswith("loraprof::m") else event

    one, change = run.recording, msgspec.structs.replace
    modules = sorted((change(m, id=moved(m.id)) for m in one.modules), key=lambda m: m.id)
    recording = change(
        one,
        modules=modules,
        parameters=[change(p, module=moved(p.module)) for p in one.parameters],
        calls=[change(c, module=moved(c.module)) for c in one.calls],
    )
    return replace(run, document=mapped(run.document, renamed), recording=recording)


def recorded(run: Synthetic) -> Path:
    """With what a recording may know besides."""
    table = run.recording.modules
    facts = workload(run.recording, tokens_per_step=4096, real_tokens_per_step=3000, micro_batches=2)
    costs = [GradientCost(module=m.id, calls=1, weight_ns=400_000, input_ns=350_000) for m in table if m.part == "base"]
    calls = [
        AttentionCall(
            module=m.id, query=(1, 32, 4096, 128), key=(1, 32, 4096, 128), value=(1, 32, 4096, 128), dtype="bfloat16",
            mask="causal", backend="efficient", faster="flash", obstacles=["mask"], ran_ns=60_000, faster_ns=40_000,
        )
        for m in table
        if m.path.endswith(".attn")
    ]  # fmt: skip
    return made(
        run,
        memory=Memory(peak_bytes=80, reserved_bytes=97, total_bytes=100, allocator_retries=1),
        training_cost=TrainingCost(
            parameters=10**8, sampled=10**7, optimizer_ns=900_000, clip_ns=50_000, accumulate_ns=70_000, gradients=costs
        ),
        attention=calls,
        counted=[
            CountedOp(module=m.id, phase="forward", op="aten::mm", shapes="", count=1, flops=10**12, min_bytes=10**8)
            for m in table
            if m.part == "base"
        ],
        **facts,
    )


KINDS: dict[str, Callable[[], Path]] = {
    **{name: lambda name=name: made(synthetic(name)) for name in PRESETS},  # type: ignore[misc]
    **{f"random-{seed}": partial(random, seed) for seed in range(3)},
    "trace-v1": lambda: bare(synthetic("bandwidth-v1")),
    "trace-v5": lambda: bare(synthetic("bandwidth-v5")),
    "trace-random": lambda: bare(simulate(*random_run(5))),
    "cpu": lambda: on_cpu(synthetic("bandwidth-v1")),
    "cpu-trace": lambda: on_cpu(synthetic("checkpoint")) / "rank0.trace.json.gz",
    "coarse": lambda: made(coarse(synthetic("bandwidth-v5"), 1)),
    "coarse-random": lambda: made(coarse(simulate(*random_run(9)), 10)),
    "coarse-launches": lambda: made(coarse(synthetic("launch-bound"), 10)),
    "coarse-trace": lambda: bare(coarse(simulate(*random_run(3)), 5)),
    "headless": lambda: made(headless(synthetic("launch-bound"))),
    "headless-trace": lambda: bare(headless(shaped(**LARGE, variant="V5"))),
    "headless-cpu": lambda: on_cpu(headless(synthetic("checkpoint"))),
    "compiled": lambda: COMPILED,
    "compiled-trace": lambda: COMPILED / "rank0.trace.json.gz",
    "h100": lambda: H100,
    "h100-trace": lambda: H100 / "rank0.trace.json.gz",
    "recorded": lambda: recorded(shaped(**LARGE)),
    "recorded-v5": lambda: recorded(shaped(**LARGE, variant="V5", checkpoint=True)),
    **{f"varied-{seed}": partial(varied, seed) for seed in range(36)},
    **{f"compiled-{seed}": partial(retold, COMPILED, seed) for seed in range(8)},
    "ranks": lambda: fleet(4),
    "ranks-gather": lambda: fleet(3, collective="_all_gather_base", slow=2, offsets_ns={1: 5_000_000, 2: -7_000_000}),
    "ranks-machines": lambda: fleet(4, slow=None, machines=lambda rank: f"node{rank // 2}", numbered=False),
}


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
    return blake2b(json.dumps(rounded(value), sort_keys=True).encode(), digest_size=8).hexdigest()


def pinned(place: Path) -> dict[str, str]:
    """Digests of the parts of a report, and of what the page draws of it."""
    job = Job(partial(load_source, place))
    report, drawn = msgspec.to_builtins(job.report), job.drawn()
    parts = {name: value for name, value in report.items() if name != "source"}
    parts |= {"scenes": msgspec.to_builtins(drawn.scenes), "what_if": msgspec.to_builtins(drawn.what_if)}
    return {name: digest(value) for name, value in parts.items()}


@pytest.mark.parametrize("name", KINDS)
def test_a_report_is_exact_and_contradicts_itself_nowhere(name: str) -> None:
    job = Job(partial(load_source, KINDS[name]()))
    report, drawn = job.report, job.drawn()
    say_report(report)
    say_parts(report)
    say_parts(drawn)
    say_more(job.diagnosis)
    said = contradictions(msgspec.to_builtins(report))
    assert [line for line in said if not line.startswith(ROOFS)] == []
    for step in [*report.steps, *filter(None, [report.plain_step()])]:
        assert sum(part.ns for part in step.partition) == step.wall_ns
    for scene in drawn.scenes:
        assert sum(cell.ns for cell in scene.cells) == scene.wall_ns
        assert all(
            row.start[i] >= 0 and row.start[i] + row.ns[i] <= scene.wall_ns
            for row in scene.rows
            for i in range(len(row.ns))
        )


@pytest.mark.parametrize(("name", "by"), [("bandwidth-v5", -6), ("sync-in-adapter", -7)])
def test_the_numbers_of_modules_mean_nothing(name: str, by: int) -> None:
    run = synthetic(name)
    first = renumbered(run, by).recording.modules[0]
    assert first.site is not None  # an adapter's
    named = ("steps", "networks", "unprofiled")  # by the network, whose name is that of its first module
    old, new = pinned(made(run)), pinned(made(renumbered(run, by)))
    differ = {part for part in old if old[part] != new[part]}
    assert differ <= set(named)


ESTIMATES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama-3.2-1b", {"seq": 2048, "gpu": "h100-sxm"}),
    "llama-fsdp": ("llama-3.2-1b", {"gpus": 8, "parallel": "fsdp", "accumulate": 2, "gpu": "h100-sxm"}),
    "llama-4bit": ("llama-3.2-1b", {"quantized": "nf4", "checkpointing": True, "gpu": "h100-sxm"}),
    "gpt2-fused": ("gpt2-xl", {"kernels": "fused", "adapter_kernels": "fused", "rank": 64, "gpu": "h100-sxm"}),
    "gpt2-compiled": ("gpt2-xl", {"kernels": "compiled", "dropout": 0.1, "attention": "eager", "gpu": "h100-sxm"}),
    "roberta": ("roberta-base", {"autocast": "bfloat16", "dtype": "float32", "targets": "query,value"}),
    "resnet": ("resnet18", {"optimizer": "sgd", "gpu": "h100-sxm"}),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_an_estimate_is_what_it_was(name: str) -> None:
    model, options = ESTIMATES[name]
    say_parts(loraprof.estimate_step(model, **options))
