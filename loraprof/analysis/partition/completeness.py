"""Is the trace complete? The closure checks C1 to C7 that an analysis can make, as counts and as sentences.

Records of the device and of the host have to pair up by correlation, times have to be possible, and steps have to
follow one another. What fails is counted here and its time is ``unknown`` in the partition.
"""

from typing import Final

import numpy as np

from loraprof.analysis.attribution.attribute import Attribution
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.trace.launch_links import Links
from loraprof.model.recording import Recording
from loraprof.model.report import Closure
from loraprof.model.trace import NONE, Trace
from loraprof.model.vocabulary import ROLE, HostKind

PROGRAMMATIC: Final = (9, 0)  # compute capability from which a kernel may start before its forerunner ends


def closure_of(
    trace: Trace,
    recording: Recording | None,
    links: Links,
    attribution: Attribution,
    reported: Ledger | None,
    notes: list[str],
) -> Closure:
    """Closure of a trace; ``reported`` is the reported step's ledger, ``notes`` what is known to be odd already."""
    lost_device = recording is not None and recording.device.kind == "cuda" and not len(trace.device)
    lost = links.launches_without_kernel + links.kernels_without_launch + links.negative_latency
    return Closure(
        ok=not (lost or lost_device or trace.faults.zero_timestamps or trace.faults.duplicates),
        launches_without_kernel=links.launches_without_kernel,
        kernels_without_launch=links.kernels_without_launch,
        negative_latency=links.negative_latency,
        zero_timestamps=trace.faults.zero_timestamps,
        unattributed_ns=_unattributed(reported),
        attribution_disagreements=attribution.disagreements,
        notes=[*notes, *_device_notes(trace, lost_device), *_link_notes(links)],
    )


def _unattributed(ledger: Ledger | None) -> int:
    """Busy time of no module, ns; copies and collectives need none."""
    if ledger is None:
        return 0
    free = ledger.busy & (ledger.module == NONE) & (ledger.role != ROLE["comm"]) & (ledger.role != ROLE["copy"])
    return int(ledger.ns[free].sum())


def _device_notes(trace: Trace, lost_device: bool) -> list[str]:
    if lost_device:
        return ["no device activity was recorded although a GPU ran: only the host is analysed"]
    if not len(trace.device) and trace.unread:
        return [f"an accelerator's records are none that loraprof reads ({', '.join(trace.unread)}): steps unexplained"]
    if not len(trace.device):
        return ["no device records: analysed as a CPU trace"]
    notes = ["ROCm: records abut, the turnaround floor is 0"] if trace.rocm else []
    if not (trace.host.kind == HostKind.OP).any():
        notes.append("no CPU ops were recorded: what the host did between its calls is unknown")
    branches, others = overlaps_on_stream(trace)
    overlap = "device records overlap the one before on their stream"
    if branches:
        notes.append(f"{branches} {overlap}: parallel branches of a CUDA graph")
    if others:
        able = not trace.rocm and all(gpu.capability is None or gpu.capability >= PROGRAMMATIC for gpu in trace.gpus)
        notes.append(f"{others} {overlap}: {'programmatic launches' if able else 'nothing on this GPU explains it'}")
    return notes


def overlaps_on_stream(trace: Trace) -> tuple[int, int]:
    """Records that start before their forerunner on the same stream ends (C5): of one graph launch, and others.

    Files in whole us may be 1 us off.
    """
    device = trace.device
    order = np.lexsort((device.end, device.start, device.stream, device.device))
    first, second = order[:-1], order[1:]
    coarse = bool(((device.end - device.start) % 1000 == 0).all())
    early = device.end[first] - device.start[second] > (1000 if coarse else 0)
    early &= (device.stream[first] == device.stream[second]) & (device.device[first] == device.device[second])
    one_launch = early & (device.correlation[first] == device.correlation[second]) & (device.correlation[first] >= 0)
    return int(one_launch.sum()), int(early.sum() - one_launch.sum())


def _link_notes(links: Links) -> list[str]:
    lost = links.kernels_without_launch - links.orphans
    said = (
        (links.orphans, "device records were launched before the trace began"),
        (lost, "device records have no launch record: the gaps they end are unknown"),
        (links.launches_without_kernel, "launch calls have no device record: records were lost"),
        (links.captured, "launch calls were captured into a graph: they ran nothing"),
        (links.negative_latency, "device records start at or before their launch call: clock error"),
        (links.ambiguous, "correlation ids belong to several launch calls"),
    )
    return [f"{count} {text}" for count, text in said if count]
