"""Several ranks' traces in one file: told apart by who marks steps, and whose calls launched a record."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from builders import Document, Host, json_of, kernel, note, op, step, trace_of, write
from msgspec.structs import replace

import loraprof
from loraprof.analysis.ranks import merged
from loraprof.model.vocabulary import HostKind
from loraprof.store.kineto.read import read_trace


def rank(process: int, device: int, late: int = 0, correlation: int = 0, *, marked: bool = True) -> list[Document]:
    """Events of one process: a step of 1 ms with two kernels of ``100 + late`` us on its device."""
    host = [step(0, 0, 1_000_000) if marked else note("loader", 0, 1_000_000), op("aten::mm", 10_000, 90_000)]
    records = [
        kernel(at, at + 100_000 + late, launch=(at - 80_000, at - 75_000), device=device) for at in (100_000, 400_000)
    ]
    made = json_of(host, records)["traceEvents"]
    for event in made:
        if event["cat"] != "kernel":
            event["pid"] = process
        if "correlation" in event.get("args", {}):
            event["args"]["correlation"] += correlation
    return made


def joined(path: Path, *events: list[Document]) -> Path:
    document = json_of([], [kernel(0, 1, device=0), kernel(0, 1, device=1)])
    return write(path, {**document, "traceEvents": [event for part in events for event in part]})


def split(path: Path, *events: list[Document]) -> list[tuple[str, int | None, int | None, list[int], list[int]]]:
    """Per rank: process, number, number of ranks, devices of its records, and their times."""
    return [
        (name, t.rank, t.world_size, sorted(set(t.device.device.tolist())), (t.device.end - t.device.start).tolist())
        for name, t in merged.merged_ranks(read_trace(joined(path, *events)))
    ]


def test_ranks_on_devices_of_their_own(tmp_path: Path) -> None:
    """Their correlations are the same: the device that most of a rank's records are on is its own."""
    made = split(tmp_path / "t.json", rank(1, 0), rank(2, 1, late=50_000))
    assert made == [("1", 0, 2, [0], [100_000] * 2), ("2", 1, 2, [1], [150_000] * 2)]


def test_ranks_that_share_a_device_are_told_apart_by_their_calls(tmp_path: Path) -> None:
    made = split(tmp_path / "t.json", rank(1, 0), rank(2, 0, late=50_000, correlation=1000))
    assert made == [("1", 0, 2, [0], [100_000] * 2), ("2", 1, 2, [0], [150_000] * 2)]


def test_ranks_that_share_a_device_and_its_correlations(tmp_path: Path) -> None:
    """Both calls of a correlation came before both records: each has its own."""
    second = rank(2, 0, late=50_000)
    for event in second:
        event["ts"] += 20 if event["cat"] == "kernel" else 5  # us; on another stream of the device
        if event["cat"] == "kernel":
            event["tid"] = event["args"]["stream"] = 9
    made = split(tmp_path / "t.json", rank(1, 0), second)
    assert made == [("1", 0, 2, [0], [100_000] * 2), ("2", 1, 2, [0], [150_000] * 2)]


def test_a_process_without_steps_goes_with_the_rank_before_it(tmp_path: Path) -> None:
    loader = rank(3, 1, correlation=2000, marked=False)
    made = split(tmp_path / "t.json", rank(1, 0), rank(2, 1, correlation=1000), loader)
    assert [(name, number, count) for name, number, count, _, _ in made] == [("1", 0, 2), ("2", 1, 2)]
    assert [len(times) for *_, times in made] == [2, 4]


def test_processes_count_by_number_and_one_rank_is_none(tmp_path: Path) -> None:
    made = split(tmp_path / "t.json", rank(10, 1, correlation=1000), rank(9, 0))
    assert [(name, number, devices) for name, number, _, devices, _ in made] == [("9", 0, [0]), ("10", 1, [1])]
    assert split(tmp_path / "one.json", rank(1, 0), rank(2, 1, correlation=1000, marked=False)) == []


def test_the_report_of_such_a_file_is_of_the_slowest_rank(tmp_path: Path) -> None:
    report = loraprof.diagnose(joined(tmp_path / "t.json", rank(1, 0), rank(2, 1, late=50_000, correlation=1000)))
    assert report.rank_summary is not None
    assert (report.rank_summary.slowest, report.rank_summary.count) == (1, 2)
    step_of = report.step()
    assert step_of is not None
    assert step_of.ns(kind="busy") == 2 * 150_000


def without_time(events: list[Document]) -> list[Document]:
    """Their step lasts none."""
    return [{**e, "dur": 0} if e["name"].startswith("ProfilerStep") else e for e in events]


def test_a_rank_whose_step_lasts_no_time_is_left_out(tmp_path: Path) -> None:
    lasting, none = rank(1, 0), without_time(rank(2, 1, correlation=1000))
    third = rank(3, 1, late=50_000, correlation=2000)
    report = loraprof.diagnose(joined(tmp_path / "t.json", lasting, none, third))
    assert [row.rank for row in report.ranks or []] == [0, 2]
    assert any("its trace holds no step" in note for note in report.closure.notes)


def test_ranks_of_which_none_has_a_step_are_no_ranks(tmp_path: Path) -> None:
    events = without_time(rank(1, 0)), without_time(rank(2, 1, correlation=1000))
    assert loraprof.diagnose(joined(tmp_path / "t.json", *events)).ranks is None


def test_ranks_by_the_numbers_in_the_names_of_processes() -> None:
    """Those that are named go before those that are numbered; what is neither is 0."""
    names = ["12", "rank 3", "x", "Rank_1 of 9", "2", "rank10"]
    assert sorted(names, key=merged._number) == ["Rank_1 of 9", "rank 3", "rank10", "x", "2", "12"]
    trace: Any = SimpleNamespace(
        threads=[("7", "a"), ("2", "a"), ("1", "a"), ("5", "b"), ("4", "a"), ("9", "a")],
        host=SimpleNamespace(thread=np.array([0, 1, 2, 3, 4, 5, 0])),
    )
    assert merged._groups(trace, ["2", "5", "9"]).tolist() == [1, 0, 0, 1, 0, 2, 1]


def test_processes_that_step_or_else_those_that_optimize() -> None:
    rows = [note("Optimizer.step#SGD.step", 0, 5, 1), op("ProfilerStep#0", 0, 5, 2), note("ProfilerStep#1", 0, 5, 3)]
    rows += [note("Optimizer.step#SGD.step", 0, 5, 3), note("ProfilerStep#1", 0, 5, 4)]

    def stepping(*chosen: Host) -> list[str]:
        trace = trace_of(chosen)
        return merged._stepping(replace(trace, threads=tuple((thread, "t") for _, thread in trace.threads)))

    assert stepping(*rows) == ["3", "4"]
    assert stepping(*rows[:2], rows[3]) == ["1", "3"]
    assert stepping(rows[1]) == []


def test_whose_records_these_are() -> None:
    """Of the rank whose call of their number came last before them; a device's all go to the rank that most fit."""
    for seed in range(150):
        rng = random.Random(seed)
        count, calls, records = rng.randrange(2, 4), rng.randrange(1, 12), rng.randrange(1, 9)
        group, number, start = (rng.choices(range(n), k=calls) for n in (count, 4, 20))
        number = [n - (rng.random() < 0.1) for n in number]
        kind = rng.choices((HostKind.RUNTIME, HostKind.OP), (4, 1), k=calls)
        wanted, begin, device = (rng.choices(range(n), k=records) for n in (4, 20, 3))
        first = dict[tuple[int, int], int]()  # by rank and number: when the first such call began
        for i in range(calls):
            if kind[i] == HostKind.RUNTIME and number[i] >= 0:
                first.setdefault((group[i], number[i]), start[i])
        called = [[first.get((rank, wanted[r]), 99) for rank in range(count)] for r in range(records)]
        called = [[at if at < begin[r] else -1 for at in called[r]] for r in range(records)]
        owner = [row.index(max(row)) for row in called]
        devices = sorted(set(device))
        if len(devices) >= count:
            for place, index in enumerate(devices):
                here = [r for r in range(records) if device[r] == index]
                fits = [sum(called[r][rank] >= 0 for r in here) for rank in range(count)]
                best = [rank for rank in range(count) if fits[rank] == max(fits)]
                for r in here:
                    owner[r] = best[0 if len(best) == 1 else place % len(best)]
        trace: Any = SimpleNamespace(
            host=SimpleNamespace(kind=np.array(kind), correlation=np.array(number), start=np.array(start)),
            device=Records(correlation=np.array(wanted), start=np.array(begin), device=np.array(device)),
        )
        assert merged._owners(trace, np.array(group), count).tolist() == owner, seed


class Records(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.start)
