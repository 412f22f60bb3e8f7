"""What an entry of a step takes without the profiler: sums, and where the profiler's cost is taken from."""

from typing import Any

import msgspec
import numpy as np
import pytest
from provoke import made, synthetic
from recorded import recorded

from loraprof.analysis.analyse import Analysis, analyse
from loraprof.analysis.step.unprofiled import LEAST, MOST, scaled_ledger, unprofiled_ns
from loraprof.model.recording import Calibration, CopyRate, GemmRate, Recording
from loraprof.store.kineto.read import read_trace
from loraprof.store.recordings import load_source

CALIBRATION = Calibration(
    gemm=[GemmRate(m=8, n=8, k=8, dtype="float32", ns=1)], copy=[CopyRate(bytes=8, ns=1)], event_ns=100.0
)


@pytest.fixture(scope="module")
def step() -> tuple[Analysis, Any, Recording]:
    """A CPU step whose profiler costs 100 ns per event."""
    source = load_source(recorded("tiny-llama-cpu"))
    assert source.recording is not None
    analysis = analyse(read_trace(source.traces[0]), source.recording)
    assert analysis.reported is not None
    return (
        analysis,
        analysis.ledgers[analysis.reported],
        msgspec.structs.replace(source.recording, calibration=CALIBRATION),
    )


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 0.9, 0.999, 1.0, 1.3])
def test_entries_sum_to_the_unprofiled_step(step: tuple[Analysis, Any, Recording], factor: float) -> None:
    analysis, ledger, recording = step
    total = int(ledger.ns.sum() * factor)
    for calibration in (CALIBRATION, None):
        plain = msgspec.structs.replace(recording, calibration=calibration)
        assert unprofiled_ns(analysis, ledger, plain, total).sum() == pytest.approx(total)


@pytest.mark.slow
def test_the_difference_is_taken_from_events_before_all_is_scaled(step: tuple[Analysis, Any, Recording]) -> None:
    """A difference that MOST times the calibrated cost covers leaves long entries as long as they were."""
    analysis, ledger, recording = step
    cost = 100.0 * (int(ledger.busy.sum()) + 0.5 * int((~ledger.busy).sum()))
    roomy = ledger.ns > 2 * MOST * 100
    time = unprofiled_ns(analysis, ledger, recording, int(ledger.ns.sum() - 2 * cost))
    longest = int(np.argmax(ledger.ns))
    assert time[longest] == pytest.approx(ledger.ns[longest], rel=0.05)
    assert np.all(time[roomy & ledger.busy] <= 1.05 * ledger.ns[roomy & ledger.busy])
    short = (ledger.ns > 0) & (ledger.ns < 200) & ledger.busy
    assert short.any()
    assert np.all(time[short] < ledger.ns[short])
    assert np.all(time >= LEAST * 0.9 * ledger.ns)


@pytest.mark.slow
@pytest.mark.parametrize("total", [1, 12_345_677, 99_999_999])
def test_whole_nanoseconds_sum_exactly(step: tuple[Analysis, Any, Recording], total: int) -> None:
    analysis, ledger, recording = step
    whole = scaled_ledger(analysis, ledger, recording, total)
    assert int(whole.ns.sum()) == total
    assert np.abs(whole.ns - unprofiled_ns(analysis, ledger, recording, total)).max() <= 1
    assert sum(p.ns for p in whole.parts()) == total


@pytest.mark.slow
def test_a_step_that_was_faster_under_the_profiler_is_only_scaled(step: tuple[Analysis, Any, Recording]) -> None:
    analysis, ledger, recording = step
    time = unprofiled_ns(analysis, ledger, recording, int(ledger.ns.sum() * 2))
    assert time == pytest.approx(ledger.ns * 2.0, rel=1e-6)


def test_kernels_keep_their_duration_on_a_gpu() -> None:
    source = load_source(made(synthetic("bandwidth-v1")))
    assert source.recording is not None
    analysis = analyse(read_trace(source.traces[0]), source.recording)
    assert analysis.reported is not None
    ledger = analysis.ledgers[analysis.reported]
    busy, idle = int(ledger.ns[ledger.busy].sum()), int(ledger.ns[~ledger.busy].sum())
    time = unprofiled_ns(analysis, ledger, source.recording, busy + idle // 2)
    assert time[ledger.busy] == pytest.approx(ledger.ns[ledger.busy].astype(float))
    assert time.sum() == pytest.approx(busy + idle // 2)
    assert unprofiled_ns(analysis, ledger, source.recording, busy // 2).sum() == pytest.approx(busy // 2)
