"""How fast could a kernel run at best on this device, and what would limit it?

    roof = max(FLOPs / matrix ceiling, time to move the compulsory bytes)      (Williams et al., CACM 52(4), 2009)

Ceilings come from the device's own calibration, or from the data sheet scaled to the SM clock that was measured; what
the step itself reached counts as calibrated too (``lifted``), up to what the data sheet allows. A kernel with fewer
blocks than the device has SMs, or whose roof is shorter than one tiny kernel takes, is bound by latency, unless it
reaches half of a ceiling all the same (kernels that keep one block per SM do). A kernel above 102 % of its roof is
"L2-assisted" where its bytes with cache reuse explain it, "higher clock" where the clock was not measured and the
highest explains it, "beyond calibration" where the data sheet allows what no calibrated work reached (writes alone are
faster than a copy), "fewer FLOPs" where an algorithm needs fewer (Winograd, arXiv 1509.09308), else "impossible": a
finding about the measurement.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import itemgetter

from msgspec import Struct
from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.work.rule import Work
from loraprof.model.gpu import GpuSpec
from loraprof.model.recording import Calibration
from loraprof.model.report import Bound

TOLERANCE = 1.02
MOST_LIFT = 1.5  # a step that is faster than that by calibration is measured wrong, or its shapes are
FED = 0.5  # of a ceiling: a kernel that reaches it is bound by it, however few blocks it has
# Bytes that a cache can hold take no time; nor does what the device can do at most; nor FLOPs that algorithms avoid.
EXCUSES = ("{cache}-assisted", "{surplus}", "fewer FLOPs")
DTYPES = ("bfloat16", "float16", "tf32", "float32", "float8_e4m3fn", "float8_e5m2")
TF32 = re.compile(r"tf32|s1688", re.IGNORECASE)


class Ceiling(Struct, frozen=True):
    """What a device can reach. Rates by dtype of the operands; "tf32" is float32 on tensor cores."""

    flops_per_s: Mapping[str, float]
    most_flops_per_s: Mapping[str, float]  # what nothing exceeds: the data sheet's at the highest clock, where known
    bytes_per_s: float | None  # large transfers
    basis: str
    copies: tuple[tuple[int, float], ...] = ()  # (bytes, ns) of calibrated copies, by size
    least_ns: float = 0.0  # a tiny kernel; CPU: a tiny op
    sms: int | None = None
    cache_bytes: int | None = None
    cache: str = "L2"
    most_bytes_per_s: float | None = None  # what nothing exceeds; None: bytes_per_s
    surplus: str = "higher clock"  # what explains a kernel between a ceiling and what nothing exceeds

    def memory_ns(self, nbytes: float) -> float | None:
        """Time to move ``nbytes``: a small transfer is held against a copy of its own size, a large one against the
        rate of the largest."""
        if self.bytes_per_s is None:
            return None
        if not self.copies or nbytes >= self.copies[-1][0]:
            return nbytes / self.bytes_per_s * 1e9
        above = bisect_left(self.copies, nbytes, key=itemgetter(0))
        (low, fast), (high, slow) = self.copies[max(above - 1, 0)], self.copies[above]
        if low == high:
            return nbytes * fast / low
        part = math.log(nbytes / low) / math.log(high / low)
        return nbytes * math.exp((1 - part) * math.log(fast / low) + part * math.log(slow / high))

    def far_bytes(self, nbytes: int, reused_bytes: int | None) -> int:
        """The part of ``nbytes`` that no cache can hold: with the reuse that was seen, or with all of the cache in
        use."""
        far = nbytes if reused_bytes is None else reused_bytes
        return far if self.cache_bytes is None else min(far, max(nbytes - self.cache_bytes, 0))


def calibrated(
    calibration: Calibration,
    sms: int | None = None,
    cache_bytes: int | None = None,
    on_gpu: bool = True,
    spec: GpuSpec | None = None,
) -> Ceiling | None:
    """Ceilings that this device reached. Dtypes that were not calibrated take the data sheet's ratio to one that was.

    None where neither GEMMs nor copies were calibrated.
    """
    rates: dict[str, float] = {}
    for g in calibration.gemm:
        rates[g.dtype] = _higher(2e9 * g.m * g.n * g.k / g.ns, rates.get(g.dtype))
    copies = tuple(sorted((c.bytes, c.ns) for c in calibration.copy))
    if not rates and not copies:
        return None
    peaks = {d: peak for d in DTYPES if (peak := spec.peak(d))} if spec else {}
    scale = [rate / peaks[d] for d, rate in rates.items() if d in peaks]
    if scale:
        rates = {d: peak * max(scale) for d, peak in peaks.items()} | rates
    tiny = calibration.turnaround_ns if on_gpu else calibration.op_ns
    stream = copies[-1][0] / copies[-1][1] * 1e9 if copies else None
    most = {d: _higher(rate, spec.peak(d, spec.max_sm_mhz) if spec else None) for d, rate in rates.items()}
    return Ceiling(
        flops_per_s=rates,
        most_flops_per_s=most,
        bytes_per_s=stream,
        basis="calibrated on this device",
        copies=copies,
        least_ns=float(tiny or 0),
        sms=sms,
        cache_bytes=cache_bytes,
        cache="L2" if on_gpu else "cache",
        most_bytes_per_s=_higher(stream, spec.dram_bytes_per_s if spec else None) if stream else None,
        surplus="beyond calibration",
    )


class Reached(Struct, frozen=True):
    """What calls of one kernel in a step reached above their roof, each: its time, and the work it is limited by."""

    ns: float
    min_bytes: int
    flops: int
    unit: str
    limit: Bound


def lifted(ceiling: Ceiling, reached: Iterable[Reached]) -> Ceiling:
    """The ceiling that is the best of what was calibrated and of what the step reached. What exceeds the data sheet, or
    MOST_LIFT where there is none, is no work that was done: it lifts nothing."""
    known, flops, curve = ceiling.bytes_per_s, dict(ceiling.flops_per_s), dict(ceiling.copies)
    if known is None:  # then no call has a roof
        return ceiling
    stream, most_bytes = known, _most(known, ceiling.most_bytes_per_s)
    largest = max(curve, default=0)
    for r in reached:
        if r.limit == "compute":
            rate = r.flops / r.ns * 1e9
            if rate <= _most(ceiling.flops_per_s[r.unit], ceiling.most_flops_per_s.get(r.unit)):
                flops[r.unit] = max(flops[r.unit], rate)
        elif r.min_bytes >= largest:
            rate = r.min_bytes / r.ns * 1e9
            stream = max(stream, rate) if rate <= most_bytes else stream
        elif r.ns * MOST_LIFT >= (ceiling.memory_ns(r.min_bytes) or 0.0):
            curve[r.min_bytes] = min(curve.get(r.min_bytes, math.inf), r.ns)
    if curve:  # one that ends in the stream's rate still does
        curve[largest] = curve[largest] * known / stream
    return replace(
        ceiling,
        flops_per_s=flops,
        most_flops_per_s={d: _higher(rate, ceiling.most_flops_per_s.get(d)) for d, rate in flops.items()},
        bytes_per_s=stream,
        most_bytes_per_s=_higher(stream, ceiling.most_bytes_per_s),
        copies=tuple(sorted(curve.items())),
    )


def _higher(rate: float, other: float | None) -> float:
    return rate if other is None else max(rate, other)


def _most(known: float, most: float | None) -> float:
    """What nothing exceeds, where a rate is known."""
    return most if most is not None and most > known else MOST_LIFT * known


def data_sheet(spec: GpuSpec, sm_mhz: float | None = None, cache_bytes: int | None = None) -> Ceiling:
    """Peaks of ``spec`` at the measured SM clock, as quoted where none was measured."""
    known = {d: peak for d in DTYPES if (peak := spec.peak(d, sm_mhz))}
    most = {d: peak for d in DTYPES if (peak := spec.peak(d, sm_mhz or spec.max_sm_mhz))}
    at = f" at {units.quantity(sm_mhz, 'MHz')}" if sm_mhz else ""
    return Ceiling(
        flops_per_s=known,
        most_flops_per_s={d: max(peak, known[d]) for d, peak in most.items()},
        bytes_per_s=spec.dram_bytes_per_s,
        basis=f"data sheet of {spec.name}{at}",
        sms=spec.sms,
        cache_bytes=cache_bytes or spec.l2_bytes,
    )


class Roof(Struct, frozen=True):
    """Best time of one call, ns, and that with more and more excuses: see ``EXCUSES``.

    ``large_ns`` is the time at the rates of large work, and ``limit`` which of them it is.
    """

    ns: float
    bound: Bound
    excused_ns: tuple[float, float, float]
    large_ns: float
    limit: Bound


def roof(
    work: Work | None, ceiling: Ceiling, blocks: int = -1, kernel: str = "", reused_bytes: int | None = None
) -> Roof | None:
    """None where the work, or a ceiling that it needs, is unknown. A view does nothing: its roof is 0 ns.

    ``blocks``: grid size, -1 unknown. ``reused_bytes``: bytes that reach memory with cache reuse.
    """
    if work is None or not work.exact:
        return None
    memory = ceiling.memory_ns(work.min_bytes)
    dtype = unit_of(work, kernel)
    rate, most = ceiling.flops_per_s.get(dtype), ceiling.most_flops_per_s.get(dtype)
    if memory is None or (work.flops and not (rate and most)):
        return None
    flops = work.least_flops if work.kind == "attention" else work.flops  # a mask's half is never computed
    compute = flops / rate * 1e9 if rate else 0.0
    fastest = most and _higher(most, ceiling.most_flops_per_s.get("tf32") if dtype == "float32" else None)
    ns = max(compute, memory)
    small = 0 <= blocks < (ceiling.sms or 0) or ns < ceiling.least_ns
    limit: Bound = "compute" if compute >= memory else "memory"
    stream = ceiling.bytes_per_s or math.inf
    far_bytes = ceiling.far_bytes(work.min_bytes, reused_bytes)
    far, least = (far_bytes / at * 1e9 for at in (stream, ceiling.most_bytes_per_s or stream))
    all_flops, fewest = (n / fastest * 1e9 if fastest else 0.0 for n in (flops, work.least_flops))
    excused = (max(compute, far), max(all_flops, least), max(fewest, least))
    large = max(compute, work.min_bytes / stream * 1e9)
    return Roof(ns, "latency" if small else limit, excused, large, limit)


def unit_of(work: Work, kernel: str) -> str:
    """Which of a ceiling's rates a matrix product has: its operands' dtype, "tf32" where the kernel's name says so."""
    return "tf32" if work.dtype == "float32" and TF32.search(kernel) else work.dtype or ""


def bound_of(total_ns: float, roofs: Iterable[Roof]) -> Bound:
    """What bounds calls that together took ``total_ns``: that of most roof time."""
    calls = list(roofs)
    fed = sum(r.large_ns for r in calls) >= FED * total_ns
    shares: dict[Bound, float] = {}
    for r in calls:
        bound = r.limit if fed else r.bound
        shares[bound] = shares.get(bound, 0.0) + r.ns
    return max(shares, key=lambda b: (shares[b], b), default="unknown")


def note(total_ns: float, roofs: Iterable[Roof], cache: str = "L2", surplus: str = "higher clock") -> str | None:
    """What explains calls that together ran above their roof; None where they did not."""
    calls = list(roofs)
    measured = total_ns * TOLERANCE
    if not calls or measured >= sum(r.ns for r in calls):
        return None
    for reason, limits in zip(EXCUSES, zip(*(r.excused_ns for r in calls), strict=True), strict=True):
        if measured >= sum(limits):
            return reason.format(cache=cache, surplus=surplus)
    return "impossible"
