"""The replay against plain loops: when each call returns and each record runs, over random calls full of ties."""

import random
from statistics import median

import numpy as np
import pytest
from builders import Device, Host, call, copy, kernel, trace_of
from msgspec.structs import astuple

from loraprof.analysis.prediction.replay import (
    Call,
    Calls,
    Replayed,
    accepted,
    gate_error,
    host_ns,
    replay,
    replayed,
    step_calls,
)
from loraprof.analysis.trace.launch_links import link
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import HostKind


def drawn(rng: random.Random) -> Calls:
    kind, counts = list[int](), list[int]()
    for _ in range(rng.randrange(1, 9)):
        kind.append(rng.choice((Call.LAUNCH, Call.LAUNCH, Call.SYNC, Call.OTHER, Call.BLOCKING)))
        counts.append(rng.choice((1, 1, 2, 3)) if kind[-1] in (Call.LAUNCH, Call.BLOCKING) else 0)
    size = sum(counts)

    def some(values: tuple[int, ...], n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(rng.choices(values, k=n), np.int64)

    return Calls(
        gap_ns=some((0, 0, 500, 1000, 9000), len(kind)),
        duration_ns=some((1000, 1000, 2000, 3000, 20_000), len(kind)),
        kind=np.array(kind, np.int8),
        first=np.cumsum([0, *counts]),
        record_ns=some((500, 1000, 4000, 30_000), size),
        stream=some((0, 0, 1), size),
        lead_ns=rng.choice((0, 3000, 50_000)),
        own=None if rng.random() < 0.5 else np.array([rng.random() < 0.5 for _ in kind], np.bool_),
        waits=None if rng.random() < 0.5 else some((NONE, NONE, 0, 1, 7), size),
        span_ns=rng.choice((None, 40_000)),
    )


def capped(c: Calls) -> list[int]:
    """A launch call takes three medians of its like at most, a wait two microseconds, unless it is the host's own."""
    counts = np.diff(c.first).tolist()
    launches = [k in (Call.LAUNCH, Call.BLOCKING) for k in c.kind.tolist()]
    out = []
    for i, took in enumerate(c.duration_ns.tolist()):
        if c.kind[i] == Call.SYNC:
            out.append(min(took, 2000))
        elif not launches[i] or (c.own is not None and c.own[i]):
            out.append(took)
        else:
            alike = [j for j, launch in enumerate(launches) if launch and (counts[j] > 1) == (counts[i] > 1)]
            out.append(min(took, 3 * int(median(c.duration_ns[alike].tolist()))))
    return out


def plain(c: Calls, sigma: float, latency: int, tau: int, queue: int, passes: int) -> Replayed:
    durations, counts = capped(c), np.diff(c.first).tolist()
    free = dict.fromkeys(c.stream.tolist(), -latency - tau)
    begun = list[int]()
    now = last = 0
    for index in range(passes):
        start, end, begin = list[int](), list[int](), list[int]()
        host, opened = now, last
        now += round(sigma * c.lead_ns) if index else 0
        for i, count in enumerate(counts):
            start.append(now + round(sigma * int(c.gap_ns[i])))
            now = start[-1] + round(sigma * durations[i])
            if count and len(begun) >= queue:
                now = max(now, begun[-queue])
            for record in range(int(c.first[i]), int(c.first[i]) + count):
                stream = int(c.stream[record])
                runs = max(start[-1] + latency, free[stream] + tau)
                if c.waits is not None and c.waits[record] != NONE:
                    runs = max(runs, free.get(int(c.waits[record]), runs))
                begin.append(runs)
                free[stream] = runs + int(c.record_ns[record])
                last = max(last, free[stream])
            if count:
                begun.append(begin[-count])
            if c.kind[i] in (Call.SYNC, Call.BLOCKING) and begun:
                now = max(now, last + 2000)
            end.append(now)
        if passes == 1:
            opened = min(begin, default=last)
    return Replayed(start, end, begin, host, opened, last)


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_every_call_and_every_record(seed: int) -> None:
    for one in range(seed, seed + 50):
        rng = random.Random(one)
        calls, sigma = drawn(rng), rng.choice((0.0, 0.5, 1.0))
        latency, tau, queue = rng.choice((0, 5000)), rng.choice((0, 1000)), rng.choice((1, 2, 1022))
        for passes in (1, 2, 3):
            found = replayed(calls, sigma, latency, tau, queue, passes)
            assert astuple(found) == astuple(plain(calls, sigma, latency, tau, queue, passes)), one
        assert replay(calls, sigma, latency, tau, queue) == plain(calls, sigma, latency, tau, queue, 1).window_ns
        assert host_ns(calls) == int(calls.gap_ns.sum()) + sum(capped(calls)) + calls.lead_ns
        error = gate_error(calls, latency, tau, queue)
        span = calls.span_ns
        assert error == (None if span is None else (replay(calls, 1.0, latency, tau, queue) - span) / span)


def test_a_replay_is_accepted_to_five_in_a_hundred() -> None:
    assert [accepted(e) for e in (0.05, -0.05, 0.0501, None)] == [True, True, False, False]


def traced(rng: random.Random) -> tuple[list[Host], list[Device]]:
    host = [call("cudaEventRecord", s, s + rng.choice((1, 5)), rng.choice((1, 2))) for s in rng.choices(range(60), k=4)]
    host += [call("cudaStreamSynchronize", s, s + 3, 1) for s in rng.choices(range(60), k=rng.randrange(2))]
    device = []
    for _ in range(rng.randrange(1, 7)):
        called = rng.randrange(50)
        start = called + rng.randrange(1, 20)
        made = rng.choice((kernel, kernel, copy))
        launch = (called, called + rng.choice((1, 2, 6)))
        device.append(
            made(start, start + rng.randrange(1, 9), launch, thread=rng.choice((1, 2)), stream=rng.choice((7, 8)))
        )
    return host, device


def test_the_calls_of_a_step() -> None:
    """Those that launched its records, and all others of their threads around them, the outermost of each."""
    for seed in range(150):
        rng = random.Random(seed)
        trace = trace_of(*traced(rng))
        links, host, device = link(trace), trace.host, trace.device
        window = (rng.randrange(20), rng.randrange(20, 70))
        noted = None if rng.random() < 0.4 else (rng.randrange(15), rng.randrange(40, 70))
        records = [
            i for i in range(len(device)) if window[0] <= device.start[i] < window[1] and links.launch[i] != NONE
        ]
        found = step_calls(trace, links, window, noted)
        if not records:
            assert (len(found.row), len(found.record), found.calls.first.tolist()) == (0, 0, [0])
            continue
        used = [int(links.launch[i]) for i in records]
        threads = {int(host.thread[u]) for u in used}
        low, high = min(int(host.start[u]) for u in used), max(int(host.start[u]) for u in used)
        if noted:
            low, high = min(low, noted[0]), max(high, noted[1] - 1)
        calls_of = [i for i in range(len(host)) if host.kind[i] == HostKind.RUNTIME and host.thread[i] in threads]
        rows = [i for i in calls_of if host.end[i] >= low and host.start[i] <= high]
        owner, top = dict[int, int](), None
        for i in rows:
            if top is None or host.thread[top] != host.thread[i] or host.end[i] > host.end[top]:
                top = i
            owner[i] = top
        low = min(low, *(int(host.start[owner[u]]) for u in used))
        keep = [i for i in {*owner.values()} if low <= host.start[i] <= high]
        keep.sort(key=lambda i: (host.start[i], host.thread[i], i))
        assert found.row.tolist() == keep, seed
        launched = [(keep.index(owner[u]), r) for r, u in zip(records, used, strict=True)]
        launched.sort(key=lambda one: (one[0], device.start[one[1]], device.correlation[one[1]]))
        by_call = [[r for place, r in launched if place == n] for n in range(len(keep))]
        calls = found.calls
        assert found.record.tolist() == [r for some in by_call for r in some]
        assert np.diff(calls.first).tolist() == [len(some) for some in by_call]
        reach, gaps = int(host.start[keep[0]]), []
        for i in keep:
            gaps.append(max(int(host.start[i]) - reach, 0))
            reach = max(reach, int(host.end[i]))
        assert calls.gap_ns.tolist() == gaps
        assert calls.duration_ns.tolist() == [int(host.end[i] - host.start[i]) for i in keep]
        assert calls.record_ns.tolist() == [int(device.end[r] - device.start[r]) for r in found.record.tolist()]
        assert calls.span_ns == max(int(device.end[r]) for r in records) - min(int(device.start[r]) for r in records)
        ends = max(int(host.end[i]) for i in keep)
        assert calls.lead_ns == (max(0, int(host.start[keep[0]]) - noted[0]) + max(0, noted[1] - ends) if noted else 0)
        streams = sorted({int(device.stream[r]) for r in records})
        assert calls.stream.tolist() == [streams.index(int(device.stream[r])) for r in found.record.tolist()]
