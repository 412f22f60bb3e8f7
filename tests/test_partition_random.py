"""The partition of traces no machine would make, against the naive second opinion: ties, clock errors, lost calls."""

import random
from collections import Counter
from itertools import accumulate, pairwise
from typing import Any

import pytest
from builders import Device, Host, call, comm, copy, json_of, kernel, memset, note, op, overhead, step, trace_of
from naive import partition

from loraprof.analysis.analyse import Analysis, analyse

SEEDS = range(60)
THREADS = (1, 2)
CALLS = ("cudaStreamSynchronize", "cudaMalloc", "cudaEventRecord", "cudaFree", "cudaDeviceSynchronize")


def host(rng: random.Random, high: int) -> list[Host]:
    """Anything anywhere, in steps of 10 ns, so that many edges coincide."""
    out: list[Host] = []
    for number in range(80):
        start = 10 * rng.randrange(high // 10)
        end, thread = start + 10 * rng.randrange(1, 40), rng.choice(THREADS)
        match rng.randrange(5):
            case 0:
                out.append(call(rng.choice(CALLS), start, end, thread, correlation=10_000 + number))
            case 1:
                out.append(note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", start, end, thread))
            case 2:
                out.append(overhead(rng.choice(("Buffer Flush", "Lazy Function Loading")), start, end, thread))
            case _:
                out.append(op(f"aten::o{number % 7}", start, end, thread))
    return out


def device(rng: random.Random, high: int) -> list[Device]:
    """Records of all classes on four streams; some lost their call, some start before it."""
    out = []
    for number in range(50):
        start = 10 * rng.randrange(high // 10)
        end, stream = start + 10 * rng.randrange(1, 15), rng.choice((7, 13, 20, 21))
        called = max(0, start - 10 * rng.randrange(-2, 60))
        launch = None if rng.random() < 0.1 else (called, called + 10 * rng.choice((*range(8), 60)))
        made = rng.choice((kernel, kernel, kernel, comm, copy, back, memset))
        out.append(made(start, end, launch, stream=stream, thread=rng.choice(THREADS), correlation=number + 1))
    return out


def back(*args: Any, **more: Any) -> Device:
    """A copy to the host; its call is a synchronisation when it takes ten times as long as others."""
    return copy(*args, name="DtoH", **more)  # type: ignore[misc]


def run(seed: int) -> tuple[list[Host], list[Device]]:
    rng = random.Random(seed)
    edges = [0, *sorted(rng.sample(range(100, 7900, 10), 3)), 8000]
    steps = [step(i, a, b) for i, (a, b) in enumerate(pairwise(edges))]
    return [*steps, *host(rng, 8000)], device(rng, 7800)


def found(analysis: Analysis, i: int) -> Counter[object]:
    out: Counter[object] = Counter()
    for part in analysis.steps[i].partition:
        out[part.class_ or part.cause] += part.ns
    return +(out + Counter({(o.over, o.under): o.ns for o in analysis.steps[i].overlap}))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_gap_and_every_overlap(seed: int) -> None:
    rows, records = run(seed)
    analysis = analyse(trace_of(rows, records))
    naive = partition(json_of(rows, records), analysis.tau_ns)
    assert [s.name for s in analysis.steps] == list(naive)
    for i, one in enumerate(analysis.steps):
        assert found(analysis, i) == +naive[one.name]


def test_the_runs_exercise_everything() -> None:
    seen: Counter[object] = Counter()
    for seed in SEEDS:
        for counts in partition(json_of(*run(seed)), 17).values():
            seen += counts
    causes = {"python", "framework", "launch_api", "launch_latency", "sync", "data", "allocator", "profiler"}
    pairs = {("compute", "comm"), ("compute", "copy"), ("comm", "copy")}
    assert set(seen) == causes | pairs | {"turnaround", "queued", "unknown", "compute", "comm", "copy"}


def test_a_call_is_blocking_from_ten_medians_on() -> None:
    """Median call 20 ns: 200 ns is a launch call, 210 ns a wait, seen by the next gap's host part."""

    def after_the_copy(length: int) -> tuple[int, int]:
        calls = [kernel(900 + 10 * i, 905 + 10 * i, launch=(20 * i, 20 * i + 20)) for i in range(9)]
        slow, last = back(1000, 1010, launch=(850, 850 + length)), kernel(2000, 2100, launch=(1900, 1920))
        one = analyse(trace_of([step(0, 0, 1950), op("aten::item", 590, 1890)], [*calls, slow, last])).steps[0]
        return one.ns(cause="sync"), one.ns(cause="launch_api")

    assert after_the_copy(200) == (0, 40 + 20)
    assert after_the_copy(210) == (50, 20)


def test_a_correlation_that_several_calls_share_is_that_of_the_last_call_before_the_record() -> None:
    rows = [step(0, 0, 900), *(call("cudaLaunchKernel", s, s + 10, correlation=5) for s in (100, 300, 700))]
    analysis = analyse(trace_of(rows, [kernel(50, 80, (1, 2)), kernel(400, 500, correlation=5)]))
    assert analysis.steps[0].ns(cause="launch_latency") == 90 + 48  # 400 - 310, and 50 - 2
    assert analysis.links.ambiguous == 1


def test_a_record_before_all_calls_of_its_correlation_is_the_first_ones() -> None:
    rows = [step(0, 0, 900), *(call("cudaLaunchKernel", s, s + 10, correlation=5) for s in (300, 700))]
    links = analyse(trace_of(rows, [kernel(200, 250, correlation=5)])).links
    assert [rows[i].start for i in links.launch.tolist()] == [300]
    assert (links.ambiguous, links.negative_latency, links.kernels_without_launch) == (1, 1, 0)


@pytest.mark.parametrize(("walls", "name"), [((40, 10, 30, 20), 3), ((20, 30, 20, 10), 0), ((7,), 0), ((9, 9), 0)])
def test_the_reported_step_is_the_lower_median_the_earlier_of_equals(walls: tuple[int, ...], name: int) -> None:
    edges = list(accumulate(walls, initial=0))
    analysis = analyse(trace_of([step(i, a, b) for i, (a, b) in enumerate(pairwise(edges))]))
    assert analysis.reported == name


def test_the_turnaround_floor_is_the_fifth_percentile_of_queued_pairs() -> None:
    """41 records queued at once, waits 100, 110, ... 490 on one stream: rank 0.05 * 39 is 1, the second shortest."""
    at, records = 10_000, []
    for number in range(41):
        records.append(kernel(at, at + 1000, launch=(10 * number, 10 * number + 5)))
        at += 1000 + 100 + 10 * number
    assert analyse(trace_of([step(0, 0, 9000)], records)).tau_ns == 110


def test_a_launch_stream_faster_than_its_latency_counts_as_queued() -> None:
    """The known limit of the rule: a call that is still on its way when the gap begins."""
    starts = range(6000, 6000 + 40 * 5000, 5000)
    records = [kernel(s, s + 2000, launch=(s - 6000, s - 5000)) for s in starts]
    trace = trace_of([step(0, 0, starts[-1])], records)
    one = analyse(trace).steps[0]
    assert one.ns(cause="turnaround") + one.ns(cause="queued") == 6000 + 39 * 3000
    assert one.launches is not None
    assert one.launches.latency_floor_ns is None  # the queue is never seen empty


def test_the_launch_floor_is_not_that_of_the_first_record() -> None:
    """Work from before the trace may have held it back; what follows on an empty queue counts."""
    first = kernel(8_000_000, 8_100_000, launch=(10_000, 15_000))
    second = kernel(9_006_000, 9_100_000, launch=(9_000_000, 9_004_000))
    floors = [analyse(trace_of([step(0, 0, 10**7)], records)).floor_ns for records in ([first], [first, second])]
    assert floors == [None, 6000]
    at_once = kernel(8_105_000, 8_200_000, launch=(8_100_000, 8_104_000))  # launched as the first one ends
    assert analyse(trace_of([step(0, 0, 10**7)], [first, at_once])).floor_ns == 5000
    steps = [analyse(trace_of([step(0, 0, 10**7)], records)).steps[0] for records in ([first], [first, second])]
    assert [s.ns(cause="launch_latency") for s in steps] == [7_985_000, 7_985_000 + 2000]
    assert [s.held_ns for s in steps] == [7_985_000, 7_985_000 + 2000 - 2 * 6000]
