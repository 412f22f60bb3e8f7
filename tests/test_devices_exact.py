"""Findings about several devices and what travels between them, at their very limits and in exact numbers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from handmade import Parts, case, values

from loraprof.analysis.trace.intervals import union
from loraprof.diagnosis.findings import distributed, host, transfers
from loraprof.diagnosis.findings.distributed import Messages
from loraprof.diagnosis.rule import Seen
from loraprof.diagnosis.worth import Worth
from loraprof.model.vocabulary import PHASE, DeviceKind, Phase


class Calls:
    """Collectives (kind, bytes, exposed ns, hidden ns), the first of three ranks, the others of two."""

    def __init__(self, *rows: tuple[str, int, int, int]) -> None:
        self.kinds = [row[0] for row in rows]
        self.nbytes, self.exposed, self.hidden = (np.array([row[i] for row in rows], np.int64) for i in (1, 2, 3))
        self.group = np.minimum(np.arange(len(rows)), 1)
        self.groups = [SimpleNamespace(size=size) for size in (3, 2)]

    def of(self, *kinds: str) -> Any:
        return np.array([i for i, kind in enumerate(self.kinds) if kind in kinds], np.int64)


def sent(*rows: tuple[str, int, int, int], micro: int | None = None, elements: int = 0, **facts: Any) -> Any:
    """Adapters of so many elements; the unprofiled step is half as long as the profiled one."""
    site = SimpleNamespace(rank=1, in_features=elements - 1, out_features=1)
    usual = {
        "collectives": Calls(*rows), "communication": None, "scale": 0.5, "sites": [site] if elements else [],
        "workload": SimpleNamespace(micro_batches=micro), "median": 1000,
    }  # fmt: skip
    return case(**{**usual, **facts})


def test_messages_of_known_size_count() -> None:
    found = distributed._messages(sent(("all_reduce", 8, 30, 11), ("all_reduce", 0, 99, 99), ("all_gather", 4, 2, 2)))
    assert (found.bytes, found.ns, found.exposed_ns, found.ranks) == (12, 15 + 6 + 2, 15 + 1, 3)  # 5.5 is even at 6
    assert distributed._messages(sent(("all_reduce", 8, 30, 10)), "all_gather").bytes == 0
    assert distributed._messages(sent(collectives=None)).ranks == 0


def test_weights_gathered_one_and_a_half_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_frozen_bytes", lambda case: 100)

    def seen(moved: int, exposed: int) -> Seen | None:
        return distributed.gathers(sent(("all_gather", moved, 2 * exposed, 40)))

    assert seen(149, 100) is seen(150, 99) is None
    found = seen(150, 100)
    assert values(found) == [150, 100, 120, 100, 0.1]
    assert found is not None
    assert found.saved == Worth(100, 0, 100)


def test_two_small_messages_a_layer() -> None:
    def seen(*sizes: int) -> Seen | None:
        return distributed.small_messages(sent(*(("all_reduce", size, 20, 4) for size in sizes), elements=9))

    assert seen(1, 2) is seen(1, 10**6, 10**6) is None
    found = seen(1, 2, 10**6)
    assert values(found) == [3, 1, 2, 24, 10**6 + 3]
    assert found is not None
    assert found.saved == Worth(20, 0, 20)
    assert values(seen(5, 10**6 - 1, 10**6, 10**6))[2] == 10**6 - 1  # the lower middle one


def test_ten_times_the_adapters_gradients() -> None:
    """Nine elements of 4 bytes, in two micro-batches: 72 bytes."""

    def reduced(moved: int) -> Seen | None:
        return distributed.needless_reduction(sent(("all_reduce", moved, 200, 20), micro=2, elements=9))

    assert reduced(720) is None
    found = reduced(1440)
    assert values(found) == [1440, 72, 110, 100]
    assert values(reduced(721))[0] == 721
    assert found is not None
    assert found.saved is not None
    assert found.saved.ns == pytest.approx(100 * (1 - 72 / 1440))

    def mixed(size: int, scattered: int, elements: int = 9) -> Seen | None:
        flat = SimpleNamespace(trainable=True, name="_flat_param", shape=(size, 2))
        recording = SimpleNamespace(parameters=[flat], memory=SimpleNamespace(gradients_bytes=7))
        return distributed.mixed_units(
            sent(("reduce_scatter", scattered, 1, 1), ("all_reduce", 5, 1, 1), recording=recording, elements=elements)
        )

    assert mixed(45, 360) is mixed(46, 0, 0) is None
    assert values(mixed(46, 0)) == [92, 9, 7, 5]
    assert values(mixed(1, 361)) == [2, 9, 7, 366]


def test_the_bubble_of_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stages and two micro-batches: 2 / 4 of the step."""
    monkeypatch.setattr(distributed, "_exposed", lambda case: 100)

    def seen(queued: int, on_gpu: bool = True, micro: int | None = 2) -> Seen | None:
        parts = Parts({"cause": "queued", "ns": queued}, {"cause": "sync", "ns": 150})
        return distributed.pipeline_bubble(sent(("send_recv", 8, 1, 1), micro=micro, step=parts, on_gpu=on_gpu))

    assert seen(249) is seen(349, on_gpu=False) is seen(900, micro=None) is None
    found = seen(250)
    assert values(found) == [3, 2, 0.5, 500, 0.5]
    assert values(seen(350, on_gpu=False))[3] == 500
    assert found is not None
    assert found.saved == Worth(250, 0, 250)


def test_a_tenth_of_the_step_in_communication(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(exposed: int, *rows: tuple[str, int, str]) -> Seen | None:
        monkeypatch.setattr(distributed, "_exposed", lambda case: exposed)
        calls = [SimpleNamespace(name=name, exposed_ns=ns, basis=basis, count=4) for name, ns, basis in rows]
        return distributed.exposed_communication(
            sent(communication=SimpleNamespace(collectives=calls, overlapped_ns=33))
        )

    assert seen(99) is None
    assert values(seen(100)) == [100, 0.1, None, 33]
    found = seen(100, ("all_gather", 0, "rank"), ("all_reduce", 5, "fastest rank"))
    assert found is not None
    assert found.values == {"apart": True, "gradients": True}
    assert (found.saved, found.spent_ns) == (Worth(50, 0, 50), 100)
    mixed = seen(100, ("all_gather", 5, "fastest rank"), ("all_reduce", 5, "own"))
    assert mixed is not None
    assert mixed.values == {"apart": False, "gradients": False}


def copies(*rows: tuple[int, int, str]) -> transfers.Copies:
    """Device records from, to, and what: of 10 bytes each."""
    start, end = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    work, brought, taken = (np.array([row[2] == kind for row in rows]) for kind in ("work", "in", "out"))
    return transfers.Copies(start, end, np.full(len(rows), 10), work, brought, taken)


def test_weights_that_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In from 0 to 100, 40 of it hidden by work that goes on to 90 and by more; back from 200 to 230, 10 hidden."""

    def seen(*rows: tuple[int, int, str], wall_ns: int = 1000) -> Seen | None:
        monkeypatch.setattr(transfers, "_copies", lambda case: copies(*rows))
        return transfers.weights_copied(case(median=500, scale=0.5, wall_ns=wall_ns))

    usual = ((0, 100, "in"), (60, 190, "work"), (200, 230, "out"), (220, 240, "work"))
    found = seen(*usual)
    assert values(found) == [1, 10, 1, 130, 50, 100]
    assert found is not None
    assert found.saved == Worth(40, 0, 40)  # half of the 80 that nothing hides
    assert found.values == {"exposed": 80, "back": 20, "back_ns": 10}
    assert found.spent_ns == 80
    assert seen(*usual, wall_ns=6500) is not None  # a fiftieth
    assert seen(*usual, wall_ns=6550) is None
    little = seen((0, 100, "in"), (60, 130, "work"))
    assert little is not None
    assert little.saved == Worth(15, 0, 15)  # no more work to hide behind
    one, two = (union(np.array([a]), np.array([b])) for a, b in ((0, 10), (7, 30)))
    assert transfers._common(one, two) == 3


def test_copies_that_bring_weights_and_take_them_back() -> None:
    """Of the size of one that forward brings; in a step from 10 to 100."""
    copy, run, size = DeviceKind.MEMCPY, DeviceKind.KERNEL, 2_000_000
    rows: list[tuple[DeviceKind, str, int, Phase, int]] = [
        (copy, "Memcpy HtoD", size, "forward", 0),
        (copy, "Memcpy HtoD", size, "backward", 20),
        (copy, "Memcpy DtoH", size, "optimizer", 30),
        (copy, "Memcpy HtoD", size + 1, "backward", 40),
        (copy, "Memcpy HtoD", 999_999, "forward", 50),
        (run, "HtoD", size + 2, "forward", 60),
        (copy, "Memcpy DtoD", size, "forward", 70),
        (copy, "Memcpy HtoD", 1_000_000, "recompute", 95),
    ]
    kinds, names, sizes, phases, starts = zip(*rows, strict=True)
    start = np.array(starts, np.int64)
    work = SimpleNamespace(
        overlapping=lambda _: np.arange(8), rows=np.arange(8), start=start, end=start + 15,
        phase=np.array([PHASE[p] for p in phases]),
    )  # fmt: skip
    given = case(ledger=SimpleNamespace(window=SimpleNamespace(start=10, end=100)))
    device = SimpleNamespace(kind=np.array(kinds), name=np.arange(8), bytes=np.array(sizes))
    given.analysis.work, given.analysis.trace = work, SimpleNamespace(device=device, names=names)
    found = transfers._copies(given)
    assert found is not None
    flags = [np.flatnonzero(flag).tolist() for flag in (found.work, found.brought, found.taken)]
    assert flags == [[5], [0, 1, 7], [2]]
    assert (found.start.tolist()[::7], found.end.tolist()[::7]) == ([10, 95], [15, 100])
    usual = {"module": 0, "shape": (size // 2,), "dtype": "bfloat16"}
    weights = [SimpleNamespace(trainable=trains, **usual) for trains in (True, False)]
    given.recording = SimpleNamespace(parameters=weights)
    one = transfers._copies(given)
    assert one is not None
    assert np.flatnonzero(one.brought).tolist() == [0, 1]
    given.recording.parameters = weights[:1]
    assert transfers._copies(given) is None
    given.analysis.work = None
    assert transfers._copies(given) is None


def test_sizes_of_frozen_weights() -> None:
    rows = ((0, (2, 3), "float32", False), (0, (3,), "bfloat16", False), (1, (5,), "float32", True))
    parameters = [SimpleNamespace(module=m, shape=s, dtype=d, trainable=t) for m, s, d, t in rows]
    assert transfers._frozen_sizes(case(recording=SimpleNamespace(parameters=parameters))) == {24, 6, 30}
    assert transfers._frozen_sizes(case(recording=SimpleNamespace(parameters=[]))) is None


def test_devices_in_turn() -> None:
    """A twentieth of the step to take part, a tenth of the busier one's time at once; records of other steps aside."""

    def seen(*rows: tuple[int, int, int], wall_ns: int = 1000) -> Seen | None:
        index, start, end = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        given = case(median=500, scale=0.5, wall_ns=wall_ns)
        given.ledger = SimpleNamespace(window=SimpleNamespace(start=0, end=1000))
        given.analysis.others = {1: ()}
        given.analysis.trace = SimpleNamespace(device=Device(device=index, start=start, end=end))
        return host.naive_pipeline(given)

    aside = ((0, -500, -1), (1, 1000, 1900))
    found = seen((0, 0, 400), (1, 360, 460), *aside)
    assert values(found) == [2, 40, 400, 1000]
    assert found is not None
    assert found.saved == Worth(30, 0, 30)  # (460 - 400) / 2
    assert seen((0, 0, 400), (1, 359, 459), *aside) is None
    assert seen((0, 0, 400), (1, 400, 450), *aside) is None
    assert seen((0, 0, 400), (1, 400, 451), *aside) is not None
    assert seen((1, 0, 51), *aside) is None
    assert values(seen((0, 0, 400), (1, 380, 580), (2, 700, 760))) == [3, 20, 400, 1000]


class Device(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.start)


def test_messages_hold_their_sums() -> None:
    ones = np.ones(3, np.int64)
    found = Messages(ones, 2 * ones, 3 * ones, 1)
    assert (found.bytes, found.ns, found.exposed_ns) == (3, 6, 9)
