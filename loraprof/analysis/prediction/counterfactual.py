"""What would this step take fully fine-tuned, or without adapters? Predicted from the LoRA recording alone.

frozen = T - adapter path - optimizer and clipping (+ the input gradients LoRA's first layers did not need)
full   = frozen + weight gradients of the frozen layers + optimizer and clipping of all parameters + accumulation
         + communication of the gradients that LoRA does not have

T is the unprofiled median. On a CPU the parts are sums over the recorded steps' entries, freed of the profiler's cost
(the median step counts). On a GPU both steps are replayed with the calls they would make, at the host speed
at which the replay of the recorded step meets T; where the gate refuses the replay and the device waits (for its host,
for other ranks), nothing is predicted. What is added was measured alone, on this device, after the step
(``capture.device.gradient_cost``).

The interval has parts that vary by themselves and add in squares: the unprofiled median's own, the spread of the
adapter path over the recorded steps, ADAPTER of that path for the frozen step, and MODEL of the weight gradients and
of the optimizer, clipping and accumulation: what benchmarks/predictions.py finds between work measured alone and the
same work within a step; where gradients are reduced over ranks, the bounds of what more communication adds
(comm_savings), and a frozen step that may do without the reductions of this one's backward pass (the adapters'
gradients, or activations: the trace does not tell). On a CPU, RUNS of the step for the full one: a machine that is
slower for one run than for the next is slower for the step, not for what was measured alone.
"""

import math
from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np
from msgspec import Struct

from loraprof.analysis.analyse import Analysis
from loraprof.analysis.limits.rates import Rates
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.prediction.comm_savings import MoreCommunication
from loraprof.analysis.prediction.gradients import factor, gradients, missing_inputs, module_ns, tied_ns
from loraprof.analysis.prediction.replayed import Added, StepReplay
from loraprof.analysis.ranks.messages import KIND, kind_of
from loraprof.analysis.step.unprofiled import Floats, unprofiled_ns
from loraprof.model.recording import GradientCost, Recording
from loraprof.model.report import Interval, Savings, Unprofiled
from loraprof.model.vocabulary import ADAPTER_ROLES, PHASE, ROLE, DeviceClass, Role

MODEL = 0.15
RUNS = (
    0.13  # of a CPU's step: the same command ten times, on two quiet shared cores, was off its own median by up to 11 %
)
ADAPTER = 0.3  # of the adapter path: of three on a GPU one was 26 % longer than predicted (benchmarks/coverage.py)
REDUCTIONS = (KIND["all_reduce"], KIND["reduce_scatter"])
WAIT_SHARE = 0.05  # of a GPU step, for the host or for other ranks: below it, order hardly matters


class Counterfactual(Struct, frozen=True):
    """Predicted step times, ns, and what they are made of."""

    full_ns: int
    full: Interval
    frozen_ns: int
    frozen: Interval
    savings: Savings
    added_ns: int  # by the adapters and by training them: the step minus the frozen one
    trained_ns: int  # optimizer and clipping of the adapter's parameters


class _Parts(Struct, frozen=True):
    """Unprofiled ns of one recorded step."""

    adapter: float
    optimizer: float
    clip: float
    factor: float  # of work within the step against the same work alone
    missing: float  # input gradients that the frozen and the full step need and this one did not


def counterfactual(
    analysis: Analysis,
    ledger: Ledger,
    recording: Recording | None,
    unprofiled: Unprofiled | None,
    step: StepReplay | None,
    plain: Ledger | None,
    extra: MoreCommunication | None = None,
    untold: bool = False,
) -> Counterfactual | None:
    """None where an input is missing (unprofiled timing, calibration, training cost, adapters), a GPU step that
    waits for its host could not be replayed, or one that waits for other ranks does not tell what full fine-tuning
    would send. ``step`` is that of ``ledger``, None on a CPU; ``plain`` the same step's entries without the profiler,
    where that is known. ``untold``: the step communicates, and does not show for what."""
    if recording is None or unprofiled is None or recording.calibration is None or not recording.sites:
        return None
    cost, rates = recording.training_cost, Rates(recording.calibration)
    known = gradients(recording, rates)
    if cost is None or known is None:
        return None
    ledgers = [one for one in analysis.ledgers if one.ns.sum()]
    now = unprofiled.median_ns
    each = [_parts(one, unprofiled_ns(analysis, one, recording, now), recording, known) for one in ledgers]
    moved = plain if step is not None else None
    parts = _median(each) if moved is None else _parts(moved, moved.ns.astype(np.float64), recording, known)
    wgrad = parts.factor * sum(g.calls * g.weight_ns for g in known) + tied_ns(recording, rates)
    micro = recording.workload.micro_batches or 1
    clip, accumulate = float(cost.clip_ns) if parts.clip else 0.0, float(cost.accumulate_ns) * (micro - 1)
    end = cost.optimizer_ns + clip + accumulate
    times = _times(ledger, parts, recording, known, (wgrad, end + cost.reread_ns), now, step)
    own = ledger if plain is None else plain
    if times is None or (step is not None and untold and _communicates(own)):
        return None
    time = unprofiled_ns(analysis, ledger, recording, now) if plain is None else plain.ns.astype(np.float64)
    comm, comm_low, comm_high = _communication(extra, own, time, wgrad)
    frozen, full = times[0], times[1] + comm
    spread = _half([p.adapter for p in each])
    timing = (unprofiled.high_ns - unprofiled.low_ns) / 2
    least = _interval(frozen, timing, spread, ADAPTER * parts.adapter)
    halves = (timing, spread, MODEL * wgrad, MODEL * end, 0.0 if analysis.on_gpu else RUNS * now)
    return Counterfactual(
        full_ns=round(full),
        full=Interval(
            low=_interval(full, *halves, comm - comm_low).low,
            high=_interval(full, *halves, comm_high - comm).high,
        ),
        frozen_ns=round(frozen),
        frozen=msgspec.structs.replace(
            least, low=max(0, least.low - (round(_reduced(analysis, own, time)) if extra else 0))
        ),
        savings=Savings(
            wgrad_ns=round(wgrad + accumulate),
            optimizer_ns=cost.optimizer_ns,
            grad_clip_ns=round(clip),
            comm_ns=round(comm) if extra else None,
        ),
        added_ns=now - round(frozen),
        trained_ns=round(parts.optimizer + parts.clip),
    )


def unpredicted(recording: Recording, unprofiled: Unprofiled | None) -> str:
    """Why there is no counterfactual of a recording whose step runs adapters."""
    if unprofiled is None:
        why = "no step was timed without the profiler"
    elif recording.calibration is None:
        why = "no calibration was recorded"
    elif recording.training_cost is None:
        why = "what training the frozen weights would cost was not measured"
    elif not recording.sites:
        why = "no adapted layer was recorded"
    elif gradients(recording, Rates(recording.calibration)) is None:
        why = "the weight gradient of a frozen layer was not measured, and no rate of this device tells it"
    else:
        why = "the device waits or communicates in this step, and the trace does not tell what other steps would"
    return f"full fine-tuning is not predicted: {why}"


def _times(
    ledger: Ledger,
    parts: _Parts,
    recording: Recording,
    known: list[GradientCost],
    more: tuple[float, float],
    now: int,
    step: StepReplay | None,
) -> tuple[float, float] | None:
    """(frozen, full) step time, ns; ``more``: weight gradients, and the end of the step, that full adds."""
    if step is not None and step.sigma is not None:
        present = module_ns(ledger, ledger.ns.astype(np.float64), "backward", recording)
        without = missing_inputs(recording, known, present)
        absent = [Added(g.module, parts.factor * g.calls * (g.input_ns or 0)) for g in without]
        wgrad = [Added(g.module, parts.factor * g.calls * g.weight_ns) for g in known]
        less = step.delta_ns(absent, None)
        change = step.delta_ns(absent + wgrad, more[1])
        return now + less, now + change
    if step is not None:
        computing = ledger.busy & (ledger.kind != DeviceClass.COMM)
        if ledger.ns[~computing].sum() > WAIT_SHARE * ledger.ns.sum():
            return None
    frozen = now - parts.adapter - parts.optimizer - parts.clip + parts.missing
    return frozen, frozen + sum(more)


def _communicates(ledger: Ledger) -> bool:
    """So long that another step's communication decides what it takes."""
    exposed = ledger.busy & (ledger.kind == DeviceClass.COMM)
    return bool(ledger.ns[exposed].sum() > WAIT_SHARE * ledger.ns.sum())


def _communication(
    extra: MoreCommunication | None, ledger: Ledger, time: Floats, wgrad: float
) -> tuple[float, float, float]:
    """Estimate, low and high of what the full step communicates longer, ns; 0 where that is not known."""
    if extra is None:
        return 0.0, 0.0, 0.0
    backward = ledger.busy & (ledger.phase == PHASE["backward"])
    return extra.exposed_ns(float(time[backward].sum()) + wgrad)


def _reduced(analysis: Analysis, ledger: Ledger, time: Floats) -> float:
    """Exposed reductions over ranks in the backward pass, ns."""
    names = analysis.trace.names
    reducing = np.array([kind_of(name) in REDUCTIONS for name in names] + [False])  # index -1: idle
    of_backward = (ledger.kind == DeviceClass.COMM) & (ledger.phase == PHASE["backward"])
    return float(time[ledger.busy & of_backward & reducing[ledger.name]].sum())


def _parts(ledger: Ledger, time: Floats, recording: Recording, known: list[GradientCost]) -> _Parts:
    def of(*roles: Role) -> float:
        return float(time[np.isin(ledger.role, [ROLE[r] for r in roles])].sum())

    backward = module_ns(ledger, time, "backward", recording)
    slower = factor(known, backward)
    missing = slower * sum(g.calls * (g.input_ns or 0) for g in missing_inputs(recording, known, backward))
    return _Parts(of(*ADAPTER_ROLES), of("optimizer"), of("grad_clip"), slower, missing)


def _median(each: Sequence[_Parts]) -> _Parts:
    fields = _Parts.__struct_fields__
    return _Parts(**{f: median(getattr(p, f) for p in each) for f in fields})


def _interval(value: float, *halves: float) -> Interval:
    """No step takes less than no time, however much the steps vary."""
    half = math.sqrt(sum(h * h for h in halves))
    return Interval(low=max(0, round(value - half)), high=round(value + half))


def _half(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / 2
