"""The generator itself: its machine against hand-computed runs, its truth against the naive second opinion."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from builders import text_of
from naive import partition
from synthetic.faults import gpu_events
from synthetic.ledger import StepTruth, Work
from synthetic.machine import Hardware, Kernel, Machine
from synthetic.presets import PRESETS, preset
from synthetic.randomised import random_run
from synthetic.simulate import Synthetic, simulate, simulate_anew, simulate_to

WORK = Work("forward", "norm", "m")


def by_kind(step: StepTruth) -> Counter[object]:
    out: Counter[object] = Counter(step.overlap)
    for (what, _, _), ns in (*step.busy.items(), *step.idle.items()):
        out[what] += ns
    return +out


@pytest.mark.parametrize(("percent", "window"), [(100, 34_000), (75, 26_500), (50, 19_000), (25, 14_000), (0, 14_000)])
def test_machine_gives_the_replay_oracle(percent: int, window: int) -> None:
    """Three launches, host gaps 0, 10, 10 us, calls 5 us, kernels 4 us, latency 6 us, turnaround 1 us."""
    starts: list[int] = []
    hardware = Hardware(latency_ns=6000, turnaround_ns=1000, api_ns=5000, host_percent=percent)
    machine = Machine(hardware, lambda e: starts.append(int(e["ts"] * 1000)) if e["cat"] == "kernel" else None)
    for gap in (0, 10_000, 10_000):
        machine.spend(gap)
        machine.launch([Kernel("k", 4000)], WORK)
    assert starts[-1] + 4000 - starts[0] == window


@pytest.mark.parametrize(("queue", "blocked"), [(2, True), (1024, False)])
def test_a_full_queue_blocks_the_host_and_not_the_device(queue: int, blocked: bool) -> None:
    machine = Machine(Hardware(queue=queue), lambda e: None, at=0)
    for _ in range(10):
        machine.launch([Kernel("k", 50_000)], WORK)
    assert machine.host_ns == 40_000
    assert (machine.now > machine.host_ns) == blocked
    machine.synchronize()
    assert machine.now == 6000 + 10 * 50_000 + 9 * 1000 + 2000  # the device is the bottleneck either way


def test_streams_wait_for_each_other() -> None:
    rows: dict[str, int] = {}
    machine = Machine(Hardware(), lambda e: rows.update({e["name"]: int(e["ts"] * 1000)}), at=0)
    machine.launch([Kernel("first", 100_000)], WORK)
    machine.launch([Kernel("side", 1000, stream=20, waits=(7,))], WORK)
    machine.launch([Kernel("early", 1000, early_ns=400)], WORK)
    assert (rows["first"], rows["side"], rows["early"]) == (6000, 106_000, 105_600)


def runs() -> list[Synthetic]:
    named = [simulate(*preset(name)) for name in PRESETS]
    return named + [simulate(*random_run(seed)) for seed in range(30)]


@pytest.mark.slow
def test_truth_equals_the_second_opinion() -> None:
    seen: Counter[object] = Counter()
    for run in runs():
        naive = partition(run.document, run.hardware.turnaround_ns)
        for step in run.truth:
            assert by_kind(step) == +naive[step.name]
            seen += by_kind(step)
    causes = ("python", "framework", "launch_api", "launch_latency", "sync", "data", "allocator", "profiler")
    wanted = {*causes, "turnaround", "queued", "compute", "comm", "copy", ("compute", "comm"), ("comm", "copy")}
    assert wanted <= set(seen)  # the runs exercise everything but unknown


def test_truth_is_conserved() -> None:
    for run in runs():
        records = [(int(e["ts"] * 1000), int((e["ts"] + e["dur"]) * 1000)) for e in gpu_events(run.document)]
        for before, after in pairwise(run.truth):
            assert before.end == after.start
        for step in run.truth:
            assert sum(step.busy.values()) + sum(step.idle.values()) == step.wall_ns
            assert sum(step.modules.values()) == sum(step.busy.values())
            clipped = sum(max(0, min(e, step.end) - max(s, step.start)) for s, e in records)
            assert clipped - sum(step.busy.values()) == step.excess_ns  # K6
        assert sum(sum(s.records.values()) for s in run.truth) == len(records)  # K7


@pytest.mark.parametrize(
    ("name", "what", "share"),
    [
        ("launch-bound", "launch_api", 0.3),
        ("bandwidth-v1", "compute", 0.95),
        ("data-bound", "data", 0.9),
        ("comm-bound", "comm", 0.8),
        ("full", "compute", 0.95),
    ],
)
def test_presets_are_what_they_are_called(name: str, what: str, share: float) -> None:
    step = simulate(*preset(name)).truth[1]
    assert by_kind(step)[what] > share * step.wall_ns
    assert step.launch_bound == (name in ("launch-bound", "data-bound"))


def test_a_profiler_slows_the_host_only() -> None:
    program, _ = preset("launch-bound")
    plain, profiled = (simulate(program, Hardware(host_percent=p)).truth[1] for p in (100, 150))
    assert sum(plain.busy.values()) == sum(profiled.busy.values())
    assert profiled.wall_ns > 1.3 * plain.wall_ns


def test_same_seed_same_bytes() -> None:
    first, second = (text_of(simulate_anew(*random_run(7)).document) for _ in range(2))
    assert first == second
    assert first != text_of(simulate(*random_run(8)).document)


def test_size_is_a_knob(tmp_path: Path) -> None:
    program, hardware = preset("launch-bound", steps=1)
    counts = [simulate_to(tmp_path / "x.json", program, hardware, events=n) for n in (1, 20_000)]
    assert counts[0] < 2000
    assert 20_000 <= counts[1] < 22_000
    assert (tmp_path / "x.json").read_bytes().count(b'"ph"') == counts[1]
