"""Many ranks together: a planted delay is found, ranks that do not belong are left out, and a page stays a page."""

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fleets import fleet, surveyed
from msgspec.structs import replace

import loraprof
from loraprof.analysis.ranks.breakdown import Calls, RankBreakdown, StepBreakdown
from loraprof.analysis.ranks.examine import LeftOut, examine, processes, sequential
from loraprof.analysis.ranks.summary import _spread, _step_spread
from loraprof.analysis.ranks.survey import survey
from loraprof.diagnosis import load
from loraprof.errors import InputError
from loraprof.model.recording import Recording
from loraprof.report.registry import render
from loraprof.store.recordings import load_source

LATE_NS = 3_000_000


def changed(place: Path, rank: int, **fields: object) -> None:
    """Another recording of one rank; fields of the environment go there."""
    path = place / f"rank{rank}.json"
    own = msgspec.json.decode(path.read_bytes(), type=Recording)
    around = {k: v for k, v in fields.items() if k in own.environment.__struct_fields__}
    environment = msgspec.structs.replace(own.environment, **around)
    rest = {k: v for k, v in fields.items() if k not in around}
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(own, environment=environment, **rest)))


@pytest.mark.parametrize("ranks", [2, 4, 9])
def test_the_late_rank_and_where_it_is_late(ranks: int) -> None:
    seen = surveyed(fleet(ranks))
    summary = seen.summary
    assert (summary.slowest, summary.even, summary.count, summary.missing) == (1, False, ranks, [])
    own = next(spread for spread in summary.spreads if spread.what == "own")
    assert (own.max_rank, own.max_ns - own.min_ns, own.median_ns) == (1, LATE_NS, own.min_ns)
    first = summary.differences[0]
    assert (first.kind, first.what, first.phase, first.ns - first.median_ns) == ("busy", "compute", "backward", LATE_NS)
    assert f"Rank 1 is the slowest of {ranks}" in summary.sentence
    backward = next(spread for spread in summary.phases if spread.what == "backward")
    assert backward.max_ns - backward.min_ns == LATE_NS
    for row in seen.rows:
        assert sum(row.phases_ns.values()) == row.wall_ns == row.busy_ns + row.idle_ns
        assert row.own_ns == row.wall_ns - row.exposed_comm_ns


def test_even_ranks_have_no_slow_one() -> None:
    summary = surveyed(fleet(4, slow=None)).summary
    assert summary.even
    assert summary.differences == []
    assert summary.sentence.startswith("The ranks are even")


def bare(number: int, wall_ns: int) -> RankBreakdown:
    none = np.zeros(0, np.int64)
    step = StepBreakdown("ProfilerStep#0", wall_ns, none, none, 0, Calls(none, none, none, none, none, none, 0))
    return RankBreakdown(number, f"rank{number}", "cpu", (), (step,))


def test_a_fast_rank_makes_the_others_neither_slow_nor_even() -> None:
    summary = survey([bare(0, 1_000_000), bare(1, 700_000), bare(2, 1_005_000)]).summary
    assert summary.even
    words = "own work is 1.00 ms at most, 1.00 ms by median, 700 µs at least (rank 1)"
    assert summary.sentence == f"No rank is slow: {words}."
    summary = survey([bare(0, 1_000_000), bare(1, 997_000), bare(2, 1_005_000)]).summary
    assert summary.sentence.startswith("The ranks are even: own work from 997 µs to ")


def test_a_lead_below_a_hundredth_of_the_step_is_none() -> None:
    seen = surveyed(fleet(4, slow_ns=10_000))
    lead_ns = seen.rows[1].own_ns - seen.rows[0].own_ns
    assert lead_ns == 10_000 < seen.rows[0].wall_ns / 100
    assert seen.summary.even


def test_the_report_is_the_slowest_ranks_at_the_common_step() -> None:
    place = fleet(4)
    report = loraprof.diagnose(place)
    assert report.rank_summary is not None
    assert report.reported_step == report.rank_summary.step
    row = next(row for row in report.ranks or [] if row.rank == 1)
    step = report.step()
    assert step is not None
    assert (row.wall_ns, row.exposed_comm_ns) == (step.wall_ns, step.ns(kind="busy", class_="comm"))
    assert "4 ranks; the report is rank 1's, the slowest" in report.closure.notes


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"launch": "xyz"}, "rank 2 left out: recorded by another run"),
        ({"world_size": 9}, "rank 2 left out: recorded by a run with another number of ranks"),
        ({"first_step": 25}, "rank 2 left out: its trace is of another step of the training"),
    ],
)
def test_a_rank_of_another_run_or_step_is_left_out(fields: dict[str, object], why: str) -> None:
    place = fleet(4)
    changed(place, 2, **fields)
    seen = surveyed(place)
    assert [row.rank for row in seen.rows] == [0, 1, 3]
    assert why in seen.notes
    assert seen.summary.missing == [2]


def test_a_rank_with_other_step_names_is_left_out() -> None:
    place = fleet(3)
    trace = place / "rank2.trace.json"
    trace.write_text(trace.read_text().replace("ProfilerStep#", "ProfilerStep#7"))
    seen = surveyed(place)
    assert [row.rank for row in seen.rows] == [0, 1]
    assert "rank 2 left out: its trace holds none of the steps of the others" in seen.notes


def test_a_step_that_the_script_did_not_finish_is_none() -> None:
    """One rank of a job that fell apart shows a longer one, another a shorter: neither says how long a step takes."""
    place = fleet(3, slow=None)
    assert len(loraprof.diagnose(place).steps) == 3
    for rank in range(3):
        changed(place, rank, whole_steps=2)
    report = loraprof.diagnose(place)
    assert [step.name for step in report.steps] == ["ProfilerStep#3", "ProfilerStep#4"]
    assert "the script ended within ProfilerStep#5: that step is left out" in report.closure.notes


def test_cut_traces_of_many_ranks_are_one_note() -> None:
    place = fleet(9)
    for rank in (2, 3, 4, 8):
        path = place / f"rank{rank}.trace.json"
        path.write_bytes(path.read_bytes()[: 1000 + 100 * rank])
    seen = surveyed(place)
    assert [row.rank for row in seen.rows] == [0, 1, 5, 6, 7]
    assert "ranks 2–4, 8 left out: the JSON is truncated" in seen.notes


def test_a_trace_under_another_ranks_name_is_left_out() -> None:
    place = fleet(3)
    (place / "rank2.trace.json").write_bytes((place / "rank0.trace.json").read_bytes())
    seen = surveyed(place)
    assert [row.rank for row in seen.rows] == [0, 1]
    assert "rank 2 left out: rank2.trace.json: it is the trace of rank 0" in seen.notes


def test_foreign_traces_are_of_the_rank_that_they_name(tmp_path: Path) -> None:
    """Files are often named after the rank on their machine; a job of one rank only knows itself as rank 0."""
    place = fleet(2)
    for rank in (0, 1):
        (tmp_path / f"node{rank}_rank0.json").write_bytes((place / f"rank{rank}.trace.json").read_bytes())
    assert [row.rank for row in surveyed(tmp_path).rows] == [0, 1]
    (tmp_path / "node1_rank0.json").rename(tmp_path / "rank3.json")
    assert [row.rank for row in surveyed(tmp_path).rows] == [0, 1]
    for path in tmp_path.iterdir():
        path.write_text(path.read_text().replace('"world_size":2', '"world_size":1').replace('"rank":1', '"rank":0'))
    (tmp_path / "node0_rank0.json").rename(tmp_path / "rank2.json")
    assert [row.rank for row in surveyed(tmp_path).rows] == [2, 3]


def test_a_damaged_recording_of_one_rank_is_named_as_such() -> None:
    place = fleet(3)
    own = place / "rank2.json"
    own.write_bytes(own.read_bytes()[:100])
    seen = surveyed(place)
    assert "rank 2 left out: rank2.json: Input data was truncated" in seen.notes


def test_one_rank_that_is_left_is_not_the_slowest_of_any() -> None:
    place = fleet(2)
    (place / "rank1.trace.json").write_bytes(b"")
    assert "the report is rank 0's, the only one that can be read" in surveyed(place).notes


def test_a_missing_trace_is_named() -> None:
    place = fleet(4, only=(0, 1, 3))
    report = loraprof.diagnose(place)
    assert report.rank_summary is not None
    assert report.rank_summary.missing == [2]
    assert "no trace here of rank 2" in report.closure.notes


def test_a_rank_without_a_recording_of_its_own_keeps_the_model_not_the_times() -> None:
    place = fleet(2)
    (place / "rank1.json").unlink()
    report = loraprof.diagnose(place)
    assert report.source.ranks == 2
    assert report.timing.unprofiled is None
    assert report.adapter is not None
    assert any("rank 1 has no recording of its own" in note for note in report.closure.notes)


def test_the_leaders_calibration_serves_the_slowest_rank() -> None:
    place = fleet(2)
    shared = msgspec.json.decode((place / "recording.json").read_bytes(), type=Recording)
    for rank in (0, 1):
        changed(place, rank, calibration=None)
    report = loraprof.diagnose(place)
    assert report.ceilings is not None
    assert shared.calibration is not None
    assert report.ceilings.basis == loraprof.diagnose(fleet(2)).ceilings.basis  # type: ignore[union-attr]
    other = msgspec.structs.replace(shared, device=msgspec.structs.replace(shared.device, name="Another GPU"))
    (place / "recording.json").write_bytes(msgspec.json.encode(other))
    notes = loraprof.diagnose(place).closure.notes
    assert "rank 0 was calibrated, whose device is another: Another GPU" in notes


def test_no_rank_that_can_be_read() -> None:
    place = fleet(2)
    for rank in (0, 1):
        (place / f"rank{rank}.trace.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"fleet\.loraprof: ranks 0, 1 left out: .*traceEvents"):
        loraprof.diagnose(place)


def test_foreign_traces_of_many_ranks() -> None:
    """A folder as torch's tensorboard_trace_handler fills it; ranks from the traces themselves."""
    place = fleet(3)
    folder = place.parent / "tb"
    folder.mkdir()
    for rank, host in ((0, "a_12"), (1, "c_99"), (2, "b_7")):
        text = gzip.compress((place / f"rank{rank}.trace.json").read_bytes(), 1)
        (folder / f"{host}.1690000000.pt.trace.json.gz").write_bytes(text)
    report = loraprof.diagnose(folder)
    assert (report.source.kind, report.source.ranks) == ("trace", 3)
    assert report.rank_summary is not None
    assert (report.rank_summary.slowest, report.rank_summary.world) == (1, 3)
    (folder / "again.pt.trace.json.gz").write_bytes((folder / "a_12.1690000000.pt.trace.json.gz").read_bytes())
    with pytest.raises(InputError, match="say that they are of rank 0"):
        loraprof.diagnose(folder)


def test_processes_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    place = fleet(5)
    monkeypatch.setattr("loraprof.analysis.ranks.examine.WORTH_BYTES", 0)
    monkeypatch.setattr("loraprof.analysis.ranks.examine.workers", lambda ranks, largest: 2)
    apart = loraprof.diagnose(place, processes)
    assert render(apart, "json") == render(loraprof.diagnose(place, sequential), "json")


def test_a_thousand_ranks_are_one_page() -> None:
    """The page of 1,024 ranks has the lines of that of 4; the breakdowns of 4 ranks stand in for all."""
    place = fleet(4)
    report = loraprof.diagnose(place)
    found = [examine(file) for file in load_source(place).ranks]
    assert not any(isinstance(one, LeftOut) for one in found)
    many = survey([replace(found[1 if rank == 700 else 0], rank=rank) for rank in range(1024)])
    large = msgspec.structs.replace(
        report, ranks=many.rows, rank_summary=many.summary, source=msgspec.structs.replace(report.source, ranks=1024)
    )
    assert many.summary.slowest == 700
    for form in ("terminal", "markdown"):
        assert render(large, form).count(b"\n") <= render(report, form).count(b"\n") + 2  # "1,024" may wrap a line
    assert len(render(large, "html")) < 1.2 * len(render(report, "html"))  # every rank has its cell in the heat map


@pytest.mark.parametrize(("count", "p90"), [(1, 1), (2, 2), (9, 9), (10, 9), (11, 10), (20, 18), (21, 19)])
def test_nine_tenths_of_the_ranks_lie_at_or_below_the_ninetieth_percentile(count: int, p90: int) -> None:
    """The nearest rank: the least of the values that 90 % of them do not exceed."""
    values = [*range(count, 0, -1)]
    seen = _spread("own", [100 + value for value in values], values)
    assert seen.p90_ns == p90 == min(v for v in values if sum(w <= v for w in values) >= 0.9 * count)
    assert (seen.min_ns, seen.max_ns, seen.min_rank, seen.max_rank) == (1, count, 101, 100 + count)
    assert seen.median_ns == sorted(values)[(count - 1) // 2]


def test_a_breakdown_knows_its_rank() -> None:
    place = fleet(2, machines=lambda rank: f"node{rank}")
    one = [rank for rank in map(examine, load_source(place).ranks) if isinstance(rank, RankBreakdown)]
    assert [(b.rank, b.device, b.world, b.machine, b.launch, b.first_step) for b in one] == [
        (0, "cuda", 2, "node0", "abc", 17),
        (1, "cuda", 2, "node1", "abc", 17),
    ]
    for breakdown in one:
        for step in breakdown.steps:
            assert step.ns.sum() == step.wall_ns


def test_steps_of_a_rank_spread_by_the_median_over_ranks() -> None:
    def view(*own: list[int]) -> Any:
        ranks = [SimpleNamespace(step=lambda name, ns=ns: SimpleNamespace(own_ns=ns[name])) for ns in own]
        return SimpleNamespace(names=range(len(own[0])), found=ranks)

    assert _step_spread(view([5, 9], [5, 6], [5, 20])) == 4
    assert _step_spread(view([5], [6])) is None


def test_two_traces_are_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "surveyed", lambda source, run: (source.traces, run))
    monkeypatch.setattr(load, "ranks_diagnosis", lambda source, seen: seen)
    source: Any = SimpleNamespace(traces=("a", "b"))
    assert load._diagnosed(source, sequential) == (("a", "b"), sequential)  # type: ignore[comparison-overlap]
