"""How long would work that did not run have taken here? Times from this device's own calibration.

GEMM: the achieved rate of the calibrated shapes, interpolated by inverse distance in log(m, n, k); a shape that was
calibrated is its own answer. Copy: the calibrated curve time(bytes), interpolated in log-log.
"""

import itertools
import math

import numpy as np
from msgspec import Struct

from loraprof import units
from loraprof.model.recording import Calibration, GemmRate


class Rates(Struct, frozen=True):
    """Rates of one device from its calibration."""

    calibration: Calibration

    def gemm_ns(self, m: int, n: int, k: int, dtype: str) -> float | None:
        """Time of C[m,n] = A[m,k] B[k,n], ns; None when nothing of that dtype was calibrated."""
        known = [g for g in self.calibration.gemm if g.dtype == dtype]
        if not known:
            return None
        exact = [g.ns for g in known if (g.m, g.n, g.k) == (m, n, k)]
        if exact:
            return float(exact[0])
        weights = [_distance(g, m, n, k) ** -2 for g in known]
        logs = [math.log(2.0 * g.m * g.n * g.k / g.ns) for g in known]
        rate = math.exp(sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights))
        return 2.0 * m * n * k / rate

    def copy_ns(self, nbytes: float) -> float | None:
        """Time to read and write ``nbytes`` in all, ns; None without a calibrated curve."""
        curve = sorted(self.calibration.copy, key=lambda c: c.bytes)
        if not curve or nbytes <= 0:
            return None
        x = [math.log(c.bytes) for c in curve]
        y = [math.log(c.ns / c.bytes) for c in curve]
        return float(nbytes * math.exp(float(np.interp(math.log(nbytes), x, y))))

    @property
    def stream_bytes_per_s(self) -> float | None:
        """Bandwidth of the largest calibrated copy."""
        curve = sorted(self.calibration.copy, key=lambda c: c.bytes)
        return 1e9 * curve[-1].bytes / curve[-1].ns if curve else None

    def gemm_flops_per_s(self, dtype: str) -> float | None:
        """Best calibrated rate of GEMMs in ``dtype``; None when none was calibrated."""
        known = (2e9 * g.m * g.n * g.k / g.ns for g in self.calibration.gemm if g.dtype == dtype)
        return max(known, default=None)


DIP = 3.0  # a rate this many times below both neighbours is no property of a device


def unsteady(calibration: Calibration) -> str | None:
    """How a calibration contradicts itself, because something else ran on the device; None where it does not."""
    copies = sorted(calibration.copy, key=lambda c: c.bytes)
    rates = [c.bytes / c.ns for c in copies]
    for i in range(1, len(rates) - 1):
        if rates[i] * DIP < min(max(rates[:i]), max(rates[i + 1 :])):
            return f"copies of {units.nbytes(copies[i].bytes)} were slower than smaller and larger ones"
    squares = sorted((g.dtype, g.m, g.ns) for g in calibration.gemm if g.m == g.n == g.k)
    for (dtype, small, longer), (other, large, shorter) in itertools.pairwise(squares):
        if dtype == other and small < large and longer > shorter:
            return f"a GEMM of {units.count(small)} cubed took longer than one of {units.count(large)}"
    return None


def _distance(g: GemmRate, m: int, n: int, k: int) -> float:
    return math.hypot(math.log(g.m / m), math.log(g.n / n), math.log(g.k / k))
