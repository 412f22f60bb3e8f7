"""Random training steps: every cause of idle time, several streams, graphs, overlaps, adapters. Seeded."""

import random
from dataclasses import replace

from synthetic.lora import COMM_STREAM, Shape, _reducing, program
from synthetic.machine import MEMCPY, MEMSET, Hardware, Kernel
from synthetic.program import Module, Op, Program

SIDE_STREAM = 13


def random_run(seed: int, steps: int = 3) -> tuple[Program, Hardware]:
    """A program and a machine; equal seeds give equal runs."""
    rng = random.Random(seed)
    shape = Shape(
        layers=rng.randint(1, 2),
        hidden=rng.choice((64, 256, 1024, 4096)),
        ffn=rng.choice((96, 704, 2816)),
        tokens=rng.choice((64, 512, 4096)),
        vocab=rng.choice((128, 8192)),
        rank=rng.choice((2, 8, 64)),
        arm=rng.choice(("lora", "lora", "lora", "full", "frozen")),
        variant=rng.choice(("V1", "V5")),
        dequant=rng.random() < 0.2,
        checkpoint=rng.random() < 0.3,
        sync_in_adapter=rng.random() < 0.15,
        host_ns=rng.choice((200, 1500, 20_000)),
    )
    made = program(shape, steps)
    made = replace(
        made,
        root=_disturbed(made.root, rng),
        load_ns=rng.choice((100, 30_000, 2_000_000)),
        read_loss=rng.random() < 0.7,
    )
    if rng.random() < 0.3:
        made = replace(made, root=_reducing(made.root, rng.choice((5_000, 400_000))))
        first = made.optimizer[0]
        waiting = replace(first.kernels[0], waits=(COMM_STREAM,))
        made = replace(made, optimizer=(replace(first, kernels=(waiting,)), *made.optimizer[1:]))
    if rng.random() < 0.5:
        norm = Op("aten::_foreach_norm", "grad_clip", (Kernel("multi_tensor_norm", rng.randint(1500, 40_000)),))
        made = replace(made, clip=(norm, Op("aten::_foreach_mul_", "grad_clip", norm.kernels)))
    hardware = Hardware(
        latency_ns=rng.randint(3000, 9000),
        turnaround_ns=0 if (rocm := rng.random() < 0.15) else rng.randint(1, 1500),
        queue=rng.choice((8, 64, 1024)),
        api_ns=rng.randint(2000, 9000),
        return_ns=rng.randint(1, 5000),
        rocm=rocm,
    )
    return made, hardware


def _disturbed(module: Module, rng: random.Random) -> Module:
    """Random host times everywhere, and here and there something out of the ordinary."""
    body = [_disturbed(x, rng) if isinstance(x, Module) else _odd(_jittered(x, rng), rng) for x in module.body]
    return replace(module, body=tuple(body))


def _jittered(op: Op, rng: random.Random) -> Op:
    def some(ns: int) -> int:
        return 1 + rng.randrange(2 * ns)

    kernels = tuple(replace(k, ns=1500 + rng.randrange(2 * k.ns)) for k in op.kernels)
    return replace(op, gap=some(op.gap), lead=some(op.lead), tail=some(op.tail), kernels=kernels)


def _odd(op: Op, rng: random.Random) -> Op:
    kernel = Kernel("elementwise_odd", rng.randint(1500, 60_000))
    if op.role == "dequant":  # known by its kernel's name
        return op
    match rng.randrange(24):
        case 0:
            return replace(op, sync=True)
        case 1:
            return replace(op, malloc=rng.randint(10_000, 300_000))
        case 2:
            return replace(op, overhead=rng.choice(("Buffer Flush", "CUPTI overhead", "Lazy Function Loading")))
        case 3:
            return replace(op, kernels=(*op.kernels, kernel, kernel), graph=True)
        case 4:
            return replace(op, kernels=(*op.kernels, replace(kernel, stream=SIDE_STREAM, waits=(7,))))
        case 5:
            return replace(op, kernels=(*op.kernels, replace(kernel, early_ns=rng.randint(1, 1000))))
        case 6:
            copy = replace(kernel, name="Memcpy DtoD (Device -> Device)", sort=MEMCPY, stream=SIDE_STREAM, bytes=64)
            return replace(op, kernels=(*op.kernels, copy))
        case 7:
            return replace(op, kernels=(replace(kernel, name="Memset (Device)", sort=MEMSET, bytes=64), *op.kernels))
        case 8:
            return replace(op, api=rng.randint(10_000, 200_000))
        case 9:
            return replace(op, kernels=())
    return op
