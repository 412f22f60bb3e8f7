"""Changes around one kernel, gap or launch call, whose effect on the partition is known to the nanosecond."""

from collections import Counter
from itertools import pairwise

import pytest
import transforms as t
from builders import Document
from relations import SEEDS, Case, Cases, busy, case_of, causes, overlaps, partitions, sampled, step_at
from synthetic import faults

from loraprof.model.report import Report

pytestmark = pytest.mark.slow

HOST_PART = ("python", "framework", "data", "sync", "allocator", "profiler")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = tmp_path_factory.mktemp("cases")
    return [case_of(seed, folder) for seed in SEEDS]


def events_of(report: Report) -> int:
    return sum(part.events for step in report.steps for part in step.partition if part.kind == "busy")


def test_m5_a_kernel_in_two_pieces(cases: Cases) -> None:
    for case, record in sampled(cases, kernels, least=30):
        after = case.after(t.split_in_two(case.document, record))
        assert list(map(busy, after.steps)) == list(map(busy, case.report.steps))
        assert list(map(causes, after.steps)) == list(map(causes, case.report.steps))
        assert events_of(after) == events_of(case.report) + 1


def kernels(case: Case) -> list[Document]:
    found = [r for r in faults.gpu_events(case.document) if r["cat"] == "kernel"]
    return found[7 :: len(found) // 3]


def test_m6_a_gap_before_a_kernel(cases: Cases) -> None:
    """In the last step, where nothing on the launch path follows that a later device would change."""
    tried: Counter[str] = Counter()
    for case, gap in sampled(cases, late_gaps, least=10):
        cause = "queued" if t.begin(gap.launch) <= gap.low else "launch_latency"
        after, last = case.after(t.delayed(case.document, gap.record, 12_345)), case.report.steps[-1]
        assert after.steps[:-1] == case.report.steps[:-1]
        assert after.steps[-1].wall_ns == last.wall_ns + 12_345
        assert busy(after.steps[-1]) == busy(last)
        assert causes(after.steps[-1]) == causes(last) + Counter({cause: 12_345})
        tried[cause] += 1
    assert min(tried["queued"], tried["launch_latency"]) >= 2


def late_gaps(case: Case) -> list[t.Gap]:
    """Gaps of the last step, from its end back to one that waits for its launch call: two, and the farthest."""
    out: list[t.Gap] = []
    for gap in reversed(list(t.gaps(case.document))):
        waits = t.begin(gap.launch) > gap.low
        earlier = step_at(case, gap.high - 1) < len(case.report.steps) - 1
        if earlier or (waits and t.end(gap.launch) > gap.high):
            break
        out.append(gap)
        if waits:
            break
    return [*out[:2], *out[2:][-1:]]


def lone_gaps(case: Case) -> list[t.Gap]:
    """Gaps ended by a kernel that has its launch call for itself."""
    shared = Counter(faults.correlation(e) for e in faults.gpu_events(case.document))
    found = [g for g in t.gaps(case.document) if shared[faults.correlation(g.record)] == 1]
    return [g for g in found if g.record["cat"] == "kernel"]


def some_lone_gaps(case: Case) -> list[t.Gap]:
    found = lone_gaps(case)
    return found[:: len(found) // 4 + 1]


def test_m7_a_lost_record(cases: Cases) -> None:
    for case, gap in sampled(cases, some_lone_gaps, least=20):
        after = case.after(faults.without(case.document, gap.record))
        assert after.closure.launches_without_kernel == 1
        assert not after.closure.ok
        assert any("records were lost" in note for note in after.closure.notes)
        one, other = (sum(sum(busy(s).values()) for s in r.steps) for r in (case.report, after))
        assert 0 <= one - other <= t.ns(gap.record["dur"])
        assert sum(s.wall_ns for s in after.steps) == sum(s.wall_ns for s in case.report.steps)


def test_m8_a_lost_launch_call(cases: Cases) -> None:
    for case, gap in sampled(cases, some_lone_gaps, least=20):
        after = case.after(faults.without(case.document, gap.launch))
        assert after.closure.kernels_without_launch == 1
        assert not after.closure.ok
        mine = step_at(case, gap.high)
        for i, (one, other) in enumerate(zip(case.report.steps, after.steps, strict=True)):
            assert other.wall_ns == one.wall_ns
            assert causes(other)["unknown"] == (gap.high - gap.low if i == mine else 0)
            assert sum(busy(other).values()) == sum(busy(one).values())


def test_m16_a_hidden_copy(cases: Cases) -> None:
    for case, record in sampled(cases, alone, least=30):
        after = case.after(t.covered_copy(case.document, record))
        hidden = Counter({("compute", "copy"): t.ns(record["dur"]) // 4 * 2})
        mine = step_at(case, t.begin(record))
        for i, (one, other) in enumerate(zip(case.report.steps, after.steps, strict=True)):
            assert busy(other) == busy(one)
            assert causes(other) == causes(one)
            assert overlaps(other) == overlaps(one) + (hidden if i == mine else Counter())


def alone(case: Case) -> list[Document]:
    """Three compute kernels that share their time with no other record."""
    out, records, reach = [], faults.gpu_events(case.document), 0
    for record, after in pairwise(records):
        compute = record["cat"] == "kernel" and not record["name"].startswith("nccl")
        if compute and reach <= t.begin(record) and t.end(record) <= t.begin(after):
            out.append(record)
        reach = max(reach, t.end(record))
    return out[3 :: len(out) // 3]


def test_m17_a_longer_call_that_returned_before_the_gap(cases: Cases) -> None:
    for case, (gap, by) in sampled(cases, lengthenable, least=10):
        after = case.after(t.lengthened(case.document, gap.launch, by))
        assert partitions(after) == partitions(case.report)


def lengthenable(case: Case) -> list[tuple[t.Gap, int]]:
    """Calls that returned while the device was busy, and by how much: within the 400 ns their op still goes on."""
    records = [(t.begin(r), t.end(r)) for r in faults.gpu_events(case.document)]
    found = [(g, t.end(g.launch), min(399, g.low - 1 - t.end(g.launch))) for g in lone_gaps(case)[::10]]
    return [(g, by) for g, at, by in found if by > 0 and any(s <= at and at + by <= e for s, e in records)]


def on_the_launch_path(case: Case) -> list[tuple[t.Gap, int]]:
    """Gaps that hold their launch call, after at least 3 ns in which the host did one thing; and since when it did."""
    found = [(g, since) for g, since in t.quiet(case.document, lone_gaps(case)) if t.begin(g.launch) - since >= 3]
    return found[:: len(found) // 4 + 1]


def both_sides(case: Case, after: Report, gap: t.Gap) -> tuple[Counter[str], Counter[str]]:
    """The causes of the gap's step before and after; the other steps are as they were."""
    mine = step_at(case, gap.high)
    for i, (one, other) in enumerate(zip(case.report.steps, after.steps, strict=True)):
        assert i == mine or other.partition == one.partition
    return causes(case.report.steps[mine]), causes(after.steps[mine])


def test_m18_an_earlier_call(cases: Cases) -> None:
    for case, (gap, since) in sampled(cases, on_the_launch_path, least=15):
        by = t.begin(gap.launch) - since - 1
        moved = t.moved(gap.launch, -by)
        one, other = both_sides(case, case.after(faults.swapped(case.document, gap.launch, **moved)), gap)
        lost = [one[c] - other[c] for c in HOST_PART]
        assert sorted(lost) == [0] * (len(HOST_PART) - 1) + [by]  # from the one thing the host did
        assert other["launch_latency"] == one["launch_latency"] + by
        for cause in {*one, *other} - {*HOST_PART, "launch_latency"}:
            assert other[cause] == one[cause]


def test_m19_a_synchronisation_in_the_host_part(cases: Cases) -> None:
    for case, (gap, since) in sampled(cases, on_the_launch_path, least=15):
        low, high = since + 1, t.begin(gap.launch) - 1
        one, other = both_sides(case, case.after(t.synchronised(case.document, gap, low, high)), gap)
        assert other["sync"] == one["sync"] + high - low
        assert other["framework"] + other["python"] == one["framework"] + one["python"] - (high - low)
        for cause in {*one, *other} - {"sync", "framework", "python"}:
            assert other[cause] == one[cause]
