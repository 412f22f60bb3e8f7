"""Does a replay of the step's launches reproduce it, and what would it take with other calls?

The gate decides whether counterfactuals about idle time may be printed: a trace whose cross-stream dependencies are
missing fails it. One host-speed factor is then solved so that the replay meets the unprofiled time; a step that is
bound by its kernels ends within NEAR of the replay's floor, and its host speed does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loraprof import units
from loraprof.analysis.analyse import Analysis
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.edits import Launch, stretched, with_launches, without
from loraprof.analysis.prediction.replay import (
    Call,
    StepCalls,
    accepted,
    gate_error,
    replay,
    solve_host_factor,
    step_calls,
)
from loraprof.model.report import Replay, Unprofiled
from loraprof.model.trace import Bool, Int64
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASE, ROLE, Role

NEAR = 0.05
END: tuple[Role, ...] = ("optimizer", "grad_clip")


@dataclass(frozen=True, slots=True)
class Added:
    """Device time that a module's backward pass would need on top, ns; one launch."""

    module: int
    ns: float


@dataclass(frozen=True, slots=True, eq=False)
class StepReplay:
    """The reported step's calls, and who issued them. ``sigma`` is None where no counterfactual may be printed."""

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
        if end_ns is not None and self.end_busy_ns > 0:
            calls = stretched(calls, _are(self.record_role, END), end_ns / self.end_busy_ns)
        elif end_ns is not None and end_ns >= 1:
            launches.append(self._launch(len(self.role) - 1, end_ns))
        longer = with_launches(calls, sorted(launches, key=lambda launch: launch.after))
        order = np.array(sorted(x.after for x in launches), dtype=np.int64) + 1
        call = np.insert(_are(self.role, gone), order, False)
        record = np.insert(_are(self.record_role, gone), self.step.calls.first[order], False)
        edited = without(longer, call, record)
        return self._window(edited) - self._window(self.step.calls)

    def _window(self, calls: object) -> int:
        assert self.sigma is not None
        return replay(calls, self.sigma, self.latency_ns, self.turnaround_ns)  # type: ignore[arg-type]

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
    step = step_calls(analysis.trace, analysis.links, (ledger.window.start, ledger.window.end))
    floor, tau = analysis.floor_ns, analysis.tau_ns
    error = gate_error(step.calls, floor, tau)
    if error is None:
        return None
    solved = solve_host_factor(step.calls, unprofiled.median_ns, floor, tau) if unprofiled else None
    sigma = solved
    if solved is None and unprofiled is not None and accepted(error):
        near = replay(step.calls, 0.0, floor, tau) <= (1 + NEAR) * unprofiled.median_ns
        sigma = 0.0 if near else None
    who = analysis.who
    launch = np.maximum(analysis.links.launch[step.record], 0)
    role = who.role[step.row].astype(np.int64)
    record_role = who.role[launch].astype(np.int64)
    if analysis.graphs is not None:
        unused = np.zeros(len(record_role), dtype=np.int64)
        analysis.graphs.into(step.record, unused, unused, record_role)
    return StepReplay(
        step=step,
        module=who.module[step.row].astype(np.int64),
        role=role,
        phase=who.phase[step.row].astype(np.int64),
        record_role=record_role,
        latency_ns=floor,
        turnaround_ns=tau,
        gate_error=error,
        sigma=sigma,
        solved=solved,
    )


def _are(role: Int64, names: Sequence[Role]) -> Bool:
    found: Bool = np.isin(role, [ROLE[n] for n in names])
    return found
