"""N4 and N5: what crosses PCIe in every step. Weights that never change, and memory that no longer fits.

A copy to the device inside the forward pass brings weights: inputs come from outside the passes, activations from the
device. A copy back of as many bytes takes them away again.
"""

from collections import Counter
from math import prod
from typing import Final

import numpy as np
from msgspec import Struct

from loraprof.analysis.trace.intervals import Cover, union
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import power as remedies
from loraprof.diagnosis.rows import element_bytes
from loraprof.diagnosis.rule import POWER, Rule, Seen, evidence
from loraprof.diagnosis.select import at_most, worth
from loraprof.model.trace import Bool, Int64, named
from loraprof.model.vocabulary import PHASE, DeviceKind

LARGE: Final = 1_000_000  # N4: bytes of one copy
SHARE: Final = 0.02  # N4: of the step
FULL: Final = 0.95  # N5: reserved memory over the device's
POWER_SHARE: Final = 0.50  # N5: of the limit
UTILIZATION: Final = 90.0  # N5: percent


class Copies(Struct, frozen=True, eq=False):
    """Device records of the reported step: all, and which of them bring weights and take them back."""

    start: Int64
    end: Int64
    bytes: Int64
    work: Bool  # kernels
    brought: Bool
    taken: Bool


def weights_copied(case: Case) -> Seen | None:
    """N4: frozen weights are copied to the device, and perhaps back, in every step."""
    copied = _copies(case)
    if copied is None:
        return None
    moved = copied.brought | copied.taken
    copies, work = _union(copied, moved), _union(copied, copied.work)
    if copies.length < SHARE * case.wall_ns:
        return None
    hidden = _common(copies, work)
    back = _union(copied, copied.taken)
    exposed = copies.length - hidden
    saved = min(exposed, work.length - hidden)
    needless = back.length - _common(back, work)
    return Seen(
        evidence=[
            evidence("copies of weights to the device", int(copied.brought.sum()), "tensors"),
            evidence("their bytes", int(copied.bytes[copied.brought].sum()), "B"),
            evidence("copies of weights back to the host", int(copied.taken.sum()), "tensors"),
            evidence("time of these copies", copies.length, "ns"),
            evidence("of it hidden behind computation", hidden, "ns"),
            evidence("computation that could hide the rest", work.length - hidden, "ns"),
        ],
        saved=at_most(case, saved * case.scale),
        spent_ns=saved,
        values={"exposed": exposed, "back": needless, "back_ns": needless * case.scale},
    )


def _copies(case: Case) -> Copies | None:
    """None where the step brings no weights."""
    work, device = case.analysis.work, case.analysis.trace.device
    if work is None:
        return None
    at = work.overlapping(case.ledger.window)
    rows = work.rows[at]
    copied = device.kind[rows] == DeviceKind.MEMCPY
    names = case.analysis.trace.names
    to, back = (
        named(names, lambda n: "HtoD" in n)[device.name[rows]],
        named(names, lambda n: "DtoH" in n)[device.name[rows]],
    )
    nbytes = device.bytes[rows]
    large = copied & (nbytes >= LARGE)
    brought = large & to & np.isin(work.phase[at], (PHASE["forward"], PHASE["recompute"]))
    frozen = _frozen_sizes(case)
    sizes = {n for n in nbytes[brought].tolist() if frozen is None or n in frozen}
    if not sizes:
        return None
    weights = large & np.array([n in sizes for n in nbytes.tolist()])
    brought = weights & to
    window = case.ledger.window
    start, end = np.maximum(work.start[at], window.start), np.minimum(work.end[at], window.end)
    return Copies(start, end, nbytes, device.kind[rows] == DeviceKind.KERNEL, brought, weights & back)


def _frozen_sizes(case: Case) -> set[int] | None:
    """Bytes of each frozen parameter, and of all of one module; None where no recording says what is frozen."""
    if case.recording is None or not case.recording.parameters:
        return None
    single = [(p.module, prod(p.shape) * element_bytes(p.dtype)) for p in case.recording.parameters if not p.trainable]
    whole = Counter[int]()
    for module, nbytes in single:
        whole[module] += nbytes
    return {nbytes for _, nbytes in single} | set(whole.values())


def _union(seen: Copies, flag: Bool) -> Cover:
    return union(seen.start[flag], seen.end[flag])


def _common(first: Cover, second: Cover) -> int:
    """Time in both."""
    both = union(np.concatenate((first.start, second.start)), np.concatenate((first.end, second.end)))
    return first.length + second.length - both.length


def spilled(case: Case) -> Seen | None:
    """N5: memory is full, the device is said to be busy, and draws little power: it works on memory of the host."""
    memory, sampled = case.recording.memory if case.recording else None, case.nvml
    if memory is None or sampled is None or not memory.reserved_bytes or not memory.total_bytes:
        return None
    draw_mw, utilization = sampled.mean("power_mw"), sampled.mean("utilization")
    if draw_mw is None or utilization is None or not sampled.power_limit_mw:
        return None
    power = draw_mw / sampled.power_limit_mw
    full = memory.reserved_bytes / memory.total_bytes
    if full < FULL or power >= POWER_SHARE or utilization < UTILIZATION:
        return None
    environment = case.recording.environment if case.recording else None
    copies = [k for k in case.kernels if k.role == "copy" and ("HtoD" in k.name or "DtoH" in k.name)]
    return Seen(
        evidence=[
            evidence("reserved memory, of the device's", full, "share"),
            evidence("power draw, of the limit", power, "share"),
            evidence("utilisation, as nvidia-smi shows it", utilization / 100, "share"),
            evidence("copies between host and device in the step", sum(k.total_ns for k in copies), "ns"),
            evidence("platform", environment.platform if environment else None),
        ],
        saved=worth(case, lambda ledger: ledger.busy),
        severity="major",
        values={"windows": environment is not None and "windows" in environment.platform.lower()},
    )


WEIGHT_COPIES = Rule(
    "N4",
    POWER,
    weights_copied,
    (remedies.NO_COPY_BACK, remedies.PREFETCH, remedies.FEWER_BLOCKS),
    thresholds={"bytes": LARGE, "share": SHARE},
)
SPILLED = Rule(
    "N5",
    POWER,
    spilled,
    (remedies.NO_FALLBACK, remedies.LESS_MEMORY),
    thresholds={"full": FULL, "power": POWER_SHARE, "utilization": UTILIZATION / 100},
)
