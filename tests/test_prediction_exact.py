"""The sums of a prediction, of numbers that cannot be taken for one another."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import call, kernel, op, overhead, step, trace_of
from calibrated import COST, UNIT, made
from ledgers import BUSY, COMM, ledger
from msgspec.structs import replace

from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction import counterfactual as room
from loraprof.analysis.prediction.comm_savings import MoreCommunication, more_communication
from loraprof.analysis.prediction.counterfactual import counterfactual, unpredicted
from loraprof.analysis.prediction.host_clock import HostClock, host_clock, on_clock, unslowed
from loraprof.analysis.prediction.replay import step_calls
from loraprof.analysis.step.unprofiled import scaled_ledger, unprofiled_ns
from loraprof.analysis.trace.launch_links import link
from loraprof.model.recording import (
    ModuleInfo,
    Recording,
)
from loraprof.model.report import Interval, Unprofiled
from loraprof.model.trace import NONE

UNPROFILED = Unprofiled(median_ns=10_000, low_ns=9_900, high_ns=10_140, steps=9)


STEP = ledger(
    (BUSY, "forward", "adapter.down", 1, 1000), (BUSY, "backward", "adapter.up", 2, 500),
    (BUSY, "backward", "base.linear", 0, 400), (BUSY, "optimizer", "optimizer", NONE, 70),
    (BUSY, "optimizer", "grad_clip", NONE, 30), (-1, "other", "other", NONE, 8000),
)  # fmt: skip


def analysis(*ledgers: Ledger, on_gpu: bool = False) -> Any:
    trace = SimpleNamespace(names=("ncclDevKernel_AllReduce_Sum", "ncclDevKernel_AllGather", "gemm"))
    return SimpleNamespace(ledgers=ledgers, on_gpu=on_gpu, trace=trace)


def predicted(*steps: Ledger, recorded: Recording | None = None, **more: Any) -> room.Counterfactual:
    given = {"step": None, "plain": None} | more
    on_gpu = given.pop("on_gpu", False)
    found = counterfactual(analysis(*steps, on_gpu=on_gpu), steps[0], recorded or made(), UNPROFILED, **given)
    assert found is not None
    return found


SLOWER = 400 / 291  # the input gradient within the step against the same alone


WGRAD, END = SLOWER * 303, 307 + 53 + 3 * 29


FROZEN = 10_000 - 1500 - 70 - 30


def interval(value: float, *halves: float) -> Interval:
    half = math.hypot(*halves)
    return Interval(low=round(value - half), high=round(value + half))


def test_on_a_cpu() -> None:
    """Of three steps one that did nothing does not count; their adapters took 1,500 and, freed and scaled, 3,000."""
    slow = ledger((BUSY, "forward", "adapter.down", 1, 3000), (BUSY, "backward", "base.linear", 0, 7000))
    one, two = predicted(STEP), predicted(STEP, slow, ledger((BUSY, "forward", "loss", NONE, 0)))
    full = FROZEN + WGRAD + END + 11
    assert (one.full_ns, one.frozen_ns, one.trained_ns, one.added_ns) == (round(full), FROZEN, 100, 10_000 - FROZEN)
    assert one.full == interval(full, 120, 0, 0.15 * WGRAD, 0.15 * END, 0.13 * 10_000)
    assert one.frozen == interval(FROZEN, 120, 0, 0.3 * 1500)
    assert (one.savings.wgrad_ns, one.savings.optimizer_ns, one.savings.grad_clip_ns, one.savings.comm_ns) == (
        round(WGRAD + 3 * 29), 307, 53, None,
    )  # fmt: skip
    assert two.frozen_ns == 10_000 - 2250 - 50  # the median of two parts
    assert two.frozen == interval(two.frozen_ns, 120, 750, 0.3 * 2250)


def test_without_clipping_and_micro_batches() -> None:
    rows = ledger((BUSY, "backward", "base.linear", 0, 400), (BUSY, "forward", "adapter.down", 1, 9600))
    plain = made()
    plain = replace(plain, workload=replace(plain.workload, micro_batches=None))
    found = predicted(rows, recorded=plain)
    assert (found.savings.grad_clip_ns, found.savings.wgrad_ns) == (0, round(WGRAD))
    assert found.full_ns == round(10_000 - 9600 + WGRAD + 307 + 11)


def test_what_is_sent_besides() -> None:
    """400 ns of 500 of backward work hide nothing of it on a CPU; the bounds are its own."""
    extra = MoreCommunication(1000.0, 3, False)
    one, more = predicted(STEP), predicted(STEP, extra=extra)
    low, most = 700 - (900 + WGRAD), 1300.0
    exposed = max(low, 700 / 3)
    assert more.full_ns - one.full_ns == 1000
    assert more.savings.comm_ns == 1000
    half = (0.15 * WGRAD, 0.15 * END, 0.13 * 10_000)
    full = FROZEN + WGRAD + END + 11 + 1000
    assert more.full == Interval(
        low=interval(full, 120, 0, *half, 1000 - exposed).low, high=interval(full, 120, 0, *half, most - 1000).high
    )


def test_a_frozen_step_may_do_without_the_reductions_of_its_backward_pass() -> None:
    """Those in it, and no other collectives."""
    rows = ledger(
        (COMM, "backward", "comm", NONE, 300), (COMM, "forward", "comm", NONE, 20),
        (COMM, "backward", "comm", NONE, 50),
        (BUSY, "backward", "base.linear", 0, 400), (BUSY, "forward", "adapter.down", 1, 1000),
        (-1, "backward", "comm", NONE, 8230), name=[0, 0, 1, 0, 2, NONE],
    )  # fmt: skip
    alone, job = predicted(rows), predicted(rows, extra=MoreCommunication(1000.0, 3, False))
    assert (job.frozen.low, job.frozen.high) == (alone.frozen.low - 300, alone.frozen.high)
    waits = replace(rows, ns=np.array([9000, 20, 50, 400, 500, 30]))
    assert (
        predicted(waits, extra=MoreCommunication(1000.0, 3, False)).frozen.low == interval(9500, 120, 0, 150).low - 9000
    )
    slow = replace(rows, ns=np.array([9600, 0, 0, 300, 100, 0]))
    low = predicted(slow, extra=MoreCommunication(1000.0, 3, False)).frozen.low
    assert low == max(0, interval(9900, 120, 0, 30).low - 9600)


def replayed(sigma: float | None) -> Any:
    """A step that takes a hundredth of what is added to it, and twice what follows it."""

    def delta_ns(added: list[Any], after: float | None) -> float:
        return sum(a.ns for a in added) / 100 + 2 * (after or 0.0) - (1 if after is None else 0)

    return SimpleNamespace(sigma=sigma, delta_ns=delta_ns)


def test_on_a_gpu_the_step_is_replayed_and_its_entries_without_the_profiler_count() -> None:
    plain = replace(STEP, ns=STEP.ns * 2)
    found = predicted(STEP, step=replayed(0.5), plain=plain, on_gpu=True)
    slower = 2.0  # 800 of 291, but no more than twice
    wgrad = slower * 303
    assert (found.frozen_ns, found.trained_ns) == (10_000 - 1, 200)
    assert found.full_ns == round(10_000 + slower * 303 / 100 + 2 * (END + 11))
    assert found.full == interval(10_000 + slower * 303 / 100 + 2 * (END + 11), 120, 0, 0.15 * wgrad, 0.15 * END, 0)
    assert found.frozen == interval(9_999, 120, 0, 0.3 * 3000)
    extra = MoreCommunication(5000.0, 2, True)
    sent = predicted(STEP, step=replayed(0.5), plain=plain, on_gpu=True, extra=extra)
    assert sent.savings.comm_ns == round(5000 - 1800 - wgrad)  # what backward does not hide


@pytest.mark.parametrize(("idle", "known"), [(500, True), (501, False)])
def test_a_step_that_cannot_be_replayed_is_added_up_unless_it_waits(idle: int, known: bool) -> None:
    rows = ledger(
        (BUSY, "backward", "base.linear", 0, 400), (BUSY, "forward", "adapter.down", 1, 10_000 - 400 - idle),
        (-1, "other", "other", NONE, idle // 2), (COMM, "other", "comm", NONE, idle - idle // 2),
    )  # fmt: skip
    arguments = (analysis(rows, on_gpu=True), rows, made(), UNPROFILED, replayed(None), None)
    assert (counterfactual(*arguments) is not None) == known


@pytest.mark.parametrize(("comm", "untold", "known"), [(500, True, True), (501, True, False), (501, False, True)])
def test_a_step_that_communicates_for_what_it_does_not_show(comm: int, untold: bool, known: bool) -> None:
    rows = ledger(
        (BUSY, "backward", "base.linear", 0, 400), (-1, "other", "other", NONE, 9600 - comm),
        (COMM, "other", "comm", NONE, comm),
    )  # fmt: skip
    one = analysis(rows, on_gpu=True)
    assert (counterfactual(one, rows, made(), UNPROFILED, replayed(1.0), None, None, untold) is not None) == known
    assert counterfactual(one, STEP, made(), UNPROFILED, replayed(1.0), STEP, None, untold) is not None


def test_what_is_missing_is_named() -> None:
    one = analysis(STEP)
    missing: dict[str, dict[str, Any]] = {
        "no calibration was recorded": {"calibration": None},
        "what training the frozen weights would cost was not measured": {"training_cost": None},
        "no adapted layer was recorded": {"sites": []},
    }
    for why, changes in missing.items():
        assert counterfactual(one, STEP, made(**changes), UNPROFILED, None, None) is None
        assert unpredicted(made(**changes), UNPROFILED) == f"full fine-tuning is not predicted: {why}"
    assert counterfactual(one, STEP, None, UNPROFILED, None, None) is None
    assert counterfactual(one, STEP, made(), None, None, None) is None
    convolution = ModuleInfo(id=0, path="c", cls="Conv2d")
    other = made(modules=[convolution], training_cost=replace(COST, gradients=[]))
    assert counterfactual(one, STEP, other, UNPROFILED, None, None) is None
    assert "no rate of this device tells it" in unpredicted(other, UNPROFILED)
    assert "waits or communicates" in unpredicted(made(), UNPROFILED)
    assert "no step was timed" in unpredicted(made(), None)


def exchange(strategy: str | None, saved: int | None) -> Any:
    return SimpleNamespace(strategy=strategy, saved_bytes=saved)


def test_pieces_of_more_communication() -> None:
    wire: Any = SimpleNamespace(ranks=4, bus_bytes_per_s=1e9)
    for saved, pieces in ((1, 1), (25 << 20, 1), ((25 << 20) + 1, 2)):
        found, why = more_communication(exchange("ddp", saved), wire, True, 0.5)
        assert why is None
        assert found is not None
        assert (found.pieces, found.beside) == (pieces, True)
        assert found.total_ns == pytest.approx(saved * 1.5)
    for unknown in (exchange(None, 5), exchange("ddp", None)):
        found, why = more_communication(unknown, wire, True, 0.5)
        assert found is None
        assert why is not None
    assert more_communication(exchange("ddp", 0), None, False, 0.5) == (MoreCommunication(0.0, 1, False), None)


def test_entries_without_the_profiler() -> None:
    """A GPU's kernels keep their time; a CPU's events are freed of what they cost, the idle ones of half of that."""
    rows = ledger((BUSY, "forward", "other", NONE, 600), (-1, "other", "other", NONE, 400))
    gpu, cpu = analysis(rows, on_gpu=True), analysis(rows)
    timed = made(calibration=replace(UNIT, event_ns=100.0))
    assert unprofiled_ns(gpu, rows, timed, 800).tolist() == [600, 200]
    assert unprofiled_ns(gpu, rows, timed, 500).tolist() == [500, 0]
    assert unprofiled_ns(gpu, replace(rows, ns=rows.ns * np.array([1, 0])), timed, 900).tolist() == [900, 0]
    assert unprofiled_ns(cpu, rows, made(), 500).tolist() == [300, 200]
    assert unprofiled_ns(cpu, rows, timed, 850) == pytest.approx([500, 350])  # just the cost
    assert unprofiled_ns(cpu, rows, timed, 1200) == pytest.approx([720, 480])  # it adds nothing
    assert unprofiled_ns(cpu, rows, timed, 55) == pytest.approx([30, 25])  # three times the cost, then scaled
    tiny = ledger((BUSY, "forward", "other", NONE, 100), (-1, "other", "other", NONE, 400))
    assert unprofiled_ns(cpu, tiny, timed, 140) == pytest.approx([30 * 140 / 310, 280 * 140 / 310])
    thirds = ledger(*[(BUSY, "forward", "other", NONE, 1)] * 3)
    assert scaled_ledger(cpu, thirds, made(), 100).ns.tolist() == [34, 33, 33]


HOST = [
    step(0, 0, 100), op("a", 10, 30), overhead("Buffer Flush", 20, 26), op("b", 90, 130), op("far", 140, 150),
    op("elsewhere", 12, 14, thread=3), op("aside", 41, 55, thread=2),
]  # fmt: skip


DEVICE = [kernel(60, 70, (40, 50), thread=2), kernel(80, 95, (60, 72))]


def test_the_cuts_of_a_step_s_host() -> None:
    """Edges of the launching threads and the main thread within the annotation; an edge is half of its event."""
    trace = trace_of(HOST, DEVICE)
    calls = step_calls(trace, link(trace), (0, 100), (0, 100))
    clock = host_clock(trace, calls, (0, 100), 0)
    assert clock.at.tolist() == [0, 10, 30, 40, 41, 50, 55, 60, 72, 90, 100]
    assert clock.length.tolist() == [10, 20 - 6, 10, 1, 9, 5, 5, 12, 18, 10]
    assert clock.events.tolist() == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]
    wide = host_clock(trace, calls, (45, 65), 0)  # the calls reach beyond it
    assert (wide.at[0], wide.at[-1]) == (40, 72)
    assert 0 in host_clock(trace, calls, (-5, 100), 0).at
    main = host_clock(trace, calls, (0, 100), trace.threads.index(("1", "3")))
    assert {12, 14} < {*main.at.tolist()}


def test_calls_on_a_clock_that_ran_twice_as_fast() -> None:
    trace = trace_of(HOST, DEVICE)
    calls = step_calls(trace, link(trace), (0, 100), (0, 100))
    clock = HostClock(np.array([0, 50, 100]), np.array([50.0, 50.0]), np.array([10.0, 5.0]))
    assert calls.calls.lead_ns == 40 + 28
    found = on_clock(trace, calls, clock, 2.5)
    assert found.gap_ns.tolist() == [0, round(10 * 0.75)]
    assert found.duration_ns.tolist() == [5, 9]
    assert found.lead_ns == round(40 * 0.5 + 28 * 0.75)
    assert found.span_ns is None
    none = replace(calls, calls=replace(calls.calls, lead_ns=0))
    assert on_clock(trace, none, clock, 2.5).lead_ns == 0


def test_a_host_that_is_freed_of_the_profiler_then_made_faster() -> None:
    """One launch of 20 ns after 80 of the host's own; events cost up to 10 of 50 each way, then all gets faster."""
    trace = trace_of([step(0, 0, 100), call("cudaEventRecord", 0, 0)], [kernel(120, 121, (80, 100))])
    calls = step_calls(trace, link(trace), (0, 200), (0, 100))
    clock = HostClock(np.array([0, 80, 100]), np.array([80.0, 20.0]), np.array([2.0, 1.0]))
    at_once = unslowed(trace, calls, clock, 10**6, (20, 1), None)
    assert at_once is not None
    assert (at_once.cost_ns, at_once.sigma) == (0, 1)
    assert clock.most_ns == pytest.approx(0.7 * 40)
    freed = unslowed(trace, calls, clock, 80, (1, 1), None)
    assert freed is not None
    assert 0 < freed.cost_ns < clock.most_ns
    assert freed.sigma == 1
    capped = unslowed(trace, calls, clock, 60, (1, 1), 3.0)  # an event costs no more than was calibrated
    assert capped is not None
    assert capped.cost_ns == 3.0
    assert 0 < capped.sigma < 1


def test_a_step_that_no_host_explains_is_near_or_refused() -> None:
    """Its kernel takes 1,000 ns, and a turnaround: as much as the step to five in a hundred, or else more."""
    trace = trace_of([step(0, 0, 100)], [kernel(120, 1120, (80, 100))])
    calls = step_calls(trace, link(trace), (0, 200), (0, 100))
    clock = HostClock(np.array([0, 80, 100]), np.array([80.0, 20.0]), np.array([2.0, 1.0]))
    for target, known in ((1001, 0.0), (954, 0.0), (953, None), (900, None)):
        found = unslowed(trace, calls, clock, target, (1, 1), None)
        assert (found.sigma if found and target < 1001 else found and 0.0) == known, target
