import msgspec
import pytest
from msgspec.structs import replace
from sample_comparison import comparison
from sample_report import bare_report, report

from loraprof.model.compare import ArmResult, Bar, Waterfall
from loraprof.model.report import Report
from loraprof.report.document import Facts, Table
from loraprof.report.terminal.render import to_text
from loraprof.report.views import compare as view_compare
from loraprof.report.views.report import partition_bar, view
from loraprof.report.views.tables import (
    idle_causes,
    kernel_table,
    phase_roles,
    short_kernel,
    traffic_sentence,
    traffic_table,
)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("aten::mm", "aten::mm"),
        ("sm90_gemm_tn_n", "sm90_gemm_tn_n"),
        ("void (anonymous namespace)::softmax_warp_forward<float, 4>(float*)", "softmax_warp_forward"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float> >(int)",
            "vectorized_elementwise_kernel<CUDAFunctor_add>",
        ),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"),  # noqa: E501
        ("Memcpy DtoH (Device -> Pageable)", "Memcpy DtoH (Device -> Pageable)"),
        ("<lambda>", "<lambda>"),
    ],
)  # fmt: skip
def test_short_kernel(name: str, short: str) -> None:
    assert short_kernel(name) == short


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


def test_the_account_never_turns_unknown_into_zero() -> None:
    account = account_of(report())
    assert account is not None
    texts = {row[0].text: row[1].text for row in account.rows}
    assert texts["saved: communication"] == "n/a"
    assert texts["saved: weight gradients of the frozen layers"] == "-98.20"


def test_the_account_adds_up_to_the_two_steps() -> None:
    given = report()
    assert given.adapter is not None
    assert given.timing.unprofiled is not None
    assert given.adapter.predicted_full_ns is not None
    account = account_of(given)
    assert account is not None
    total = account.footer[0][1].value
    assert total == given.timing.unprofiled.median_ns - given.adapter.predicted_full_ns
    assert sum(row[1].value or 0 for row in account.rows) == total


def test_without_a_predicted_full_step_there_is_no_account() -> None:
    given = report()
    assert given.adapter is not None
    assert account_of(replace(given, adapter=replace(given.adapter, predicted_full_ns=None))) is None


def account_of(given: Report) -> Table | None:
    section = next(s for s in view(given).sections if s.id == "adapter")
    tables = [b for b in section.blocks if isinstance(b, Table)]
    return next((t for t in tables if t.columns[0].title.startswith("against")), None)


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
