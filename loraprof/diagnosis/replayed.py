"""Does a replay of the step's launches reproduce it, and how fast was the host without the profiler?

The gate decides whether counterfactuals about idle time may be printed: a trace whose cross-stream dependencies are
missing fails it. One host-speed factor is then solved so that the replay meets the unprofiled time.
"""

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.replay import accepted, calls_of, gate_error, solve_host_factor
from loraprof.analysis.windows import Window
from loraprof.model.report import Replay, Unprofiled


def replayed(analysis: Analysis, window: Window, unprofiled: Unprofiled | None) -> Replay | None:
    """None on a CPU, and where no device record of the step has a launch call."""
    if not analysis.on_gpu or analysis.floor_ns is None:
        return None
    calls = calls_of(analysis.trace, analysis.links, (window.start, window.end))
    error = gate_error(calls, analysis.floor_ns, analysis.tau_ns)
    if error is None:
        return None
    factor = None
    if unprofiled is not None:
        factor = solve_host_factor(calls, unprofiled.median_ns, analysis.floor_ns, analysis.tau_ns)
    return Replay(gate_error=error, host_factor=factor, accepted=accepted(error))
