import msgspec
import pytest
from msgspec.structs import replace
from recordings import recording
from sample_comparison import comparison
from sample_report import bare_report, report

from loraprof.diagnosis.build import CROWDED, _timing
from loraprof.model.compare import ArmResult, Bar, Waterfall
from loraprof.model.recording import Timing
from loraprof.model.report import Interval, Unprofiled
from loraprof.report.document import Facts, Proposals, Table
from loraprof.report.terminal.render import to_text
from loraprof.report.views import compare as view_compare
from loraprof.report.views.adapter import saved_rows
from loraprof.report.views.answer import lowered, sure
from loraprof.report.views.as_it_runs import as_it_runs, as_profiled
from loraprof.report.views.report import partition_bar, view
from loraprof.report.views.tables import (
    idle_causes,
    kernel_table,
    phase_roles,
    traffic_sentence,
    traffic_table,
)


def test_the_bar_holds_the_whole_step() -> None:
    step = report().steps[1]
    assert sum(s.ns for s in partition_bar(step)) == step.wall_ns
    adapter = next(s for s in partition_bar(step) if s.tone == "adapter")
    assert adapter.ns == 80_663_456


def test_the_phase_table_adds_up_both_ways() -> None:
    step = report().steps[1]
    table = phase_roles(step)
    assert [c.title for c in table.columns[1:]] == [
        *("forward", "backward", "optimizer", "other"),
        *("idle before", "total", "% of step"),
    ]
    totals = [row[-2].value for row in table.rows]
    assert sum(v or 0 for v in totals) == step.wall_ns == table.footer[0][-2].value
    for row in (*table.rows, table.footer[0]):
        assert sum(c.value or 0 for c in row[1:-2]) == row[-2].value


def test_the_idle_table_holds_all_idle_time() -> None:
    step = report().steps[1]
    table = idle_causes(step, cpu=False)
    assert sum(row[2].value or 0 for row in table.rows) == step.ns(kind="idle") == table.footer[0][2].value
    assert table.rows[0][0].text == "python"


def test_kernels_of_many_modules_are_one_row_and_the_rest_is_summed() -> None:
    kernels = [k for i in range(3) for k in (msgspec.structs.replace(k, module=f"m{i}") for k in report().kernels)]
    table = kernel_table(msgspec.structs.replace(report(), kernels=kernels), limit=5)
    assert [row[3].value for row in table.rows[:2]] == [672, 672]
    assert table.footer[0][0].text == "3 more"
    shown = sum(row[4].value or 0 for row in (*table.rows, *table.footer))
    assert shown == sum(k.total_ns for k in kernels)


def test_a_roof_is_unknown_unless_every_part_has_one() -> None:
    first = report().kernels[0]
    parts = [first, msgspec.structs.replace(first, module="other", roof_ns=None)]
    table = kernel_table(msgspec.structs.replace(report(), kernels=parts))
    assert table.rows[0][-1].text == "n/a"


def test_what_is_absent_says_so() -> None:
    sections = {s.id: s for s in view(bare_report()).sections}
    facts = next(b for b in sections["trust"].blocks if isinstance(b, Facts))
    lines = dict(facts.lines)
    assert lines["device"] == "NVML absent: nvml: a trace carries no clocks or power"
    assert lines["memory"] == "n/a"
    assert "traffic" not in sections
    assert sections["kernels"].title == "Top ops"


def test_the_account_adds_up_to_the_two_steps_and_the_frozen_one() -> None:
    given = report()
    rows, adapter, now = saved_rows(given), given.adapter, given.timing.unprofiled
    assert rows is not None
    assert adapter is not None
    assert now is not None
    assert adapter.predicted_full_ns is not None
    assert adapter.added_ns is not None
    assert adapter.predicted_frozen_ns == now.median_ns - adapter.added_ns
    assert adapter.predicted_full_ns - sum(ns for _, ns in rows) + adapter.added_ns == now.median_ns
    assert "communication" not in dict(rows)  # unknown is no zero


def test_what_the_adapters_add_is_the_sum_of_its_rows() -> None:
    given = as_it_runs(report())
    section = next(s for s in view(report()).sections if s.id == "adapter")
    table = next(b for b in section.blocks if isinstance(b, Table))
    assert given.adapter is not None
    assert sum(row[3].value or 0 for row in table.rows) == table.footer[0][3].value == given.adapter.added_ns


def test_without_a_predicted_full_step_there_is_no_account() -> None:
    given = report()
    assert given.adapter is not None
    without = replace(given, adapter=replace(given.adapter, predicted_full_ns=None))
    assert next(s.id for s in view(without).sections) == "time"
    assert [s.id for s in view(given).sections][:2] == ["account", "time"]


def test_the_page_is_of_the_step_without_the_profiler() -> None:
    given = report()
    shown, step, plain = as_it_runs(given), given.step(), given.unprofiled
    assert step is not None
    assert plain is not None
    moved = shown.step()
    assert moved is not None
    assert (moved.wall_ns, moved.partition) == (plain.wall_ns, plain.partition)
    assert as_it_runs(as_profiled(given)).step() == step
    assert "without the profiler" in next(s.title for s in view(given).sections if s.id == "time")
    other = view(as_profiled(given))
    assert "under the profiler" in next(s.title for s in other.sections if s.id == "time")
    assert other.headline.startswith("Shares are of the step under the profiler, which takes")


def test_kernels_and_modules_are_scaled_to_the_partition_by_role() -> None:
    """A CPU's ops take less without the profiler: half, here."""
    given = report()
    step, plain = given.step(), given.unprofiled
    assert step is not None
    assert plain is not None
    rows = [replace(p, ns=2 * p.ns if p.kind == "busy" else p.ns) for p in plain.partition]
    slow = replace(step, partition=rows, wall_ns=sum(p.ns for p in rows))
    twice = replace(given, steps=[slow if s.name == step.name else s for s in given.steps])
    shown = as_it_runs(twice)
    assert [k.total_ns for k in shown.kernels] == [round(k.total_ns / 2) for k in twice.kernels]
    reached, before = ([k.roof_ns / k.total_ns for k in r.kernels if k.roof_ns] for r in (shown, twice))
    assert reached == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize(
    ("full_ms", "low", "high", "said"),
    [
        (100, 95, 105, "LoRA is 4.12x slower than full fine-tuning here: 412 ms against 100 ms [95, 105] predicted."),
        (824, 700, 950, "LoRA is 2.00x faster than full fine-tuning here: 412 ms against 824 ms [700, 950] predicted."),
        (412, 300, 500, "LoRA is about as fast as full fine-tuning here, neither is established: 412 ms against"),
        (412, 0, 900, "Whether LoRA is faster than full fine-tuning here is not known: 412 ms against 412 ms [0, 900]"),
        (100, 50, 300, "LoRA is slower than full fine-tuning here, by how much is not known: 412 ms against 100 ms"),
        (2000, 500, 4000, "LoRA is faster than full fine-tuning here, by how much is not known: 412 ms against"),
    ],
)
def test_the_answer_comes_first(full_ms: int, low: int, high: int, said: str) -> None:
    given = report()
    assert given.adapter is not None
    interval = Interval(low=low * 10**6, high=high * 10**6)
    adapter = replace(given.adapter, predicted_full_ns=full_ms * 10**6, predicted_full_interval=interval)
    verdict = replace(given.verdict, basis="predicted", speedup_vs_full=full_ms / 412 if low else None)
    now = Unprofiled(median_ns=412 * 10**6, low_ns=411 * 10**6, high_ns=413 * 10**6, steps=20)
    timing = replace(given.timing, unprofiled=now)
    assert view(replace(given, adapter=adapter, verdict=verdict, timing=timing)).headline.startswith(said)


def test_a_title_within_a_sentence() -> None:
    titles = {"Too many target modules": "too many", "LoRA is the wrong lever": "LoRA is", "GC ran": "GC ran"}
    assert all(lowered(title).startswith(start) for title, start in titles.items())
    assert lowered("fp32 adapters") == "fp32 adapters"


def test_changes_that_keep_the_training_come_first_and_numbers_run_on() -> None:
    section = next(s for s in view(report()).sections if s.id == "do")
    block = section.blocks[0]
    assert isinstance(block, Proposals)
    items = [item for _, items in block.groups for item in items]
    assert [item.number for item in items] == list(range(1, len(items) + 1))
    assert len(items) <= 4
    assert block.groups[0][0] == "Do this, same training; gains overlap and do not add up"


def test_the_waterfall_adds_up_when_small_bars_are_summed() -> None:
    empty = {"phase": None, "role": None, "cause": None}
    bars = [Bar(key=f"b{i}", ns=i, count_ns=1, duration_ns=i - 1, **empty) for i in range(1, 31)]
    data = Waterfall(from_="a", to="b", from_ns=1000, to_ns=1000 + 465, bars=bars)
    changes = view_compare.waterfall(data, limit=10).changes
    assert [c.label for c in changes[:2]] == ["a", "b30"]
    assert changes[-2].label == "20 smaller bars"
    assert sum(c.ns for c in changes[1:-1]) == 465
    assert changes[-1].ns == 1465


def test_profiler_and_residual_come_last() -> None:
    data = comparison().waterfall
    assert data
    assert view_compare.waterfall(data).changes[-2].label == "not explained"


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("faster", "lora is faster than full: 1.319x [1.312, 1.324] its speed, measured."),
        (
            "undecided",
            "No difference between lora and full is established: lora takes 0.7583x [0.7551, 0.7622] the time of full.",
        ),
    ],
)
def test_headline(verdict: str, sentence: str) -> None:
    ratios = [msgspec.structs.replace(r, verdict=verdict) for r in comparison().ratios]
    assert view_compare.headline(msgspec.structs.replace(comparison(), ratios=ratios)) == sentence


def test_an_arm_out_of_memory_shows_the_peak_it_reached() -> None:
    oom = ArmResult(status="oom", reason="too big", peak_bytes=12 * 2**30)
    arms = {"dora": oom, "top:9": ArmResult(status="refused")}
    shown = to_text(msgspec.structs.replace(comparison(), arms=arms), 80).decode()
    assert "dora   oom, peak 12.0 GiB: too big" in shown
    assert "top:9  refused" in shown


def test_headline_without_a_pair() -> None:
    alone = msgspec.structs.replace(comparison(), ratios=[])
    assert view_compare.headline(alone) == "No two arms could be measured: there is nothing to compare."


def test_the_adapters_bytes_against_the_frozen_layers() -> None:
    """100 GB against 36 GB, 75 GB of them in elementwise ops."""
    known = report()
    step, rows = known.step(), known.traffic
    assert step is not None
    assert rows is not None
    said = traffic_sentence(rows, step)
    assert said is not None
    assert said.startswith("The adapter moves 2.8x the bytes of the frozen linear layers, 75 % of it in scale")
    assert traffic_sentence([t for t in rows if t.role != "adapter.up"], step) is None
    assert traffic_sentence([t for t in rows if t.role != "base.linear"], step) is None
    half = [msgspec.structs.replace(t, covered_ns=t.covered_ns // 2) for t in rows]
    assert traffic_sentence(half, step) is None


def test_the_traffic_of_all_roles_adds_up() -> None:
    rows = report().traffic
    assert rows is not None
    table = traffic_table(rows, limit=1)
    more, total = table.footer
    assert more[0].text == "3 more"
    assert float(table.rows[0][1].value or 0) + float(more[1].value or 0) == total[1].value == 136e9
    assert total[2].text == "n/a"  # one role's reuse is unknown
    assert total[3].text == "100.0 %"


@pytest.mark.parametrize(
    ("note", "roof_ns", "text"),
    [(None, 50, "50 %"), ("L2-assisted", 120, "L2-assisted"), ("impossible", 300, "300 %, impossible")],
)
def test_a_kernel_above_its_roof_says_why(note: str | None, roof_ns: int, text: str) -> None:
    one = msgspec.structs.replace(report().kernels[0], note=note, roof_ns=roof_ns, total_ns=100)
    table = kernel_table(msgspec.structs.replace(report(), kernels=[one]))
    assert table.rows[0][-1].text == text


def test_a_narrow_kernel_table_drops_the_bound_before_the_phase() -> None:
    """The phase is what tells two rows of one op and role apart."""
    drop = {column.title: column.drop for column in kernel_table(report()).columns}
    assert drop["bound"] > drop["phase"] > 0


def test_the_page_says_how_to_prove_it() -> None:
    found = replace(report(), findings=[])
    for ranks, option in ((1, ""), (2, "--nproc-per-node 2 ")):
        shown = view(replace(found, source=replace(found.source, target="train.py --lr 3e-4", ranks=ranks)))
        block = next(s for s in shown.sections if s.id == "sure").blocks[0]
        assert isinstance(block, Facts)
        assert dict(block.lines)["prove it"] == f"loraprof fix {option}train.py --lr 3e-4"


def test_a_process_that_others_crowded_out_says_so() -> None:
    """The more of the step is work, the more of a core it needs."""
    given = report()
    alone = replace(given, timing=replace(given.timing, cores=0.97, crowded=False))
    assert "of a core" not in sure(alone)
    beset = replace(given, timing=replace(given.timing, cores=0.29, crowded=True))
    assert "other work on this machine: the process had 0.29 of a core" in sure(beset)
    step = given.step()
    assert step is not None
    share = step.ns(kind="busy") / step.wall_ns
    for cores in (0.99 * CROWDED * share, CROWDED * share):
        timed = replace(recording(), timing=Timing(samples_ns=[10], dropped=0, clock="perf_counter_ns", cores=cores))
        assert _timing(timed, step, on_gpu=False).crowded is (cores < CROWDED * share)
        assert _timing(timed, step, on_gpu=True).crowded is None  # its host may wait
    idle = replace(recording(), timing=Timing(samples_ns=[10], dropped=0, clock="perf_counter_ns", cores=0.0))
    assert _timing(idle, None, on_gpu=False).crowded is False
