"""Does a replay of the step's launches reproduce it, and what would it take with other calls?

The gate decides whether counterfactuals about idle time may be printed: a trace whose cross-stream dependencies are
missing fails it. The profiler's cost is then taken out of the host's time so that the replay of steps that follow one
another meets the unprofiled time; a step that is bound by its kernels ends near the replay's floor, and its host does
not matter.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.edits import Launch, eased, merged, stretched, with_launches, without
from loraprof.analysis.prediction.host_clock import Floats, HostClock, host_clock, unslowed
from loraprof.analysis.prediction.replay import (
    Call,
    Calls,
    StepCalls,
    accepted,
    gate_error,
    host_ns,
    replayed,
    step_calls,
)
from loraprof.analysis.prediction.stream_waits import with_waits
from loraprof.model.recording import Recording
from loraprof.model.report import Replay, Unprofiled
from loraprof.model.trace import Bool, Int64
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASE, ROLE, Role

END: tuple[Role, ...] = ("optimizer", "grad_clip")


class Added(Struct, frozen=True):
    """Device time that a module's backward pass would need on top, ns; one launch."""

    module: int
    ns: float


class StepReplay(Struct, frozen=True, eq=False, dict=True):
    """The reported step's calls without the profiler, and who issued them. ``sigma``, the speed of the host that is
    left, is None where no counterfactual may be printed: the calls are the profiled ones then."""

    step: StepCalls
    module: Int64  # per call
    role: Int64
    phase: Int64
    record_role: Int64
    latency_ns: int
    turnaround_ns: int
    gate_error: float
    sigma: float | None
    solved: float | None  # the host factor, where the replay meets the unprofiled time exactly
    clock: HostClock
    cost_ns: float  # of an event, as taken out

    @property
    def report(self) -> Replay:
        return Replay(gate_error=self.gate_error, host_factor=self.solved, accepted=accepted(self.gate_error))

    @property
    def refusal(self) -> str | None:
        """Why nothing that depends on idle time is predicted; None where it may be."""
        if not accepted(self.gate_error):
            missed = units.percent(abs(self.gate_error))
            return f"the replay of the launches misses the step by {missed}: streams may wait for each other"
        if self.sigma is None:
            return "the replay of the launches stays longer than the unprofiled step at any host speed"
        return None

    @property
    def end_busy_ns(self) -> float:
        """Device time of the optimizer and clipping."""
        return float(self.step.calls.record_ns[_are(self.record_role, END)].sum())

    def delta_ns(self, added: Sequence[Added], end_ns: float | None) -> int:
        """What the window changes by, ns, without the adapter path and with ``added`` launches, where optimizer and
        clipping take ``end_ns`` of device time from as many calls (None: they are not run). Raises ValueError where
        ``sigma`` is None."""
        if self.sigma is None:
            raise ValueError("the replay was refused")
        gone: tuple[Role, ...] = (*ADAPTER_ROLES, *END) if end_ns is None else ADAPTER_ROLES
        launches = self._launches(added)
        calls = self.step.calls
        if end_ns is not None and self.end_busy_ns:
            calls = stretched(calls, np.where(_are(self.record_role, END), end_ns / self.end_busy_ns, 1.0))
        elif end_ns is not None and end_ns >= 1:
            launches.append(self._launch(len(self.role) - 1, end_ns))
        longer = with_launches(calls, sorted(launches, key=lambda launch: launch.after))
        order = np.array(sorted(x.after for x in launches), dtype=np.int64) + 1
        call = np.insert(_are(self.role, gone), order, False)
        record = np.insert(_are(self.record_role, gone), self.step.calls.first[order], False)
        edited = without(longer, call, record)
        return self._window(edited) - self._now_ns

    def faster_ns(self, share: float) -> int:
        """What the step would save on a host that takes ``share`` of its time, ns."""
        return self._now_ns - self._window(self.step.calls, share)

    def merged_ns(self, record: Bool) -> int:
        """What the step would save where flagged records that follow each other are launched as one, ns."""
        return self._now_ns - self._window(merged(self.step.calls, record))

    def edited_ns(self, left: Floats, launched: Floats, joined: Bool | None, share: float) -> int:
        """The window, ns, in which each record takes the part ``left`` of its time and its launch the part
        ``launched`` of the host's, records ``joined`` that follow each other are one launch, and the host takes
        ``share`` of its time."""
        calls = eased(stretched(self.step.calls, left), launched)
        gone = launched <= 0
        calls = without(calls, np.zeros(len(self.role), dtype=np.bool_), gone)
        return self._window(calls if joined is None else merged(calls, joined[~gone]), share)

    @cached_property
    def _now_ns(self) -> int:
        return self._window(self.step.calls)

    def _window(self, calls: Calls, share: float = 1.0) -> int:
        sigma = 1.0 if self.sigma is None else self.sigma
        return replayed(calls, share * sigma, self.latency_ns, self.turnaround_ns).window_ns

    def _launches(self, added: Sequence[Added]) -> list[Launch]:
        """After the module's last backward launch, else where the backward pass ends."""
        backward = np.flatnonzero(self.phase == PHASE["backward"])
        last = {int(self.module[i]): int(i) for i in backward}
        end = int(backward[-1]) if len(backward) else len(self.role) - 1
        return [self._launch(last.get(x.module, end), x.ns) for x in added if x.ns >= 1]

    def _launch(self, after: int, ns: float) -> Launch:
        """Host time as usual around the backward launches of frozen linear layers."""
        calls = self.step.calls
        usual = (self.phase == PHASE["backward"]) & (self.role == ROLE["base.linear"]) & (calls.kind == Call.LAUNCH)
        usual = usual if usual.any() else calls.kind == Call.LAUNCH
        stream = np.bincount(calls.stream).argmax() if len(calls.stream) else 0
        return Launch(
            after=after,
            gap_ns=int(np.median(calls.gap_ns[usual])) if usual.any() else 0,
            duration_ns=int(np.median(calls.duration_ns[usual])) if usual.any() else 0,
            record_ns=round(ns),
            stream=int(stream),
        )


def step_replay(analysis: Analysis, ledger: Ledger, unprofiled: Unprofiled | None) -> StepReplay | None:
    """None on a CPU, and where no device record of the step has a launch call."""
    if not analysis.on_gpu or analysis.floor_ns is None:
        return None
    window, floors = ledger.window, (analysis.floor_ns, analysis.tau_ns)
    noted = (window.noted_start, window.noted_end)
    step = step_calls(analysis.trace, analysis.links, (window.start, window.end), noted)
    step = with_waits(analysis.trace, step, *floors)
    error = gate_error(step.calls, *floors)
    if error is None:
        return None
    clock = host_clock(analysis.trace, step, noted, window.thread)
    plain = None
    if unprofiled is not None and accepted(error):
        event_ns = _event_ns(analysis.recording)
        plain = unslowed(analysis.trace, step, clock, unprofiled.median_ns, floors, event_ns)
    solved = None
    if plain is not None:
        if plain.sigma:
            solved = plain.sigma * host_ns(plain.calls) / host_ns(step.calls)
        step = replace(step, calls=plain.calls)
    attribution = analysis.attribution
    launch = analysis.links.launch[step.record]
    role = attribution.role[step.row].astype(np.int64)
    record_role = attribution.role[launch].astype(np.int64)
    if analysis.graphs is not None:
        unused = np.zeros(len(record_role), dtype=np.int64)
        analysis.graphs.into(step.record, unused, unused, record_role)
    return StepReplay(
        step=step,
        module=attribution.module[step.row].astype(np.int64),
        role=role,
        phase=attribution.phase[step.row].astype(np.int64),
        record_role=record_role,
        latency_ns=floors[0],
        turnaround_ns=floors[1],
        gate_error=error,
        sigma=plain.sigma if plain else None,
        solved=solved,
        clock=clock,
        cost_ns=plain.cost_ns if plain else 0.0,
    )


def _event_ns(recording: Recording | None) -> float | None:
    return recording.calibration.event_ns if recording and recording.calibration else None


def _are(role: Int64, names: Sequence[Role]) -> Bool:
    found: Bool = np.isin(role, [ROLE[n] for n in names])
    return found
