"""How long did each entry of a step take without the profiler? Its entries sum to the unprofiled step."""

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.model.recording import Recording

Floats = npt.NDArray[np.float64]
MOST = 3.0
LEAST = 0.3  # of an entry's time is its own, whatever the profiler's cost per event says


def unprofiled_ns(analysis: Analysis, ledger: Ledger, recording: Recording, total_ns: int) -> Floats:
    """Time of each ledger entry without the profiler, ns; sums to ``total_ns``.

    CPU: every event is freed of what the profiler adds, which is the calibrated cost or as much of it (up to MOST
    times) as makes up the difference, since events of many inputs cost more than those of the calibration; then all
    are scaled. GPU: kernels keep their duration and idle time is scaled, unless the kernels alone exceed the step.
    """
    raw = ledger.ns.astype(np.float64)
    if analysis.on_gpu:
        busy = float(raw[ledger.busy].sum())
        idle = float(raw[~ledger.busy].sum())
        raw = np.where(ledger.busy, raw, raw * (max(total_ns - busy, 0.0) / idle if idle else 0.0))
    elif recording.calibration is not None and recording.calibration.event_ns:
        cost = recording.calibration.event_ns * np.where(ledger.busy, 1.0, 0.5)
        share = np.clip((raw.sum() - total_ns) / cost.sum(), 0.0, MOST)
        raw = np.maximum(raw - share * cost, LEAST * raw)
    scaled: Floats = raw * (total_ns / raw.sum())
    return scaled


def scaled_ledger(analysis: Analysis, ledger: Ledger, recording: Recording, total_ns: int) -> Ledger:
    """The ledger with the unprofiled time of its entries in whole ns; they sum to ``total_ns`` exactly."""
    exact = unprofiled_ns(analysis, ledger, recording, total_ns)
    whole = np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")[: total_ns - int(whole.sum())]
    whole[largest] += 1
    return replace(ledger, ns=whole)
