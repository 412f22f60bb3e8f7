"""What did the GPU do during one loop? Samples at a steady rate, counters at both ends, and what is missing.

A figure that cannot be read is ``None`` with the reason in ``Nvml.missing``, never 0:
energy = counter at stop - counter at start, only where it grew (the counter moves every 10 to 100 ms);
violations = the same difference, 0 where nothing was throttled, missing where a counter went back.
"""

import time
from itertools import pairwise
from typing import Any, Final

from loraprof.capture.nvml.device import (
    GPM_METRICS,
    GPM_MIN_NS,
    POLICIES,
    POLICY_FIELDS,
    Device,
    counters,
    gpm_activity,
    gpm_free,
    gpm_sample,
    reading,
)
from loraprof.capture.nvml.errors import NvmlFailure
from loraprof.model.recording import Nvml, NvmlSample

FIGURES: Final = ("sm_clock_mhz", "mem_clock_mhz", "power_mw", "temperature_c", "reasons")
UTILIZATION_PERIOD_NS: Final = 1_000_000_000  # the driver's own window is 1/6 to 1 s
AVERAGED: Final = "the samples hold a 1 s average on Ampere and newer except GA100 (nvmlDeviceGetPowerUsage)"
SHARED: Final = "MIG: power, energy, clocks and temperature are those of the whole GPU"


class Sampling:
    """One loop of one device: ``sample`` as often as wanted, then ``finish`` once."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.samples: list[NvmlSample] = []
        self.missing: dict[str, str] = {"instance_power_mw": SHARED} if device.mig else {}
        self.lost: str | None = None
        self._reason: dict[str, str] = {}
        self._dropped: set[str] = set()
        self._power = "power_mw"
        self._utilization_due = 0
        self._constants = {name: self._read(name) for name in ("power_limit_mw", "sm_clock_max_mhz")}
        self._gpm = self._gpm_sample("")
        self.started_ns = time.monotonic_ns()
        self._first = counters(device)

    def sample(self) -> None:
        """Takes one reading of every figure that can still be read."""
        now = time.monotonic_ns()
        if self.lost or (self.samples and now <= self.samples[-1].monotonic_ns):
            return
        figures: dict[str, int | None] = {name: self._read(name) for name in FIGURES}
        if now >= self._utilization_due:
            figures["utilization"] = self._read("utilization")
            self._utilization_due = now + UTILIZATION_PERIOD_NS
        if not self.lost:
            self.samples.append(NvmlSample(monotonic_ns=now, **figures))

    def finish(self, steps: int, loop_ns: int) -> Nvml:
        """Reads the counters again and returns all there is to know about the loop."""
        last = counters(self.device)
        ended_ns = time.monotonic_ns()
        energy_mj, violations_ns = self._growth(last)
        activity = self._activity(ended_ns)
        self._explain()
        return Nvml(
            uuid=self.device.uuid,
            driver=self.device.driver,
            steps=steps,
            loop_ns=loop_ns,
            samples=self.samples,
            energy_mj=energy_mj,
            violations_ns=violations_ns,
            longest_gap_ns=self._longest_gap_ns(ended_ns),
            tensor_active=activity.get("tensor_active"),
            dram_active=activity.get("dram_active"),
            missing=dict(sorted(self.missing.items())),
            **self._constants,
        )

    def _read(self, figure: str) -> int | None:
        if figure in self._dropped or self.lost:
            return None
        try:
            return reading(self.device, self._power if figure == "power_mw" else figure)
        except NvmlFailure as error:
            if figure == "power_mw" and self._power == figure and error.permanent and not error.lost:
                self._power = "power_average_mw"
                self.missing["power_instant_mw"] = f"{error.reason}; {AVERAGED}"
                return self._read(figure)
            self._note(figure, error)
            return None

    def _note(self, figure: str, error: NvmlFailure) -> None:
        self._reason.setdefault(figure, error.reason)
        if error.permanent:
            self._dropped.add(figure)
        if error.lost:
            self.lost = error.reason

    def _explain(self) -> None:
        """Fills ``missing`` for the figures of the samples and the constants."""
        for figure, reason in self._reason.items():
            read = sum(getattr(one, figure, None) is not None for one in self.samples)
            self.missing[figure] = f"{reason} (after {read} readings)" if read else reason
        if self.lost:
            self.missing["samples"] = f"{self.lost}; sampling ended after {len(self.samples)} samples"

    def _growth(self, last: dict[str, int | NvmlFailure]) -> tuple[int | None, dict[str, int]]:
        grown: dict[str, int] = {}
        for name, before in self._first.items():
            after = last[name]
            key = name if name == "energy_mj" else f"violations_ns.{name}"
            if isinstance(before, NvmlFailure):
                self.missing[key] = before.reason
            elif isinstance(after, NvmlFailure):
                self.missing[key] = after.reason
            elif after < before:
                self.missing[key] = f"the counter went back from {before} to {after}"
            elif name == "energy_mj" and after == before:
                self.missing[key] = "the energy counter did not move during the loop: too short"
            else:
                grown[name] = after - before
        ordered = {name: grown[name] for name in (*POLICIES, *POLICY_FIELDS) if name in grown}
        return grown.get("energy_mj"), ordered

    def _longest_gap_ns(self, ended_ns: int) -> int | None:
        """The longest time without a sample, the ends of the loop included."""
        if not self.samples:
            return None
        times = [self.started_ns, *(one.monotonic_ns for one in self.samples), ended_ns]
        return max(b - a for a, b in pairwise(times))

    def _gpm_sample(self, when: str) -> Any:
        try:
            return gpm_sample(self.device)
        except NvmlFailure as error:
            self.missing |= dict.fromkeys(GPM_METRICS, f"{error.reason}{when}")
            return None

    def _activity(self, ended_ns: int) -> dict[str, float]:
        first, self._gpm = self._gpm, None
        if first is None:
            return {}
        last = None
        try:
            if ended_ns - self.started_ns < GPM_MIN_NS:
                raise NvmlFailure("the loop is shorter than the 100 ms that GPM needs")
            last = self._gpm_sample(" (at the end of the loop)")
            found = {} if last is None else gpm_activity(self.device, first, last)
        except NvmlFailure as error:
            found = dict.fromkeys(GPM_METRICS, error)
        finally:
            for one in (first, last):
                if one is not None:
                    gpm_free(self.device, one)
        for name, value in found.items():
            if isinstance(value, NvmlFailure):
                self.missing[name] = value.reason
        return {name: value for name, value in found.items() if not isinstance(value, NvmlFailure)}
