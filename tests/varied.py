"""Random steps whose recordings say all that one may say, at random: every rule meets numbers of its own. Seeded."""

import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
from provoke import CALIBRATION, made, on_cpu, timing, with_ops
from synthetic.machine import MEMCPY
from synthetic.program import Op, Program
from synthetic.randomised import random_run
from synthetic.simulate import simulate

from loraprof.model.compilation import Compilation, CompilePass
from loraprof.model.recording import (
    AttentionCall,
    Calibration,
    CountedOp,
    GemmRate,
    GradientCost,
    Memory,
    Nvml,
    NvmlSample,
    ParameterInfo,
    Recording,
    RepeatedOp,
    Timing,
    Trainer,
    TrainingCost,
)

DTYPES = {"float32": "float", "bfloat16": "c10::BFloat16", "float16": "c10::Half"}
NAMES = {  # by role, ops that a rule looks for
    "adapter.elementwise": ("aten::mul", "aten::native_dropout", "aten::bernoulli_", "aten::add"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::_scaled_dot_product_attention_math"),
    "embedding": ("aten::index_select", "aten::nonzero", "aten::embedding"),
    "residual": ("PythonSubclass", "Redistribute", "aten::mm"),
    "norm": ("aten::item", "aten::rms_norm", "aten::to", "aten::exp"),
}
TRAINERS: list[Trainer] = ["axolotl", "unsloth", "trl", "transformers", "lightning", "kohya", "torchtune", "litgpt"]
change = msgspec.structs.replace


def varied(seed: int) -> Path:
    rng = random.Random(f"varied {seed}")
    program, hardware = random_run(1000 + seed)
    run = simulate(_renamed(program, rng), hardware)
    facts = _recorded(run.recording, timing(run).samples_ns[0], rng)
    if rng.random() < 0.2:
        return on_cpu(run, **{name: fact for name, fact in facts.items() if name != "device"})
    return made(run, _sampled(rng) if rng.random() < 0.6 else None, **facts)


def _renamed(program: Program, rng: random.Random) -> Program:
    """Ops that rules look for, by names, shapes, dtypes and kernels, in the place of some."""
    dtype, vocab = DTYPES[rng.choice(("bfloat16", "float32", "float16"))], rng.choice((128, 8192))
    split, fused, moved, dense, slow = (rng.random() < 0.3 for _ in range(5))
    weight = [program.sites[0].out_features, program.sites[0].in_features] if program.sites else [64, 64]

    def kernels(op: Op, name: str, **fields: Any) -> Op:
        return replace(op, kernels=tuple(replace(k, name=name, **fields) for k in op.kernels))

    def other(op: Op) -> Op:
        op = replace(op, name=rng.choice(NAMES[op.role])) if op.role in NAMES and rng.random() < 0.4 else op
        if op.role == "base.linear":
            op = kernels(op, "_fused_lora_kernel") if fused and rng.random() < 0.5 else op
            return replace(op, args={**op.args, "Input type": [dtype] * 2})
        if op.role in ("adapter.down", "adapter.up") and split and op.grad:
            return replace(op, grad=(*op.grad[:-1], kernels(op.grad[-1], "splitKreduce_kernel")))
        if op.role == "loss":
            return replace(op, args={"Input Dims": [[512, vocab]], "Input type": [rng.choice([*DTYPES.values()])]})
        if op.role == "head" and slow:
            m, k = op.args["Input Dims"][0]
            op = replace(op, kernels=tuple(replace(one, ns=9 * one.ns) for one in op.kernels), name="aten::addmm")
            return replace(
                op, args={"Input Dims": [[vocab], [m, k], [k, vocab]], "Input type": [DTYPES["bfloat16"]] * 3}
            )
        if op.role == "adapter.elementwise" and dense:
            return replace(op, args={**op.args, "Input Dims": [weight]})
        if op.role == "activation" and moved:
            return kernels(op, "Memcpy HtoD (Pinned -> Device)", sort=MEMCPY, bytes=2 * weight[0] * weight[1])
        return op

    return with_ops(program, other)


def _sampled(rng: random.Random) -> Nvml:
    samples = [
        NvmlSample(
            monotonic_ns=i,
            sm_clock_mhz=rng.randint(1200, 1900),
            power_mw=rng.randint(200_000, 700_000),
            reasons=rng.choice((0, 0, 0, 1, 4, 32, 64)),
            utilization=rng.randint(85, 100),
        )
        for i in range(rng.randint(5, 40))
    ]
    return Nvml(
        uuid="x",
        driver=None,
        steps=1,
        loop_ns=10**9,
        samples=samples,
        power_limit_mw=rng.choice((None, 700_000, 1_000_000)),
        sm_clock_max_mhz=1980,
        violations_ns={"power": rng.randint(0, 10**8), "low_utilization": 10**8},
        tensor_active=rng.choice((None, 0.07, 0.3)),
    )


def retold(place: Path, seed: int) -> Path:
    """A real recording that says other things of the same step."""
    rng = random.Random(f"retold {seed}")
    one = msgspec.json.decode((place / "recording.json").read_bytes(), type=Recording)
    assert one.timing is not None
    facts = _recorded(one, sorted(one.timing.samples_ns)[0], rng)
    kept = {name: fact for name, fact in facts.items() if name not in ("modules", "device")}
    copy = Path(mkdtemp(prefix="loraprof-")) / place.name
    shutil.copytree(place, copy)
    (copy / "recording.json").write_bytes(msgspec.json.encode(change(one, **kept)))
    return copy


def _recorded(one: Recording, usual_ns: int, rng: random.Random) -> dict[str, Any]:
    """What the recording says, each part now and then."""
    parts: dict[str, Any] = {
        "workload": _workload(one, rng),
        "sites": _sites(one, rng),
        "parameters": _parameters(one, rng),
        "modules": _modules(one, rng),
        "calibration": _calibration(rng),
        "timing": _timing(usual_ns, rng),
        "memory": _memory(rng),
        "attention": _attention(one, rng),
        "training_cost": _cost(one, rng),
        **_repeated(one, rng),
        "device": change(one.device, capability=rng.choice(((7, 5), (8, 0), (9, 0), None))),
        "environment": change(
            one.environment, world_size=rng.choice((1, 2)), platform=rng.choice(("Linux", "Windows"))
        ),
        "compilation": _compilation(one, rng),
    }
    return {name: part for name, part in parts.items() if rng.random() < 0.7}


def _compilation(one: Recording, rng: random.Random) -> Compilation:
    passes = [
        CompilePass(name=n, steps=1, compilations=1, recompilations=1, graph_breaks=1, compile_ns=rng.randrange(10**9))
        for n in ("timing", "ProfilerStep#3")
    ]
    reasons = ["guard failed", "in f at line 3", "another"]
    return change(
        one.compilation or Compilation(),
        passes=passes,
        timed_ns=[rng.randrange(10**6) for _ in range(rng.randrange(5))],
        recompile_reasons=reasons[: rng.randrange(4)],
        break_reasons=reasons[rng.randrange(4) :],
    )


def _workload(one: Recording, rng: random.Random) -> Any:
    tokens, down = rng.choice((512, 1000, 4096)), [m.path for m in one.modules if m.part == "down"]
    return change(
        one.workload,
        tokens_per_step=tokens,
        real_tokens_per_step=rng.choice((None, rng.randint(tokens // 3, tokens))),
        longest_tokens_per_step=rng.choice((None, tokens - tokens // 9)),
        labelled_tokens_per_step=rng.choice((None, tokens // 3)),
        micro_batches=rng.choice((None, 1, 2, 8)),
        checkpointing=rng.choice((None, "none", "reentrant", "non-reentrant")),
        optimizer=rng.choice((None, "AdamW(foreach)", "SGD", "Lion")),
        autocast=rng.choice((None, "bfloat16")),
        compiled=rng.choice((None, False, True)),
        recompiles=rng.choice((None, 0, 2)),
        graph_breaks=rng.choice((None, 0, 3)),
        kind=rng.choice(("builtin", "script")),
        argv=rng.choice(([], ["train.py", "--lr", "1 e"], ["my.module"])),
        options={"batch": rng.choice((None, 4)), "rank": rng.choice((8, 16))},
        missing_gradients=[f"{path}.weight" for path in rng.sample(down, min(2, len(down)) * rng.randrange(2))],
        trainers=rng.sample(TRAINERS, rng.randrange(3)),
    )


def _sites(one: Recording, rng: random.Random) -> Any:
    dropouts = rng.choice(((0.0,), (0.1,), (0.0, 0.1)))
    kind, off = rng.choice(("lora", "dora", "handwritten")), rng.randrange(40)
    return [change(s, dropout=rng.choice(dropouts), kind=kind, active=i != off) for i, s in enumerate(one.sites)]


def _parameters(one: Recording, rng: random.Random) -> Any:
    odd = rng.randrange(len(one.parameters))
    wide, trained, astray = (rng.random() < 0.4 for _ in range(3))
    if rng.random() < 0.1:
        return []

    def other(i: int, p: Any) -> Any:
        p = change(p, dtype="float32") if wide and i % 5 == 0 else p
        return change(p, trainable=p.trainable or trained, device="cpu" if astray else p.device) if i == odd else p

    head = next((m.id for m in one.modules if m.path == "lm_head"), 0)
    more = ParameterInfo(
        id=len(one.parameters), name="weight", module=head, shape=(rng.choice((128, 8192)), 256), dtype="bfloat16",
        trainable=rng.random() < 0.5, device="cuda:0",
    )  # fmt: skip
    return [*(other(i, p) for i, p in enumerate(one.parameters)), more]


def _modules(one: Recording, rng: random.Random) -> Any:
    """Now and then, layers as experts of one block, classes that say more, and a second model."""
    cls, origin = rng.choice(("Linear4bit", "Linear")), rng.choice(("", "transformers.models", "torchtune.modules"))
    tops = {"": rng.choice(("LlamaForCausalLM", "BertForSequenceClassification", "Model"))}
    table = [
        change(
            m,
            cls=cls if m.part == "base" else tops.get(m.path, m.cls),
            origin=origin if m.id % 7 == 0 else "",
            root=rng.choice((0, 0, 0, 1)),
            in_features=rng.choice((None, 64)),
        )
        for m in one.modules
    ]
    if rng.random() < 0.6:
        return table
    named = re.compile(r"\.(attn|mlp)\.([a-z])\w*_proj")
    return [change(m, path=named.sub(lambda found: f".experts.{ord(found[2]) % 9}", m.path)) for m in table]


def _calibration(rng: random.Random) -> Calibration:
    rates = {"float32": 1_400_000, "bfloat16": 343_597, "float16": 340_000}
    shapes = ((4096, 4096, 4096, 1.0), (512, 1024, 1024, 0.01))
    gemm = [GemmRate(m=m, n=n, k=k, dtype=d, ns=int(ns * part)) for d, ns in rates.items() for m, n, k, part in shapes]
    return change(CALIBRATION, gemm=gemm, op_ns=rng.choice((None, 2500)), host_ns=rng.choice((None, 4000.0)))


def _timing(usual_ns: int, rng: random.Random) -> Timing | None:
    spread = rng.choice((0.01, 0.1, 0.5))
    if rng.random() < 0.05:
        return None
    samples = [round(usual_ns * (1 + spread * rng.random())) for _ in range(rng.randint(5, 12))]
    return Timing(
        samples_ns=[rng.choice((1, 2)) * samples[0], *samples[1:]],
        dropped=3,
        clock="cuda_event",
        cores=rng.choice((None, 0.3, 1.0)),
    )


def _memory(rng: random.Random) -> Memory:
    return Memory(
        peak_bytes=rng.randint(50, 90),
        reserved_bytes=rng.randint(80, 100),
        total_bytes=100,
        allocator_retries=rng.choice((None, 0, 2)),
        gradients_bytes=rng.choice((None, 7)),
    )


def _attention(one: Recording, rng: random.Random) -> list[AttentionCall]:
    size = (1, 32, 512, rng.choice((64, 100)))
    return [
        AttentionCall(
            module=m.id, query=size, key=size, value=size, dtype="float32",
            mask=rng.choice(("causal", "needed", "none")), dropout=rng.choice((0.0, 0.2)),
            backend=rng.choice(("math", "efficient", "flash")), faster="flash",
            obstacles=rng.sample(["mask", "dropout", "layout", "dtype", "head size"], rng.randint(0, 2)),
            count=rng.randint(1, 3), ran_ns=rng.choice((None, 60_000)), faster_ns=rng.choice((None, 25_000)),
        )
        for m in one.modules
        if m.path.endswith(".attn")
    ]  # fmt: skip


def _cost(one: Recording, rng: random.Random) -> TrainingCost:
    base = [m.id for m in one.modules if m.part == "base"]
    return TrainingCost(
        parameters=10**8, sampled=10**7, optimizer_ns=rng.randint(10**4, 10**7), clip_ns=rng.randint(0, 10**5),
        accumulate_ns=rng.randint(0, 10**5),
        gradients=[
            GradientCost(module=i, calls=1, weight_ns=rng.randint(10**3, 10**6), input_ns=rng.choice((None, 10**4)))
            for i in base
        ],
    )  # fmt: skip


def _repeated(one: Recording, rng: random.Random) -> dict[str, Any]:
    """The norms and activations compute what others computed, now and then."""
    same = [m.id for m in one.modules if m.cls in ("RMSNorm", "SiLU")]
    ops, many = ("aten::rms_norm", "aten::exp", "aten::silu"), rng.choice((3, 4, 6))
    return {
        "repeated": [RepeatedOp(module=m, op=rng.choice(ops), count=rng.randint(1, 3), modules=many) for m in same],
        "counted": [
            CountedOp(module=m, phase="forward", op=op, shapes="", count=rng.randint(1, 4), flops=0, min_bytes=0)
            for m in same
            for op in ops
        ],
    }
