"""The sections about ranks and communication: every number is the model's, and unknown is never 0."""

import msgspec
import pytest
from fleets import fleet

import loraprof
from loraprof.model.report import Report
from loraprof.report.document import Facts, Paragraph, Section, Table
from loraprof.report.registry import RENDERERS, render
from loraprof.report.views.report import view


@pytest.fixture(scope="module")
def report() -> Report:
    return loraprof.diagnose(fleet(4, offsets_ns={3: 5_000_000}))


def section(report: Report, name: str) -> Section:
    return next(s for s in view(report).sections if s.id == name)


def tables(found: Section) -> list[Table]:
    return [block for block in found.blocks if isinstance(block, Table)]


def test_the_sentence_comes_first_and_the_tables_hold_the_figures(report: Report) -> None:
    summary, ranks = report.rank_summary, report.ranks
    assert summary is not None
    assert ranks is not None
    found = section(report, "ranks")
    assert found.blocks[0] == Paragraph(summary.sentence)
    figures, skew, differences = tables(found)
    slowest = figures.rows[0]
    assert slowest[0].text == "slowest: rank 1"
    assert [cell.value for cell in slowest[1:3]] == [ranks[1].wall_ns, ranks[1].own_ns]
    assert [row[0].text for row in figures.rows[1:]] == ["fastest: rank 0", "median", "90 % of ranks below"]
    assert [row[0].text for row in skew.rows] == [spread.what for spread in summary.phases]
    for row in skew.rows:
        least, most, difference = (row[i].value for i in (1, 4, 6))
        assert difference == (most or 0) - (least or 0)
    assert differences.rows[0][-1].value == 3_000_000


def test_clocks_and_stragglers_are_facts(report: Report) -> None:
    facts = next(block for block in section(report, "ranks").blocks if isinstance(block, Facts))
    lines = dict(facts.lines)
    assert lines["clocks"].endswith("offsets up to 5.00 ms, residual 0 ns")
    assert lines["last"].startswith("over all steps: rank 1 at 3 of ")
    assert "missing" not in lines


def test_exposed_times_of_the_table_add_up(report: Report) -> None:
    (table,) = tables(section(report, "communication"))
    titles = [column.title.split(",")[0] for column in table.columns]
    exposed = sum(row[titles.index("exposed")].value or 0 for row in table.rows)
    assert report.communication is not None
    assert exposed == report.communication.exposed_ns


def facts(report: Report, name: str) -> dict[str, str]:
    return dict(next(block for block in section(report, name).blocks if isinstance(block, Facts)).lines)


def test_bandwidths_say_which_of_them_hold_waiting(report: Report) -> None:
    sent = report.communication
    assert sent is not None
    assert facts(report, "communication")["bandwidth"].endswith("which did not wait")
    one = msgspec.structs.replace(sent.collectives[0], name="broadcast", basis="this rank")
    for rows, start in (([one], "at least: "), ([*sent.collectives, one], "bytes over the time on the rank that")):
        mixed = msgspec.structs.replace(report, communication=msgspec.structs.replace(sent, collectives=rows))
        words = facts(mixed, "communication")["bandwidth"]
        assert words.startswith(start)
        assert ("broadcast at least: " in words) == (len(rows) > 1)


def test_a_step_without_adapters_is_not_told_what_lora_saves(report: Report) -> None:
    sent = msgspec.structs.replace(report.communication, strategy="replicated", saved_bytes=0, full_reduced_bytes=8_000)  # type: ignore[type-var]
    alone = msgspec.structs.replace(report, adapter=None, communication=sent)
    assert "LoRA" not in facts(alone, "communication")
    assert facts(alone, "communication")["gradients"].endswith("reduced per step")
    adapted = msgspec.structs.replace(alone, adapter=report.adapter)
    assert facts(adapted, "communication")["LoRA"].startswith("saves none")


def test_unknown_sizes_are_not_zero(report: Report) -> None:
    assert report.communication is not None
    blank = {"bytes": None, "median_bytes": None, "algorithm_bytes_per_s": None, "bus_bytes_per_s": None}
    rows = [msgspec.structs.replace(row, group_size=None, **blank) for row in report.communication.collectives]
    sent = msgspec.structs.replace(report.communication, collectives=rows, saved_bytes=None)
    (table,) = tables(section(msgspec.structs.replace(report, communication=sent), "communication"))
    assert [cell.text for cell in table.rows[0]].count("n/a") == 5


def test_even_ranks_have_no_table_of_differences() -> None:
    assert len(tables(section(loraprof.diagnose(fleet(2, slow=None)), "ranks"))) == 2


@pytest.mark.parametrize("form", RENDERERS)
def test_every_format_shows_it(report: Report, form: str) -> None:
    text = render(report, form).decode()
    if form != "github":  # findings alone
        assert "Rank 1 is the slowest of 4" in " ".join(text.split())
        assert "reduce" in text or form == "issue"  # no names of anybody's


def test_one_rank_alone_has_no_ranks_section() -> None:
    report = loraprof.diagnose(fleet(2) / "rank0.trace.json")
    assert "ranks" not in {s.id for s in view(report).sections}
    assert "communication" in {s.id for s in view(report).sections}


def test_the_ranks_stand_beside_each_other_in_the_first_lines(report: Report) -> None:
    page = view(report)
    line = next(line for line in page.lines if line.startswith("own work of ranks 0 to "))
    bars = line.split(": ")[1].split(" ")[0]
    assert report.ranks is not None
    assert len(bars) == len(report.ranks)
    slowest = max(report.ranks, key=lambda row: row.own_ns).rank
    assert bars[slowest] == "█" == max(bars)
    many = [msgspec.structs.replace(report.ranks[0], rank=i, own_ns=1000 + i) for i in range(1000)]
    line = next(line for line in view(msgspec.structs.replace(report, ranks=many)).lines if line.startswith("own work"))
    assert "of ranks 0 to 999, a bar for 32 ranks" in line
