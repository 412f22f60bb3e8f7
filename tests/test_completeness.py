"""What is missing from a trace or impossible in it is counted and said: the checks of closure, one at a time."""

from collections.abc import Sequence

import pytest
from builders import Device, Host, call, comm, copy, kernel, op, step, trace_of
from msgspec.structs import replace
from recordings import recording

from loraprof.analysis.analyse import analyse
from loraprof.analysis.partition.completeness import overlaps_on_stream
from loraprof.model.report import Closure
from loraprof.model.trace import DeviceFacts, Faults
from loraprof.model.vocabulary import HostKind

OPS = [step(0, 0, 9000), op("aten::mm", 10, 20)]
GEMM = kernel(1001, 2000, (100, 110))


def closure(host: Sequence[object] = OPS, device: Sequence[Device] = (GEMM,), **changes: object) -> Closure:
    return analyse(replace(trace_of(host, device), **changes)).closure  # type: ignore[arg-type]


def test_nothing_is_missing() -> None:
    assert closure() == Closure(ok=True, unattributed_ns=999, notes=[])


def test_a_launch_without_a_record() -> None:
    found = closure([*OPS, call("cudaLaunchKernel", 300, 310, correlation=9)])
    assert (found.ok, found.launches_without_kernel) == (False, 1)
    assert found.notes == ["1 launch calls have no device record: records were lost"]


def test_records_without_a_launch() -> None:
    """Correlation 1 is before all calls of the trace, 9 is not."""
    lost = [kernel(3001, 3100, correlation=1), kernel(4001, 4100, correlation=9)]
    found = closure([*OPS, call("cudaEventRecord", 50, 51, correlation=2)], [*lost, kernel(1001, 2000, (100, 110))])
    assert (found.ok, found.kernels_without_launch) == (False, 2)
    assert found.notes == [
        "1 device records were launched before the trace began",
        "1 device records have no launch record: the gaps they end are unknown",
    ]


@pytest.mark.parametrize(("start", "count"), [(99, 1), (100, 1), (101, 0)])
def test_a_record_that_starts_before_it_is_launched(start: int, count: int) -> None:
    found = closure(device=[kernel(start, 2000, (100, 110))])
    assert (found.ok, found.negative_latency) == (not count, count)
    assert found.notes == [f"{n} device records start at or before their launch call: clock error" for n in [1] * count]


def test_faults_of_the_file() -> None:
    assert closure(faults=Faults(zero_timestamps=2)).zero_timestamps == 2
    assert not closure(faults=Faults(zero_timestamps=2)).ok
    assert not closure(faults=Faults(duplicates=1)).ok
    assert closure(faults=Faults(unknown_categories=1)).ok


def test_lost_and_found_do_not_cancel_out() -> None:
    """One of each kind."""
    found = closure(
        [*OPS, call("cudaLaunchKernel", 300, 310, correlation=9)], [GEMM, kernel(3001, 3100, correlation=8)]
    )
    assert (found.ok, found.launches_without_kernel, found.kernels_without_launch) == (False, 1, 1)
    late = closure(OPS, [kernel(99, 200, (100, 110)), kernel(3001, 3100, correlation=8)])
    assert (late.ok, late.negative_latency, late.kernels_without_launch) == (False, 1, 1)


def test_busy_time_of_no_module() -> None:
    """Copies and collectives need none, and what a module launched has one."""
    host = [*OPS, Host(HostKind.PYTHON, "nn.Module: Linear_0", 200, 300), op("aten::mm", 210, 260)]
    device = [GEMM, copy(3000, 3200, (120, 125)), comm(4000, 4400, (130, 135)), kernel(5000, 5070, (220, 230))]
    assert closure(host, device).unattributed_ns == 999
    assert closure([], []).unattributed_ns == 0
    assert closure([], []).notes == ["the trace holds no work", "no device records: analysed as a CPU trace"]


def test_what_is_said_of_a_trace_without_records() -> None:
    no_step = "no step annotations: the whole trace is one window"
    assert closure([op("aten::mm", 10, 20)], []).notes == [no_step, "no device records: analysed as a CPU trace"]
    unread = closure(OPS, [], unread=("xpu", "npu"))
    assert unread.notes == ["an accelerator's records are none that loraprof reads (xpu, npu): steps unexplained"]
    assert closure(OPS, [GEMM], unread=("xpu",)).notes == []
    made = recording()
    lost = analyse(trace_of(OPS), made).closure
    assert not lost.ok
    assert "no device activity was recorded although a GPU ran: only the host is analysed" in lost.notes
    assert analyse(trace_of(OPS, [GEMM]), made).closure.ok
    assert analyse(trace_of(OPS), replace(made, device=replace(made.device, kind="cpu"))).closure.ok


def test_what_is_said_of_the_host_and_of_rocm() -> None:
    silent = "no CPU ops were recorded: what the host did between its calls is unknown"
    assert closure([step(0, 0, 9000)]).notes == [silent]
    assert closure(rocm=True).notes == ["ROCm: records abut, the turnaround floor is 0"]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([(1001, 2000, 7, 0, 1), (1999, 3000, 7, 0, 2)], (0, 1)),
        ([(1001, 2000, 7, 0, 1), (2000, 3000, 7, 0, 2)], (0, 0)),
        ([(1001, 2000, 7, 0, 1), (1999, 3000, 8, 0, 2)], (0, 0)),
        ([(1001, 2000, 7, 0, 1), (1999, 3000, 7, 1, 2)], (0, 0)),
        ([(1001, 2000, 7, 0, 0), (1999, 3000, 7, 0, 0)], (1, 0)),  # of one graph launch
        ([(1001, 2000, 7, 0, 3), (1999, 3000, 7, 0, 3), (2999, 4000, 7, 0, 4)], (1, 1)),
        ([(1000, 3000, 7, 0, 1), (2000, 4000, 7, 0, 2)], (0, 0)),  # whole us: 1 us may be rounding
        ([(1000, 3001, 7, 0, 1), (2000, 4000, 7, 0, 2)], (0, 1)),
        ([(1000, 3000, 7, 0, 1), (1999, 4999, 7, 0, 2)], (0, 1)),
        ([(1500, 3500, 7, 0, 1), (2500, 4500, 7, 0, 2)], (0, 0)),
        ([(1001, 2000, 7, 0, 1)], (0, 0)),
    ],
)
def test_records_that_overlap_on_their_stream(records: list[tuple[int, ...]], found: tuple[int, int]) -> None:
    made = [kernel(s, e, stream=stream, device=gpu, correlation=n) for s, e, stream, gpu, n in records]
    assert overlaps_on_stream(trace_of([], made)) == found


def test_records_without_a_correlation_are_of_no_launch() -> None:
    trace = trace_of([], [kernel(1001, 2000), kernel(1999, 3000)])
    device = replace(trace.device, correlation=trace.device.correlation * 0 - 1)
    assert overlaps_on_stream(replace(trace, device=device)) == (0, 1)


@pytest.mark.parametrize(
    ("capabilities", "rocm", "explained"),
    [
        ([(9, 0)], False, True),
        ([(8, 9)], False, False),
        ([None], False, True),
        ([(9, 0), (8, 0)], False, False),
        ([(9, 0)], True, False),
    ],
)
def test_what_explains_that_records_overlap(
    capabilities: list[tuple[int, int] | None], rocm: bool, explained: bool
) -> None:
    gpus = tuple(DeviceFacts(i, "x", capability=one) for i, one in enumerate(capabilities))
    records = [GEMM, kernel(1999, 3000, (120, 130)), kernel(4000, 4100, (140, 150), correlation=7)]
    notes = closure(OPS, records, gpus=gpus, rocm=rocm).notes
    why = "programmatic launches" if explained else "nothing on this GPU explains it"
    assert notes[-1] == f"1 device records overlap the one before on their stream: {why}"
