"""What a host thread was doing, against a count of every nanosecond."""

import random

import numpy as np
import pytest
from builders import call, kernel, trace_of

from loraprof.analysis.partition.host_state import PYTHON, STATES, Timeline, classify, measure, stand_in, timeline
from loraprof.analysis.trace.launch_links import link

END = 40


def records(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = random.Random(seed)
    pairs = [sorted((rng.randrange(END), rng.randrange(END))) for _ in range(count)]
    states = np.array([rng.randrange(len(STATES)) for _ in range(count)], np.int8)
    return np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64), states


def naive(start: np.ndarray, end: np.ndarray, state: np.ndarray) -> list[int]:
    """State of every nanosecond: the lowest of those that cover it."""
    rows = list(zip(start.tolist(), end.tolist(), state.tolist(), strict=True))
    return [min((s for a, b, s in rows if a <= t < b), default=PYTHON) for t in range(END)]


def at_every_ns(line: Timeline) -> list[int]:
    spent = measure(line, np.arange(END), np.arange(END) + 1)
    assert spent.sum(axis=0).tolist() == [1] * END
    return spent.argmax(axis=0).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_the_lowest_state_wins_at_every_instant(seed: int) -> None:
    columns = records(seed, seed % 12)
    line = timeline(*columns)
    assert at_every_ns(line) == naive(*columns)
    assert np.all(np.diff(line.at) > 0)
    assert np.all(line.state[1:] != line.state[:-1])


@pytest.mark.parametrize("seed", range(40))
def test_measure_is_the_sum_over_nanoseconds(seed: int) -> None:
    columns = records(seed, 9)
    rng = random.Random(seed)
    low = np.array([rng.randrange(-5, END) for _ in range(20)], np.int64)
    high = low + np.array([rng.randrange(-3, 15) for _ in range(20)], np.int64)
    states = naive(*columns)
    spent = measure(timeline(*columns), low, high)
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        inside = [states[t] if 0 <= t < END else PYTHON for t in range(a, b)]
        assert spent[:, i].tolist() == [inside.count(s) for s in range(len(STATES))]


def test_a_window_reads_only_its_part_of_the_timeline() -> None:
    line = timeline(np.arange(0, 2000, 2), np.arange(1, 2001, 2), np.full(1000, 1, np.int8))
    part = line.between(1001, 1004)
    assert part.at.tolist() == [1001, 1002, 1003, 1004]
    assert line.between(-9, -5).at.tolist() == [0]
    assert measure(line, np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (len(STATES), 0)


@pytest.mark.parametrize("seed", range(20))
def test_the_main_thread_stands_in_where_another_shows_nothing(seed: int) -> None:
    one, main = records(seed, 4), records(seed + 100, 4)
    states = zip(naive(*one), naive(*main), strict=True)
    assert at_every_ns(stand_in(timeline(*one), timeline(*main))) == [m if s == PYTHON else s for s, m in states]


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("cudaStreamSynchronize", "sync"),
        ("cudaMemcpy", "sync"),
        ("hipMemcpyWithStream", "sync"),  # what torch calls to read a value on ROCm
        ("cudaMemcpyAsync", "launch_api"),
        ("hipMemcpyAsync", "launch_api"),
        ("hipLaunchKernel", "launch_api"),
        ("cudaMalloc", "allocator"),
        ("hipHostMalloc", "allocator"),
        ("cudaHostAlloc", "allocator"),
        ("cudaFuncGetAttributes", "framework"),
    ],
)
def test_what_a_call_does(name: str, state: str) -> None:
    launches = state in ("sync", "launch_api")
    trace = trace_of([call(name, 0, 1000, correlation=1)], [kernel(2000, 3000, correlation=1)] if launches else [])
    assert STATES[classify(trace, link(trace))[0]] == state
