"""Inputs that are nearly right: traces, recordings, TOML and command lines with a few things changed.

A seed gives the same input everywhere. ``examine`` runs one through everything that reads it, in this process, and
says what came of it: read, refused in one line, or one of the outcomes that must not be.
"""

import gzip
import json
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from builders import document_of, json_of, kernel, note, op, step, text_of
from reports import assert_conserved

from loraprof.diagnosis.load import report_of
from loraprof.errors import LoraprofError
from loraprof.model.recording import Nvml, NvmlSample
from loraprof.report.export.job import Job
from loraprof.report.export.registry import export
from loraprof.report.registry import RENDERERS, render
from loraprof.store.gpus import load_gpu
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source
from loraprof.store.redaction.copy import redacted_copy
from loraprof.store.specs import load_workload, read_workload, workload_names

HANG_S = 30  # of the processor: a machine may be busy with other things
MOST = 10**300  # of what is calculated with
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 63, 64, 1000, 2**31 - 1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**30, 10**400, 0.5, -0.5, 1e-9, 1e15, 1e18, 1e19, 1e300, -1e300, 4611686018427387.9),
)
TEXTS = (
    *("", "x", " ", "0", "1", "-1", "1e400", "NaN", "::error::x", "\x1b[31m", "\u202e", "é", "𝔘", "\ud800", "a" * 3000),
    *("loraprof::m0", "loraprof::m7", "loraprof::m99", "loraprof::g0", "loraprof::m-1", "loraprof::m9999999999"),
    *("ProfilerStep#0", "ProfilerStep#1", "ProfilerStep#99999999999999999999", "Optimizer.step#AdamW.step"),
    *("nn.Module: Linear_0", "nn.Module: ", "autograd::engine::evaluate_function: AddmmBackward0", "AddmmBackward0"),
    *("aten::mm", "aten::addmm", "aten::copy_", "aten::_foreach_add_", "aten::embedding", "record_param_comms"),
    *("cudaLaunchKernel", "cudaMemcpyAsync", "cudaDeviceSynchronize", "cudaGraphLaunch", "hipLaunchKernel"),
    *("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "nccl:all_reduce", "gloo:broadcast", "c10d::allreduce_"),
    *("Torch-Compiled Region: 0/0", "## Call CompiledFxGraph x ##", "triton_poi_fused_add_mul_0", "cpp_fused_mm_1"),
    *("Memcpy HtoD", "Memset (Device)", "enumerate(DataLoader)#x.__next__", "float", "c10::BFloat16", "bfloat16"),
    *("cpu_op", "kernel", "gpu_memcpy", "user_annotation", "python_function", "cuda_runtime", "overhead", "ac2g"),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], [0], ["x"], {"a": 0}, [[1, 2], [3, 4]], [[[[1]]]])
KEYS: tuple[str, ...] = (
    "Input Dims",
    "Input type",
    "Input Strides",
    "Concrete Inputs",
    "Sequence number",
    "Fwd thread id",
    "grid",
)
KEYS += ("correlation", "stream", "device", "kernel_num_gb", "kernel_flop", "Collective name", "In msg nelems")
KEYS += ("Group size", "Process Group Name", "Seq", "graph node id", "bytes", "dtype", "Out msg nelems", "block")


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from leaves(inner)


@dataclass
class Mutator:
    """Changes documents in place."""

    dice: random.Random

    def value(self) -> Any:
        kind = self.dice.random()
        return deepcopy(self.dice.choice(NUMBERS if kind < 0.5 else TEXTS if kind < 0.85 else OTHERS))

    def change(self, document: Any, times: int) -> None:
        for _ in range(times):
            place = self._place(document)
            if place is not None:
                self._one(*place)

    def _place(self, document: Any) -> tuple[Any, Any] | None:
        """Walks down from the top, so that rare fields are met as often as those of thousands of events."""
        found: tuple[Any, Any] | None = None
        inner = document
        while isinstance(inner, dict | list) and inner and (found is None or self.dice.random() < 0.8):
            key = self.dice.choice(list(inner)) if isinstance(inner, dict) else self.dice.randrange(len(inner))
            found, inner = (inner, key), inner[key]
        return found

    def _one(self, holder: Any, key: Any) -> None:
        old = holder[key]
        match self.dice.randrange(9):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, deepcopy(old))
            case 2 if isinstance(old, list):
                old[self.dice.randrange(len(old) + 1) :] = []
            case 3 if isinstance(holder, list) and len(holder) > 1:
                other = self.dice.randrange(len(holder))
                holder[key], holder[other] = holder[other], holder[key]
            case 4 if isinstance(old, int | float) and abs(old) < MOST:
                holder[key] = old + self.dice.choice((-1, 1, 0.001, -1000, 10**6))
            case 5 if isinstance(old, int | float) and abs(old) < MOST:
                holder[key] = old * self.dice.choice((-1, 0, 2, 1000, 10**12))
            case 6 if isinstance(holder, dict):
                holder[self.dice.choice(KEYS)] = self.value()
            case 7 if isinstance(old, str):
                holder[key] = self.dice.choice((old.upper(), old * 2, old[:-1], old + self.dice.choice(TEXTS)))
            case _:
                holder[key] = self.value()

    def bytes(self, text: bytes) -> bytes:
        """Now and then the text itself is damaged."""
        if self.dice.random() < 0.85 or not text:
            return text
        at = self.dice.randrange(len(text))
        match self.dice.randrange(6):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + bytes([self.dice.randrange(256)]) + text[at + 1 :]
            case 2:
                return text[:at] + text[at + self.dice.randrange(1, 200) :]
            case 3:
                return text[:at] + b"[" * self.dice.choice((1, 100, 5000)) + text[at:]
            case 4:
                return text[:at] + b"NaN" + text[at:]
            case _:
                return text + text[at:]


@dataclass
class Tally:
    """What came of the inputs; ``wrong`` counts what must not be, by its place in the source."""

    inputs: Counter[str] = field(default_factory=Counter)
    read: int = 0
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    seeds: dict[str, str] = field(default_factory=dict)  # the first input of each

    def blame(self, what: str, kind: str, seed: int) -> None:
        self.wrong[what] += 1
        self.seeds.setdefault(what, f"{kind} {seed}")


class Hang(BaseException):
    """An input took longer than ``HANG_S``."""


@contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def examine(kind: str, seed: int, tally: Tally) -> None:
    """Makes input ``seed`` of a kind, runs it, and counts what came of it."""
    tally.inputs[kind] += 1
    try:
        with TemporaryDirectory() as folder, limited():
            KINDS[kind](random.Random(f"{kind} {seed}"), Path(folder))
            tally.read += 1
    except LoraprofError as error:
        tally.refused += 1
        if error.exit_code not in (2, 5) or "\n" in error.message:
            tally.blame(f"exit {error.exit_code}: {error.message[:80]}", kind, seed)
    except Hang:
        tally.blame(f"hang of more than {HANG_S} s", kind, seed)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/loraprof/" in f.filename]
        place = ours[-1] if ours else last
        where = f"{Path(place.filename).parent.name}/{Path(place.filename).name}:{place.lineno}"
        tally.blame(f"{type(error).__name__} at {where} {error!s:.60}", kind, seed)


def _whole(place: Path, dice: random.Random) -> None:
    """Everything that reads an input; sums are exact, and equal input gives equal JSON."""
    source = load_source(place)
    report = report_of(source)
    assert_conserved(report)
    for form in RENDERERS:
        render(report, form)
    assert render(report, "json") == render(report_of(load_source(place)), "json"), "unequal JSON"
    if dice.random() < 0.2:
        report_of(redacted_copy(source, _folder(place, "redacted")))
    if dice.random() < 0.2:
        to = dice.choice(("perfetto", "tensorboard", "trace"))
        export(Job(source, _folder(place, "export") / "out"), to)


def _folder(place: Path, name: str) -> Path:
    made = place.parent / name
    made.mkdir()
    return made


def _encoded(document: Any) -> bytes:
    return json.dumps(document, default=float).encode("utf-8", "surrogatepass")


@cache
def _traces() -> tuple[bytes, ...]:
    """Small ones with a GPU, with a CPU, with collectives, and what a whole simulated LoRA step leaves."""
    from synthetic.presets import preset
    from synthetic.simulate import simulate

    gpu: tuple[list[Any], list[Any]] = ([], [])
    cpu: list[Any] = []
    for i in range(2):
        at = 10_000 * (i + 1)
        gpu[0].extend([step(i, at, at + 8000), op("aten::mm", at + 1000, at + 4000, sequence=i)])
        gpu[1].append(kernel(at + 3000, at + 6000, (at + 2000, at + 2500)))
        cpu += [step(i, at, at + 8000), op("aten::mm", at + 1000, at + 4000), note("nccl:all_reduce", at + 1, at + 9)]
    simulated = [text_of(simulate(*preset(name, 2)).document) for name in ("launch-bound", "comm-bound")]
    return text_of(json_of(*gpu)), text_of(json_of(cpu)), *simulated


@cache
def _recordings() -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of recording.json and trace."""
    from provoke import made, synthetic

    places = [made(synthetic(name)) for name in ("launch-bound", "checkpoint", "full")]
    return tuple(((p / "recording.json").read_bytes(), text_of(document_of(p / "rank0.trace.json.gz"))) for p in places)


def _sampled(dice: random.Random) -> Any:
    samples = [NvmlSample(monotonic_ns=10**9 + i * 10**8, sm_clock_mhz=1500, power_mw=300_000) for i in range(5)]
    nvml = Nvml(uuid="x", driver="1", steps=3, loop_ns=10**9, samples=samples, energy_mj=10**5, power_limit_mw=700_000)
    return msgspec.to_builtins(nvml)


def trace(dice: random.Random, folder: Path) -> None:
    document = json.loads(dice.choice(_traces()))
    mutator = Mutator(dice)
    if dice.random() < 0.1:
        document = document["traceEvents"]
    mutator.change(document, dice.randrange(1, 12))
    text = mutator.bytes(_encoded(document))
    (folder / "t.json").write_bytes(gzip.compress(text, 1) if dice.random() < 0.2 else text)
    _whole(folder / "t.json", dice)


def recording(dice: random.Random, folder: Path) -> None:
    text, events = dice.choice(_recordings())
    document, nvml, mutator = json.loads(text), _sampled(dice), Mutator(dice)
    mutator.change(document, dice.randrange(1, 4))
    if dice.random() < 0.2:
        mutator.change(nvml, dice.randrange(1, 3))
    if dice.random() < 0.3:
        changed = json.loads(events)
        mutator.change(changed, dice.randrange(1, 5))
        events = _encoded(changed)
    place = folder / "a.loraprof"
    place.mkdir()
    (place / "recording.json").write_bytes(mutator.bytes(_encoded(document)))
    (place / "rank0.trace.json").write_bytes(events)
    if dice.random() < 0.5:
        (place / "nvml.json").write_bytes(mutator.bytes(_encoded(nvml)))
    _whole(place, dice)


def preset(dice: random.Random, folder: Path) -> None:
    """TOML of a workload or a GPU, a few lines changed."""
    gpu = dice.random() < 0.5
    source = dice.choice(sorted((profiles_dir() / ("gpus" if gpu else "workloads")).glob("*.toml")))
    lines = source.read_text(encoding="utf-8").splitlines()
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(lines))
        key = lines[at].partition("=")[0]
        value = json.dumps(Mutator(dice).value(), ensure_ascii=dice.random() < 0.5)
        lines[at] = dice.choice((f"{key}={value}", "", lines[at][:-1], f"{lines[at]}\n{lines[at]}", f"x = {value}"))
    (folder / source.name).write_bytes(Mutator(dice).bytes("\n".join(lines).encode("utf-8", "surrogatepass")))
    (load_gpu if gpu else read_workload)(folder / source.name)


def options(dice: random.Random, folder: Path) -> None:
    """Options of a built-in workload, as the command line hands them over."""
    name = dice.choice(workload_names())
    fields = [*msgspec.structs.fields(type(load_workload(name)))]
    keys = [f.name for f in fields] + [f"config.{key}" for key in load_workload(name).config] + ["x", "config.x"]
    load_workload(name, {dice.choice(keys): dice.choice((str, lambda v: v))(Mutator(dice).value()) for _ in range(2)})


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "trace": trace,
    "recording": recording,
    "preset": preset,
    "options": options,
}
SHARES = {"trace": 9, "recording": 9, "preset": 1, "options": 1}


def kinds() -> Iterator[str]:
    """In the order in which they are drawn, without end."""
    while True:
        for kind, share in SHARES.items():
            yield from [kind] * share
