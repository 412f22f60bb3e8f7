"""H findings: does the device wait for the host, and for what?"""

import re
from collections import Counter

import numpy as np

from loraprof import units
from loraprof.analysis.prediction.replay import accepted
from loraprof.analysis.trace.intervals import union
from loraprof.diagnosis.case import LONG_NS, Case
from loraprof.diagnosis.findings.compiled import COMPILING
from loraprof.diagnosis.findings.repeated import REPEATED_WORK
from loraprof.diagnosis.remedies import host as remedies
from loraprof.diagnosis.remedy import target
from loraprof.diagnosis.rule import HOST, Rule, Seen, evidence
from loraprof.diagnosis.select import Select, at_most, either, idle, total_ns, worth
from loraprof.diagnosis.worth import HostEdit, Worth
from loraprof.model.trace import Int32, Int64, among, distinct, named
from loraprof.model.vocabulary import Cause

POINTWISE = re.compile(r"elementwise|fused_dropout")  # in a kernel's name
HALF_HOST = 0.15  # H1: what a host twice as fast would save, of the step
LAUNCH_SHARE = 0.30  # H1: idle for the host, of the step
EMPTY_SHARE = 0.50  # H1: kernels that were not yet launched when the device fell idle
FEW = 20  # H1: launches that are no training step
DATA_SHARE = 0.05  # H4
HOST_SHARE = 0.20  # H2: idle in Python or inside ops, of the step
LONG_SHARE = 0.10  # H2: such ranges, of the step
ACTIVE = 0.05  # H5: busy time of a device that takes part, of the step
OVERLAP = 0.10  # H5: time two devices work at once, of the busier one's


def launch_bound(case: Case) -> Seen | None:
    """H1: the device waits for work to be submitted. On a CPU: issuing the ops costs more than doing them."""
    return _launch_bound_gpu(case) if case.analysis.on_gpu else _overhead_bound_cpu(case)


def _launch_bound_gpu(case: Case) -> Seen | None:
    saved, waited_ns = worth(case, _submitting(case)), total_ns(case, _submitting(case))
    unprofiled = case.timing.unprofiled
    share = saved.ns / unprofiled.median_ns if saved and unprofiled else waited_ns / case.wall_ns
    launches = len(case.busy.rows)
    late = max(_events(case, "launch_api"), _events(case, "launch_latency"))
    if share < LAUNCH_SHARE or launches < FEW:
        return None
    faster = _faster_host(case, waited_ns)
    shorter = faster is not None and faster.ns >= HALF_HOST * case.wall_ns
    if late < EMPTY_SHARE * launches and not shorter:
        return None
    rows = [
        evidence("share of the step in which the device waits for launches", share, "share"),
        evidence("kernels launched after the device had fallen idle", late, "kernels"),
        evidence("of all", launches, "kernels"),
        evidence("saved by a host twice as fast, replayed", round(faster.ns) if faster else None, "ns"),
    ]
    if not faster and saved:
        saved = saved.share(remedies.HALF_THE_LAUNCHES)
    return Seen(
        evidence=rows,
        saved=faster if faster and saved else saved,
        spent_ns=waited_ns,
        values={"merged": _merged(case)},
    )


def _submitting(case: Case) -> Select:
    """Idle time in which the device waited for work to be submitted: not for code that a launch call loads at its first
    use, nor, beyond the floor, for what holds a kernel back after its launch."""
    latency = idle("launch_latency", upto_ns=case.analysis.floor_ns or 0)
    return either(either(idle("python", "framework"), idle("launch_api", upto_ns=LONG_NS)), latency)


def _faster_host(case: Case, waited_ns: int) -> Worth | None:
    """What half the host's time would save, replayed, unprofiled ns: a micro-batch twice as large makes as many
    launches for twice the tokens.

    None where the replay does not reproduce the profiled step, or saves more than the device waits for the host:
    then streams wait for each other, which no trace records.
    """
    replayed = case.replay
    if replayed is None or not accepted(replayed.gate_error):
        return None
    if case.timing.unprofiled and replayed.solved is None:
        return None
    less = float(replayed.faster_ns(1 / remedies.TWICE))
    if less > waited_ns:
        return None
    return Worth(less, less, less, basis="replay", edit=HostEdit(share=1 / remedies.TWICE))


def _merged(case: Case) -> Worth | None:
    """What the step saves where elementwise kernels that follow each other are one launch, replayed: their launches go,
    their time on the device stays."""
    replayed = case.replay
    if replayed is None or replayed.sigma is None:
        return None
    trace = case.analysis.trace
    merged = named(trace.names, POINTWISE.search)[trace.device.name[replayed.step.record]]
    less = float(replayed.merged_ns(merged))
    return Worth(less, less, less, basis="replay", edit=HostEdit(merged=merged))


def _events(case: Case, cause: Cause) -> int:
    """Gaps with time of this cause."""
    return sum(p.events for p in case.step.partition if p.cause == cause)


def _overhead_bound_cpu(case: Case) -> Seen | None:
    """Python between the ops, and per op what the smallest op costs in the calibration."""
    calibration = case.recording.calibration if case.recording else None
    unprofiled = case.timing.unprofiled
    if calibration is None or not calibration.op_ns or unprofiled is None or not case.workload:
        return None
    python = worth(case, idle("python", upto_ns=LONG_NS))  # longer ones are H2's
    top = _top_ops(case)
    spent = (python.ns if python else 0.0) + min(top * calibration.op_ns, unprofiled.median_ns)
    if spent < LAUNCH_SHARE * unprofiled.median_ns:
        return None
    return Seen(
        evidence=[
            evidence("ops issued per step", top, "ops"),
            evidence("cost of the smallest op here", calibration.op_ns, "ns"),
            evidence("Python between ops", python.ns if python else None, "ns"),
            evidence("issuing, of the step", min(spent / unprofiled.median_ns, 1.0), "share"),
        ],
        saved=Worth(spent, spent, spent).share(remedies.HALF_THE_LAUNCHES),
        values={"merged": None},
        title="Overhead-bound: issuing the ops costs more than their arithmetic",
    )


def _top_ops(case: Case) -> int:
    """Leaf ops that did work in the reported step: views and wrappers have no bytes."""
    return sum(1 for w in case.busy.work if w is not None and w.min_bytes)


def python_overhead(case: Case) -> Seen | None:
    """H2: long stretches of host work in which nothing is launched, that come again in most of the steps."""
    share = (case.step.ns(cause="python") + case.step.ns(cause="framework")) / case.wall_ns
    long = _again_in_most_steps(case, idle("python", "framework", above_ns=LONG_NS))
    step = case.reported
    rows = long(step)
    spent = int(step.ns[rows].sum())
    if share < HOST_SHARE or spent < LONG_SHARE * case.wall_ns or spent <= _lost_ns(case):
        return None
    where = _places(case, step.module[rows], step.ns[rows])
    return Seen(
        evidence=[
            evidence("share of the step idle in Python or inside ops", share, "share"),
            evidence(f"host ranges above {units.ns(LONG_NS)} without a launch", int(rows.sum()), "ranges"),
            evidence("their time", spent, "ns"),
            evidence("most of it before", where, ""),
        ],
        saved=worth(case, long),
        spent_ns=spent,
        values={"place": where, "python": f"python {target(case)}"},
    )


def _lost_ns(case: Case) -> float:
    """Time of the step in which other work had the core of a step that needed one."""
    cores = case.timing.cores
    return (1 - cores) * case.wall_ns if case.timing.crowded and cores is not None else 0.0


def _again_in_most_steps(case: Case, select: Select) -> Select:
    """Entries before modules that have such entries in most of the recorded steps: where a thread loses its core to
    other work, it does so anywhere."""
    recorded = [ledger for ledger in case.analysis.ledgers if ledger.ns.sum()]
    steps = [case.reported if ledger is case.ledger else ledger for ledger in recorded]
    seen = Counter(module for ledger in steps for module in distinct(ledger.module[select(ledger)]).tolist())
    places = [module for module, times in seen.items() if 2 * times > len(steps)]
    return lambda ledger: select(ledger) & among(ledger.module, places)


def _places(case: Case, module: Int32, ns: Int64) -> str:
    """Path of the module before which most of the time was spent."""
    paths = case.analysis.attribution.paths
    totals = np.bincount(np.where(module >= 0, module, len(paths)), ns)
    best = int(totals.argmax())
    return paths[best] if best < len(paths) else "work outside every module"


def data_loading(case: Case) -> Seen | None:
    """H4: the step waits for its batch."""
    spent = case.step.ns(cause="data")
    if spent < DATA_SHARE * case.wall_ns:
        return None
    return Seen(
        evidence=[
            evidence("time the step waits for data", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
        ],
        saved=prepared_ahead(case),
        spent_ns=spent,
        values={"workers": _has_workers(case), "pinned": ", pin_memory=True" if case.analysis.on_gpu else ""},
    )


def _has_workers(case: Case) -> bool:
    """Whether processes of their own load the batches."""
    host = case.analysis.trace.host
    ranges = distinct(host.name[case.analysis.attribution.names.loader[host.name]])
    return any("MultiProcessing" in case.analysis.trace.names[i] for i in ranges.tolist())


def prepared_ahead(case: Case) -> Worth | None:
    """What workers save that prepare batches while the step runs: its wait, as far as so many are fast enough; on a CPU
    they may take what they save from the step's own threads.

        saved = min(wait, step - wait / workers)
    """
    waits, unprofiled = worth(case, idle("data")), case.timing.unprofiled
    if waits is None:
        return None
    assert unprofiled is not None  # there is no worth without
    most = max(unprofiled.median_ns - waits.ns / remedies.LOADERS, 0.0)
    saved = waits.times(most / waits.ns) if waits.ns > most else waits
    return saved if case.analysis.on_gpu else saved.at_most


def naive_pipeline(case: Case) -> Seen | None:
    """H5: layers on several devices of one process run one after another."""
    device, other_devices = case.analysis.trace.device, case.analysis.others
    if not other_devices or not len(device):
        return None
    window = case.ledger.window
    inside = (device.start >= window.start) & (device.start < window.end)
    each = (inside & (device.device == index) for index in distinct(device.device).tolist())
    busy = [union(device.start[device_rows], device.end[device_rows]) for device_rows in each]
    active = [one for one in busy if one.length > ACTIVE * case.wall_ns]
    if len(active) < 2:
        return None
    longest = max(one.length for one in active)
    together = union(*(np.concatenate([getattr(one, edge) for one in active]) for edge in ("start", "end")))
    overlap = sum(one.length for one in active) - together.length
    if overlap > OVERLAP * longest:
        return None
    return Seen(
        evidence=[
            evidence("devices that work in this process", len(active), "devices"),
            evidence("time at least two of them work at once", overlap, "ns"),
            evidence("busy time of the busiest", longest, "ns"),
            evidence("step", case.wall_ns, "ns"),
        ],
        saved=at_most(case, (together.length - longest) * case.scale),
        severity="major",
    )


LAUNCH_BOUND = Rule(
    "H1",
    HOST,
    launch_bound,
    remedies.LESS_PER_TOKEN,
    thresholds={"idle": LAUNCH_SHARE, "empty": EMPTY_SHARE, "half": HALF_HOST},
    probe="batch",
)
HOST_RULES = (
    LAUNCH_BOUND,
    Rule(
        "H2",
        HOST,
        python_overhead,
        (remedies.LESS_PYTHON,),
        thresholds={"share": HOST_SHARE, "long": LONG_NS},
        probe="batch",
    ),
    COMPILING,
    Rule("H4", HOST, data_loading, (remedies.WORKERS, remedies.MORE_WORKERS), thresholds={"share": DATA_SHARE}),
    Rule("H5", HOST, naive_pipeline, (remedies.ONE_DEVICE_EACH,), thresholds={"busy": ACTIVE, "overlap": OVERLAP}),
    REPEATED_WORK,
)
