"""Collectives of a step: exposed and hidden time add up on a device and on a CPU, and gloo's two records are joined."""

from typing import Any

import numpy as np
import pytest
from builders import Document, comm, json_of, kernel, note, op, step, text_of, trace_of, us
from fleets import fleet
from msgspec.structs import replace
from reports import real, report_of

import loraprof
from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.ranks import breakdown
from loraprof.analysis.ranks.breakdown import breakdown_of
from loraprof.analysis.ranks.collectives import UNKNOWN, collectives_of, exposed_ns
from loraprof.analysis.ranks.gloo import ran
from loraprof.analysis.ranks.messages import KINDS
from loraprof.model.trace import NONE, Group, Shapes
from loraprof.store.kineto.read import read_stream, read_trace

MAIN, WORKER = 1, 9


def analysed(document: Document) -> Analysis:
    import io

    return analyse(read_stream(io.BytesIO(text_of(document)), "t.json"))


def at(event: Document, name: str, dims: list[Any], types: list[str], thread: int = MAIN) -> Document:
    """An event with the inputs Kineto records."""
    return event | {"name": name, "tid": thread, "args": {"Input Dims": dims, "Input type": types}}


def span(start: int, end: int, cat: str = "user_annotation") -> Document:
    return {"ph": "X", "cat": cat, "pid": 1, "ts": us(start), "dur": us(end - start)}


def gloo(*events: Document, ranks: list[int] | None = None) -> Document:
    """Two steps of 10,000 ns of a CPU trace, with an op at either end so that time between them can be waited for."""
    ops = [op("aten::mm", 0, 1000), op("aten::mm", 9000, 9900)]
    document = json_of([step(0, 0, 10_000), *ops, step(1, 10_000, 20_000)])
    document["traceEvents"] += events
    if ranks is not None:
        group = {"pg_name": "0", "pg_size": len(ranks), "ranks": ranks}
        document["distributedInfo"] = {"rank": 0, "world_size": len(ranks), "pg_config": [group]}
    return document


def test_a_wait_on_a_cpu_is_exposed_and_the_rest_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = at(span(1000, 1500, "cpu_op"), "c10d::_allgather_base_", [[400], [100]], ["float", "float"])
    ran = at(span(1200, 6000), "gloo:all_gather", [[100]], ["float"], WORKER)
    found = analysed(gloo(asked, ran, ranks=[0, 1, 2, 3]))
    calls = collectives_of(found, found.ledgers[0])
    assert [KINDS[k] for k in calls.kind] == ["all_gather"]
    assert calls.nbytes.tolist() == [1600]
    assert (calls.exposed.tolist(), calls.hidden.tolist()) == ([4500], [300])
    assert exposed_ns(found.steps[0], on_gpu=False) == 4500
    assert calls.groups[int(calls.group[0])].ranks == (0, 1, 2, 3)
    assert found.steps[0].ns(kind="busy", role="comm") == 500
    told = breakdown_of(0, "t", found, None)
    assert (told.steps[0].overlapped_comm_ns, told.steps[0].calls.start.tolist()) == (300, [1200])
    monkeypatch.setattr(breakdown, "MOST_COLLECTIVES", 1)
    assert [len(step.calls.kind) for step in breakdown_of(0, "t", found, None).steps] == [1]


def test_what_gloo_runs_as_an_all_reduce_is_what_was_asked_for() -> None:
    asked = at(span(1000, 1100, "cpu_op"), "c10d::_reduce_scatter_base_", [[50], [100]], ["c10::BFloat16", ""])
    ran = at(span(1200, 2000), "gloo:all_reduce", [[100]], ["c10::BFloat16"], WORKER)
    later = at(span(2100, 2200, "cpu_op"), "c10d::allreduce_", [[[60], [40]], []], ["TensorList", ""])
    second = at(span(2300, 3000), "gloo:all_reduce", [[100]], ["float"], WORKER)
    found = analysed(gloo(asked, ran, later, second))
    calls = collectives_of(found, found.ledgers[0])
    assert [KINDS[k] for k in calls.kind] == ["reduce_scatter", "all_reduce"]
    assert calls.nbytes.tolist() == [200, 400]


def test_a_range_that_no_op_asked_for() -> None:
    """Its name says what it is; the share of one rank is multiplied only where the group is known."""
    ran = at(span(1200, 2000), "gloo:all_gather", [[100]], ["float"], WORKER)
    found = analysed(gloo(ran, ranks=[0, 1]))
    assert collectives_of(found, found.ledgers[0]).nbytes.tolist() == [800]
    found = analysed(gloo(ran))
    calls = collectives_of(found, found.ledgers[0])
    assert (calls.nbytes.tolist(), calls.group.tolist()) == ([UNKNOWN], [UNKNOWN])


@pytest.mark.parametrize(
    ("name", "dims", "size"),
    [
        ("c10d::allgather_", [[], [[100]]], 1600),  # into a list of lists, which has no sizes: FSDP's first version
        ("c10d::reduce_scatter_", [[[100]], []], 1600),
        ("c10d::allreduce_", [[[100]], []], 400),
    ],
)
def test_of_a_list_of_lists_one_ranks_share_is_known(name: str, dims: list[Any], size: int) -> None:
    asked = at(span(1000, 1500, "cpu_op"), name, dims, ["", ""])
    ran = at(span(1200, 6000), "gloo:something", [[100]], ["float"], WORKER)
    found = analysed(gloo(asked, ran, ranks=[0, 1, 2, 3]))
    assert collectives_of(found, found.ledgers[0]).nbytes.tolist() == [size]


def test_a_collective_that_runs_into_the_next_step_counts_in_its_own() -> None:
    ran = at(span(8000, 12_000), "gloo:all_reduce", [[100]], ["float"], WORKER)
    found = analysed(gloo(ran))
    first, second = (collectives_of(found, ledger) for ledger in found.ledgers)
    assert (first.began.tolist(), second.began.tolist()) == ([True], [False])
    assert (first.exposed + first.hidden).tolist() == [2000]
    assert (second.exposed + second.hidden).tolist() == [2000]


def test_on_a_device_one_that_began_before_the_first_step_counts_there() -> None:
    found = analysed(json_of([step(0, 1000, 5000)], [comm(500, 2000, (10, 20)), comm(3000, 4000, (1100, 1200))]))
    window = found.ledgers[0].window
    assert window.first
    assert window.start > 500
    calls = collectives_of(found, found.ledgers[0])
    assert (calls.start.tolist(), calls.began.tolist()) == ([500, 3000], [True, True])


def test_on_a_device_one_that_begins_with_a_later_step_counts_there() -> None:
    device = [comm(1000, 2000, (10, 20)), comm(6000, 9000, (5010, 5020))]
    found = analysed(json_of([step(0, 0, 5000), step(1, 5000, 9000)], device))
    ledger = found.ledgers[1]
    for late in (-1, 0, 1):
        found.trace.device.start[1] = ledger.window.start + late
        assert collectives_of(found, ledger).began.tolist() == [late >= 0]


def test_on_a_device_exposed_times_add_up_to_the_partition() -> None:
    """Compute hides a part of the first; the second overlaps the first, which began earlier."""
    device = [
        kernel(100, 1000, (10, 20)),
        comm(500, 2000, (30, 40), stream=20),
        comm(1500, 3000, (50, 60), stream=21),
    ]
    found = analysed(json_of([step(0, 0, 4000)], device))
    calls = collectives_of(found, found.ledgers[0])
    assert (calls.exposed.tolist(), calls.hidden.tolist()) == ([1000, 1000], [500, 0])
    assert int(calls.exposed.sum()) == exposed_ns(found.steps[0], on_gpu=True) == 2000


def test_every_rank_of_a_fleet_adds_up() -> None:
    report = loraprof.diagnose(fleet(2))
    sent, reported = report.communication, report.step()
    assert sent is not None
    assert reported is not None
    assert sum(row.exposed_ns for row in sent.collectives) == sent.exposed_ns
    assert sent.exposed_ns == reported.ns(kind="busy", class_="comm")


def test_payloads_of_a_public_trace() -> None:
    found = analyse(read_trace(real("a100_resnet_ddp_train")))
    calls = [collectives_of(found, ledger) for ledger in found.ledgers]
    sizes = sorted({int(n) for one in calls for n in one.nbytes[one.of("all_reduce")]})
    assert sizes[0] == 2_049_000 * 4
    for one, reported in zip(calls, found.steps, strict=True):
        assert int(one.exposed.sum()) == reported.ns(kind="busy", class_="comm")
        assert all(one.groups[g].size == 2 for g in one.group[one.of("all_reduce")])


def test_a_step_without_collectives_has_no_communication() -> None:
    assert report_of(json_of([step(0, 0, 1000)], [kernel(100, 500, (10, 20))])).communication is None


@pytest.mark.parametrize("listed", [None, "text", [{"pg_name": "0"}], [{"pg_size": 2, "ranks": ["a", "b"]}]])
def test_odd_group_lists_are_read_as_far_as_they_go(listed: object) -> None:
    ran = at(span(1200, 2000), "gloo:all_reduce", [[100]], ["float"], WORKER)
    document = gloo(ran) | {"distributedInfo": {"pg_config": listed}}
    found = analysed(document)
    assert collectives_of(found, found.ledgers[0]).nbytes.tolist() == [400]
    assert all(group.ranks == () for group in found.trace.groups)


Row = tuple[str, int, tuple[Any, ...] | None, tuple[str, ...]]  # name, start, input sizes and types
FOUR, UNSIZED = Group("0", 4), Group("0", None)
ONE = ((100,),), ("float",)


@pytest.mark.parametrize(
    ("rows", "group", "found"),
    [
        ([("c10d::allreduce_", 10, *ONE), ("gloo:send", 10, *ONE)], None, [("all_reduce", 400)]),
        ([("c10d::allreduce_", 10, *ONE), ("gloo:broadcast", 9, *ONE)], None, [("broadcast", 400)]),
        (  # the earlier of the two that fit
            [
                ("c10d::_reduce_scatter_base_", 0, ((100,), (200,)), ("float", "float")),
                ("gloo:broadcast", 6, *ONE),
                ("gloo:send", 5, ((200,),), ("float",)),
            ],
            None,
            [("reduce_scatter", 800), ("broadcast", 400)],
        ),
        (  # of two at one time that of the first size
            [
                ("c10d::_reduce_scatter_base_", 0, ((100,), (200,)), ("float", "float")),
                ("gloo:send", 5, ((200,),), ("float",)),
                ("gloo:broadcast", 5, *ONE),
            ],
            None,
            [("reduce_scatter", 800), ("send_recv", 800)],
        ),
        (  # each takes one
            [
                ("c10d::broadcast_", 2, *ONE),
                ("c10d::allreduce_", 1, *ONE),
                ("gloo:send", 8, *ONE),
                ("gloo:send", 9, *ONE),
            ],
            None,
            [("all_reduce", 400), ("broadcast", 400)],
        ),
        ([("c10d::allgather_", 0, ((), ((100,),)), ("", "")), ("gloo:x", 1, *ONE)], FOUR, [("all_gather", 1600)]),
        ([("c10d::allgather_", 0, ((), ((100,),)), ("", "")), ("gloo:x", 1, *ONE)], UNSIZED, [("all_gather", None)]),
        ([("c10d::allgather_", 0, ((), ((100,),)), ("", "")), ("gloo:x", 1, *ONE)], None, [("all_gather", None)]),
        ([("c10d::allreduce_", 0, ((), (100,)), ("", "")), ("gloo:x", 1, *ONE)], FOUR, [("all_reduce", 400)]),
        ([("c10d::allreduce_", 0, ((), (100,)), ()), ("gloo:x", 1, ((100,),), ())], FOUR, [("all_reduce", None)]),
        ([("c10d::allreduce_", 0, *ONE), ("gloo:x", 1, ((100,),), ("", "", "float"))], None, [("all_reduce", 400)]),
        ([("gloo:all_reduce", 1, ((100,),), ("", "", "float"))], None, [("all_reduce", None)]),
        ([("gloo:all_reduce", 1, ((100,),), ("", "float"))], None, [("all_reduce", 400)]),
        ([("c10d::barrier", 0, (), ()), ("gloo:all_reduce", 1, None, ())], FOUR, [("barrier", None)]),
        ([("c10d::barrier", 0, ((), (), (100,)), ("float",)), ("gloo:send", 1, *ONE)], None, [("send_recv", 400)]),
        ([("gloo:all_reduce", 1, ((((10,), (20, 2)), ((5,),)), (9,)), ("float",))], None, [("all_reduce", 220)]),
        ([("gloo:all_gather", 1, *ONE)], FOUR, [("all_gather", 1600)]),
        ([("gloo:reduce_scatter", 1, *ONE)], FOUR, [("reduce_scatter", 400)]),
        ([("gloo:all_gather", 1, None, ())], FOUR, [("all_gather", None)]),
    ],
)
def test_ranges_of_gloo_and_who_asked_for_them(
    rows: list[Row], group: Group | None, found: list[tuple[str, int | None]]
) -> None:
    trace = trace_of([(op if row[0].startswith("c10d") else note)(*row[:2], row[1] + 1) for row in rows])
    known = {row[:2]: None if row[2] is None else Shapes(row[2], row[3]) for row in rows}
    host = trace.host
    given = [known[trace.names[name], start] for name, start in zip(host.name, host.start.tolist(), strict=True)]
    shapes = np.array([NONE if one is None else i for i, one in enumerate(given)])
    trace = replace(trace, host=replace(host, shapes=shapes), shapes=tuple(s or Shapes((), ()) for s in given))
    assert [(KINDS[one.kind], one.nbytes) for one in ran(trace, group)] == found
