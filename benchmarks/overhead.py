"""What does loraprof cost the job that it watches? Per step, interleaved, with 95 % bootstrap intervals.

    python benchmarks/overhead.py [--device cpu] [--rounds 30] [--steps 10] [--processes 6]

In one process, in turn, blocks of steps of a small LoRA loop: bare, bare again (the noise floor), with the step hooks
of an attached script, with the module markers, with Python's ``record_function`` instead of them, beside the NVML
sampler. The step hooks alone are also timed around an optimizer that has nothing to do: an A/B within 1 % of a step
cannot be decided on a busy machine. In processes of their own: the profiler with and without shapes, the steps after
a recording (against a process that recorded nothing), and memory.

    ratio   exp(median of ln(with / bare)) over the pairs of a round; the interval resamples pairs
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook  # noqa: E402

from benchmarks.overhead_step import build, timed_ns  # noqa: E402
from benchmarks.processes import environment  # noqa: E402
from loraprof.analysis.statistics import Estimate, median_interval, paired_log_ratio  # noqa: E402
from loraprof.capture.modules.markers import COUNTED, Markers  # noqa: E402
from loraprof.capture.nvml.client import NvmlSampler  # noqa: E402
from loraprof.capture.passes.counting import Counting  # noqa: E402
from loraprof.capture.passes.plan import Plan  # noqa: E402
from loraprof.capture.passes.repeats import Repeats  # noqa: E402
from loraprof.capture.passes.session import Session  # noqa: E402

FOR_EVER = 1 << 60
EMPTY_STEPS = 500
REFERENCE_NS = 10_000_000  # the step that the hooks' limit refers to
HOOKS_LIMIT, MEMORY_LIMIT_MB, DETECTION_LIMIT = 0.005, 60, 1.05
VARIANTS = ("control", "session", "plain", "shapes")
Arm = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    cost: str
    ratio: Estimate | None = None
    limit: str = ""

    def __str__(self) -> str:
        r = self.ratio
        ratio = f"{r.ratio:.3f} [{r.ratio_low:.3f}, {r.ratio_high:.3f}]" if r else ""
        return f"| {self.what} | {self.cost} | {ratio} | {self.limit} |"


@contextmanager
def attached() -> Iterator[None]:
    """An attached script outside the profiled window."""
    session = Session(Plan(skip=FOR_EVER, timed=1), lambda: None)  # too few for an early recording
    session.install()
    try:
        yield
    finally:
        session.remove()


@contextmanager
def marked() -> Iterator[None]:
    """The markers as they are in the profile pass."""
    markers = Markers()
    markers.install()
    markers.step = 0
    try:
        yield
    finally:
        markers.remove()


@contextmanager
def python_ranges() -> Iterator[None]:
    """What the markers would cost as ``torch.profiler.record_function``."""
    stack: list[Any] = []

    def enter(module: nn.Module, args: object) -> None:
        stack.append(torch.profiler.record_function(type(module).__name__))
        stack[-1].__enter__()

    def leave(module: nn.Module, args: object, output: object) -> None:
        stack.pop().__exit__(None, None, None)

    with ExitStack() as hooks:
        hooks.callback(register_module_forward_pre_hook(enter).remove)
        hooks.callback(register_module_forward_hook(leave, always_call=True).remove)
        yield


def sampling(device: torch.device) -> tuple[Arm | None, str]:
    """The NVML sampler beside the loop, or why there is none."""
    if device.type != "cuda":
        return None, "not measured: the step runs on the CPU"
    sampler = NvmlSampler(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    sampler.start()
    if sampler.reason is not None:
        return None, f"not measured: {sampler.reason}"

    @contextmanager
    def beside() -> Iterator[None]:
        sampler.start()
        yield
        sampler.stop(0, 1)

    return beside, ""


def interleave(arms: Mapping[str, Arm], block: Callable[[], int], rounds: int) -> dict[str, list[int]]:
    """ns per step of each arm, one block per round; every second round runs backwards."""
    samples: dict[str, list[int]] = {name: [] for name in arms}
    for i in range(rounds):
        for name in list(arms)[:: -1 if i % 2 else 1]:
            with arms[name]():
                samples[name].append(block())
    return samples


def added(of: list[int], to: list[int]) -> str:
    """Median difference and its interval, in microseconds."""
    middle, low, high = (x / 1e3 for x in median_interval([a - b for a, b in zip(of, to, strict=True)]))
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}] µs"


def hooks_alone(rounds: int) -> Row:
    """The step hooks around an optimizer whose one parameter has no gradient."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])

    def block() -> int:
        optimizer.step()
        return timed_ns(optimizer.step, EMPTY_STEPS, torch.device("cpu"))

    samples = interleave({"bare": nullcontext, "hooks": attached}, block, rounds)
    worst = median_interval([a - b for a, b in zip(samples["hooks"], samples["bare"], strict=True)])[2]
    limit = HOOKS_LIMIT * REFERENCE_NS
    said = f"at most {limit / 1e3:.0f} µs, {HOOKS_LIMIT:.1%} of 10 ms: {'met' if worst <= limit else 'missed'}"
    return Row("attached, outside the window: the hooks timed alone", added(**_pair(samples, "hooks")), None, said)


def _pair(samples: Mapping[str, list[int]], name: str) -> dict[str, list[int]]:
    return {"of": samples[name], "to": samples["bare"]}


def in_process(device: torch.device, rounds: int, steps: int) -> list[Row]:
    beside, reason = sampling(device)
    arms: dict[str, Arm] = {
        "bare": nullcontext,
        "bare again: the noise floor": nullcontext,
        "attached, outside the window": attached,
        "module markers": marked,
        "the same as Python `record_function`": python_ranges,
    }
    if beside is not None:
        arms["NVML sampler beside the loop"] = beside
    step = build(device)

    def block() -> int:
        step()
        return timed_ns(step, steps, device)

    timed_ns(step, 10, device)
    samples = interleave(arms, block, rounds)
    rows = [Row("bare step", f"{median(samples['bare']) / 1e6:.2f} ms")]
    for name in list(arms)[1:]:
        pair = _pair(samples, name)
        rows.append(Row(name, added(**pair), paired_log_ratio(pair["of"], pair["to"])))
    return rows if beside is not None else [*rows, Row("NVML sampler beside the loop", reason)]


def detection(device: torch.device, blocks: int, width: int, rounds: int) -> Row:
    """The counted step with its adapters followed, against the same without: the thread's own time."""
    step = build(device, blocks, width)
    step()

    def block() -> int:
        begin = time.thread_time_ns()
        step()
        return time.thread_time_ns() - begin

    @contextmanager
    def counted(follow: bool) -> Iterator[None]:
        markers = Markers()
        markers.install()
        markers.step = COUNTED
        counting = Counting(markers.where, markers.follow() if follow else None, Repeats())
        counting.open()
        try:
            yield
        finally:
            counting.close()
            markers.followed()
            markers.remove()

    arms: dict[str, Arm] = {"bare": lambda: counted(False), "followed": lambda: counted(True)}
    pair = _pair(interleave(arms, block, rounds), "followed")
    ratio = paired_log_ratio(pair["of"], pair["to"])
    limit = f"at most {DETECTION_LIMIT:.2f}x: {'met' if ratio.ratio <= DETECTION_LIMIT else 'missed'}"
    return Row(f"adapters followed in the counted step, {10 * blocks + 1:,} modules", added(**pair), ratio, limit)


def in_processes(device: str, count: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """What each variant's processes say; one of each per round."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for i in range(count):
        for variant in VARIANTS[:: -1 if i % 2 else 1]:
            command = [sys.executable, "-m", "benchmarks.overhead_process", variant, device, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
            if done.returncode:
                raise SystemExit(f"overhead: {variant}: {done.stderr.strip().splitlines()[-1]}")
            found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def process_rows(found: Mapping[str, list[dict[str, float]]]) -> list[Row]:
    rows = []
    for variant, what in (("plain", "profiler without shapes"), ("shapes", "profiler with shapes (the profile pass)")):
        during, before = ([round(one[key]) for one in found[variant]] for key in ("during_ns", "before_ns"))
        rows.append(Row(what, added(during, before), paired_log_ratio(during, before)))
    drift = [one["after_ns"] / one["before_ns"] for one in found["control"]]
    after = paired_log_ratio([one["after_ns"] / one["before_ns"] for one in found["session"]], drift)
    fast = "met" if after.low <= 0 else "missed"
    rows.append(Row("steps after the recording, against no recording", "", after, f"as fast as before: {fast}"))
    for key, what in (("attached_mb", "attached"), ("recorded_mb", "at the end of the recording")):
        sizes = [one[key] for one in found["session"]]
        limit = f"under {MEMORY_LIMIT_MB} MB: {'met' if max(sizes) < MEMORY_LIMIT_MB else 'missed'}"
        size = f"{median(sizes):.0f} MB, at most {max(sizes):.0f}"
        rows.append(Row(f"memory beyond torch's, {what}", size, None, limit))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    parser.add_argument("--processes", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a pool that waits for a core would be all the noise there is
    print("| what | added per step, or size | with / without [95 %] | limit |\n|---|---|---|---|")
    rows = [hooks_alone(options.rounds), *in_process(torch.device(options.device), options.rounds, options.steps)]
    rows += [detection(torch.device(options.device), *size, options.rounds) for size in ((6, 192), (300, 64))]
    print(*rows, sep="\n", flush=True)
    print(*process_rows(in_processes(options.device, options.processes, 3 * options.steps)), sep="\n")


if __name__ == "__main__":
    main()
