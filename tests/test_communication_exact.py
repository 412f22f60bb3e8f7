"""What ranks exchange, against plain loops: rates of collectives, bytes of a model, who came last, clocks."""

import random
from typing import Any

import numpy as np
import pytest
from ledgers import column
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.ranks import clocks as room
from loraprof.analysis.ranks.arrivals import arrivals, transfers
from loraprof.analysis.ranks.breakdown import (
    Members,
)
from loraprof.analysis.ranks.clocks import Clocks
from loraprof.analysis.ranks.collectives import Collectives
from loraprof.analysis.ranks.communication import (
    ModelBytes,
    Wire,
    communication,
    model_bytes,
    strategy_of,
    wire_of,
)
from loraprof.analysis.ranks.matching import Matched
from loraprof.analysis.ranks.messages import KIND, KINDS, bus_factor
from loraprof.analysis.ranks.summary import middle
from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo, Recording
from loraprof.model.trace import NONE, Group

GROUPS = (Group("a", 4), Group("b", None), Group("c", 1))


def collectives(rng: random.Random) -> Collectives:
    count = rng.randrange(1, 9)
    start = sorted(rng.choices(range(100), k=count))
    return Collectives(
        kind=column(rng.choices((KIND["all_reduce"], KIND["all_gather"], KIND["broadcast"]), k=count)),
        start=column(start),
        end=column([s + rng.randrange(9) for s in start]),
        exposed=column(rng.choices(range(9), k=count)),
        hidden=column(rng.choices(range(9), k=count)),
        nbytes=column(rng.choices((NONE, 0, 5, 70, (1 << 20), (1 << 20) + 1), (1, 2, 9, 9, 9, 9), k=count)),
        group=column(rng.choices((-1, 0, 0, 0, 1, 2), k=count)),
        sequence=column([NONE] * count),
        began=np.array([rng.random() < 0.8 for _ in range(count)], np.bool_),
        groups=GROUPS,
    )


def times(found: Collectives, at: list[int], transfer: list[int] | None) -> tuple[list[int], str]:
    place = [sum(found.began[: i + 1]) - 1 for i in at]
    if (
        transfer is not None
        and place
        and all(p < len(transfer) for p in place)
        and all(transfer[p] >= 0 for p in place)
    ):
        return [transfer[p] for p in place], "fastest rank"
    return [int(found.end[i] - found.start[i]) for i in at], "this rank"


def test_rows_of_collectives_and_their_rates() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        found = collectives(rng)
        transfer = rng.choices((-1, 1, 2, 3), (1, 8, 8, 8), k=rng.randrange(9)) if rng.random() < 0.5 else None
        table = communication(found, None if transfer is None else column(transfer), None, 17)
        assert table is not None
        assert (table.exposed_ns, table.overlapped_ns) == (17, int(found.hidden.sum()))
        rows = {
            (KINDS[k], GROUPS[g] if g >= 0 else None)
            for k, g in zip(found.kind.tolist(), found.group.tolist(), strict=True)
        }
        assert len(table.collectives) == len(rows)
        for row in table.collectives:
            at = [
                i
                for i in range(len(found))
                if KINDS[found.kind[i]] == row.name
                and (GROUPS[found.group[i]].name if found.group[i] >= 0 else None) == row.group
            ]
            began = [i for i in at if found.began[i]]
            sizes = sorted(int(found.nbytes[i]) for i in began)
            spent, basis = times(found, began, transfer)
            ranks = next((g.size for g in GROUPS if g.name == row.group), None)
            known = all(size >= 0 for size in sizes)
            moved, took = sum(sizes), sum(spent)
            rate = moved / took * 1e9 if known and moved and took else None
            assert (row.count, row.group_size, row.basis, row.transfer_ns) == (len(began), ranks, basis, sum(spent)), (
                seed
            )
            assert row.bytes == (sum(sizes) if known else None)
            assert row.median_bytes == (middle(sizes) if known and sizes else None)
            assert row.exposed_ns == sum(int(found.exposed[i]) for i in at)
            assert row.overlapped_ns == sum(int(found.hidden[i]) for i in at)
            assert row.algorithm_bytes_per_s == rate
            bus = rate * bus_factor(row.name, ranks) if rate is not None and ranks and ranks > 1 else None
            assert row.bus_bytes_per_s == bus
        order = [(-r.exposed_ns - r.overlapped_ns, r.name, r.group or "") for r in table.collectives]
        assert order == sorted(order)
        for kind, bytes_ in (("all_gather", table.gathered_bytes), ("all_reduce", table.reduced_bytes)):
            sizes = [int(found.nbytes[i]) for i in range(len(found)) if found.began[i] and KINDS[found.kind[i]] == kind]
            assert bytes_ == (sum(sizes) if all(size >= 0 for size in sizes) else None)
        large = [
            i for i in range(len(found))
            if found.began[i] and found.nbytes[i] >= (1 << 20) and found.group[i] == 0  # the one of several ranks
        ]  # fmt: skip
        spent, basis = times(found, large, transfer)
        sent = sum(int(found.nbytes[i]) * bus_factor(KINDS[found.kind[i]], 4) for i in large)
        wire = wire_of(found, None if transfer is None else column(transfer))
        assert wire == (Wire(pytest.approx(sent / sum(spent) * 1e9), 4, basis) if sum(spent) else None), seed  # type: ignore[arg-type]
    assert communication(replace(collectives(random.Random(0)), kind=column([])), None, None, 0) is None


def test_rates_without_groups() -> None:
    found = replace(collectives(random.Random(1)), groups=())
    assert wire_of(replace(found, group=found.group * 0 - 1), None) is None


def parameter(i: int, shape: tuple[int, ...], trainable: bool, **more: Any) -> ParameterInfo:
    known: dict[str, Any] = {"dtype": "float32", "device": "cuda", "module": 0}
    return ParameterInfo(id=i, name="w", shape=shape, trainable=trainable, **(known | more))


SITE = AdapterSite(path="a", kind="lora", rank=3, in_features=5, out_features=7, dtype="bfloat16", base_dtype="float32")


PARAMETERS = [
    parameter(0, (7, 5), False), parameter(1, (3, 5), True, dtype="bfloat16"),
    parameter(2, (7,), True, part="elementwise"),
    parameter(3, (2, 2), False, module=1), parameter(4, (2, 2), True, module=2),
]  # fmt: skip


MODULES = [
    ModuleInfo(id=0, path="a", cls="Linear"), ModuleInfo(id=1, path="head.original_module", cls="Linear"),
    ModuleInfo(id=2, path="head.modules_to_save", cls="Linear"),
]  # fmt: skip


def made(**changes: Any) -> Recording:
    return replace(recording(), **({"parameters": PARAMETERS, "modules": MODULES, "sites": [SITE]} | changes))


def test_bytes_of_a_model() -> None:
    found = model_bytes(made(), 4)
    assert found == ModelBytes(
        adapter=3 * 12 * 2 + 28, trained=30 + 28 + 16, frozen=140 + 16, replaced=16, floating=True
    )
    assert found.base == 74 + 156 - 16 - 100
    shards = made(modules=[*MODULES, ModuleInfo(id=3, path="x", cls="FullyShardedDataParallel")])
    assert model_bytes(shards, 4).frozen == 4 * 156
    assert model_bytes(shards, None).frozen == 156
    quantized = model_bytes(made(parameters=[*PARAMETERS, parameter(5, (9,), False, dtype="uint8")]), 4)
    assert (quantized.floating, quantized.base, quantized.frozen) == (False, None, 156 + 9)
    assert (
        model_bytes(made(sites=[replace(SITE, rank=None), replace(SITE, dtype="strange")]), 1).adapter
        == 3 * 12 * 4 + 28
    )


@pytest.mark.parametrize(
    ("gathered", "reduced", "micro", "strategy"),
    [
        (78, None, 1, "sharded"), (77, None, 1, None), (None, 37, 1, "replicated"), (None, 36, 1, None),
        (None, 111, 1, "replicated"), (None, 112, 1, None), (None, 114, 1, None), (None, 115, 1, "replicated"),
        (None, 345, 1, "replicated"), (None, 346, 1, None), (None, 346, 5, "replicated"), (0, 0, 1, None),
        (None, 111, None, "replicated"),
        (None, 555, 5, "replicated"), (None, 556, 5, None),
    ],
)  # fmt: skip
def test_how_a_model_lies_on_its_ranks(
    gathered: int | None, reduced: int | None, micro: int | None, strategy: str | None
) -> None:
    """74 bytes are trained and 156 frozen: half of the latter, or one to one and a half gradients either way."""
    one = made()
    one = replace(one, workload=replace(one.workload, micro_batches=micro))
    assert strategy_of(one, model_bytes(one, 1), gathered, reduced) == strategy
    assert strategy_of(None, model_bytes(one, 1), gathered, reduced) is None
    assert strategy_of(one, None, gathered, reduced) is None
    split = replace(one, parameters=[replace(PARAMETERS[0], local_shape=(3, 5)), PARAMETERS[1]])
    assert strategy_of(split, model_bytes(one, 1), 1, None) == "sharded"
    whole = replace(one, parameters=[replace(PARAMETERS[0], local_shape=(7, 5))])
    assert strategy_of(whole, model_bytes(one, 1), 1, None) is None


@pytest.mark.parametrize(
    ("reduced", "micro", "full"), [(74, 5, 114), (148, 5, 228), (180, 5, 228), (300, 2, 228), (74, None, 114)]
)
def test_what_full_fine_tuning_would_reduce(reduced: int, micro: int | None, full: int) -> None:
    """As often per step as this one does."""
    base = collectives(random.Random(0))
    one = column([KIND["all_reduce"]])
    found = Collectives(
        one, one * 0, one * 0 + 5, one, one, column([reduced]), one * 0, one, np.array([True]), base.groups
    )
    recorded = made()
    recorded = replace(recorded, workload=replace(recorded.workload, micro_batches=micro))
    table = communication(found, None, recorded, 0)
    assert table is not None
    assert (table.full_reduced_bytes, table.saved_bytes) == (full, max(full - reduced, 0))


def matched(rng: random.Random, members: list[int], count: int) -> Matched:
    start = np.array([[rng.randrange(10**6) for _ in range(count)] for _ in members], np.int64)
    end = start + np.array([[rng.randrange(10**5) for _ in range(count)] for _ in members], np.int64)
    waited = np.array([[rng.randrange(10**5) for _ in range(count)] for _ in members], np.int64)
    row = np.array([rng.sample(range(9), count) for _ in members], np.int64)
    step = column(sorted(rng.choices(range(2), k=count)))
    return Matched(Members("g", len(members), "", True), column(members), step, row, start, end, waited, ())


def test_who_comes_last_and_how_long_a_transfer_takes() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        groups = [matched(rng, sorted(rng.sample(range(5), rng.randint(2, 4))), rng.randint(1, 6)) for _ in range(2)]
        offset = [rng.randrange(10**5) for _ in range(5)]
        clocks = Clocks(column(offset), np.ones(5, np.bool_), 20_000, 5)
        last, of, late = [0] * 5, [0] * 5, [0] * 5
        for m in groups:
            for j in range(len(m.step)):
                came = {r: int(m.start[i, j] - m.waited[i, j]) - offset[r] for i, r in enumerate(m.members.tolist())}
                order = sorted(came, key=lambda r: (came[r], r))
                for r in came:
                    of[r] += 1
                if came[order[-1]] - came[order[-2]] > 20_000:
                    last[order[-1]] += 1
                    late[order[-1]] += came[order[-1]] - sorted(came.values())[(len(came) - 1) // 2]
        found = arrivals(5, groups, clocks)
        assert found is not None
        assert (found.last.tolist(), found.of.tolist(), found.late_ns.tolist()) == (last, of, late), seed
        rank, m = rng.randrange(5), groups[0]
        expected = [-1] * 9
        for m in groups:
            for i, r in enumerate(m.members.tolist()):
                for j in range(len(m.step)):
                    if r == rank and m.step[j] == 1:
                        expected[int(m.row[i, j])] = min(
                            int(e - s) for e, s in zip(m.end[:, j], m.start[:, j], strict=True)
                        )
        assert transfers(rank, 9, 1, groups).tolist() == expected, seed
    assert arrivals(5, [], Clocks(column([0] * 5), np.ones(5, np.bool_), 1_000_000 + 1, 5)) is None


@pytest.mark.parametrize(
    ("residual", "aligned", "one", "usable", "tolerance"),
    [
        (1_000_000, True, False, True, 1_000_000), (1_000_000 + 1, True, False, False, 1_000_000 + 1),
        (1_000_000 + 1, True, True, True, 10_000), (None, True, True, False, 10_000),
        (5, False, True, False, 10_000), (5, True, False, True, 10_000),
    ],
)  # fmt: skip
def test_when_times_of_ranks_may_be_compared(
    residual: int | None, aligned: bool, one: bool, usable: bool, tolerance: int
) -> None:
    clocks = Clocks(column([0, 0]), np.array([True, aligned]), residual, 3, one)
    assert (clocks.usable, clocks.tolerance_ns) == (usable, tolerance)


def test_deviations_and_their_spread() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        m = matched(rng, [0, 2, 3][: rng.randint(2, 3)], rng.randint(1, 8))
        offset = column([rng.randrange(1000) for _ in range(4)])
        ends = [
            [int(e) - int(offset[r]) for e in row] for row, r in zip(m.end.tolist(), m.members.tolist(), strict=True)
        ]
        common = [middle([row[j] for row in ends]) for j in range(len(m.step))]
        truth = [[e - c for e, c in zip(row, common, strict=True)] for row in ends]
        deviation = room._deviation(m, offset)
        assert deviation.tolist() == truth
        spread = []
        for row in truth:
            n, size = len(row), [abs(v) for v in row]
            halves = abs(middle(row[: n // 2]) - middle(row[n // 2 :])) if n > 1 else 0
            spread.append(max(size) if n < 4 else max(middle(size), halves))
        assert room._spread(deviation).tolist() == spread, seed


def test_a_clock_is_aligned_on_one_that_is() -> None:
    one = matched(random.Random(0), [1, 2], 3)
    m = replace(one, end=np.array([[10, 20, 30], [110, 125, 130]]))
    offset, aligned = column([0, 7, 0, 0]), np.array([True, True, False, False])
    assert room._reach(m, offset, aligned)
    assert (offset.tolist(), aligned.tolist()) == ([0, 7, 107, 0], [True, True, True, False])
    assert not room._reach(m, offset, aligned)
    assert not room._reach(replace(m, members=column([3, 4])), column([0] * 5), np.zeros(5, np.bool_))
