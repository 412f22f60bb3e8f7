"""A stand-in for pynvml that plays GPUs and failing drivers: ``library=f"{__file__}:HOPPER"``.

Constants and structures are pynvml's own; every function is played here, and a function that is not (each setter
among them) fails the process. Counters grow with each reading.
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import pynvml

UUID = "GPU-11111111-2222-3333-4444-555555555555"
MIG_UUID = "MIG-99999999-2222-3333-4444-555555555555"
NOT_SUPPORTED, NO_PERMISSION, LOST = 3, 4, 15


class Fake:
    """``errors`` maps a function name or field id to an NVML code; ``lost_after`` counts clock readings."""

    def __init__(
        self,
        errors: dict[str | int, int] | None = None,
        *,
        gpm: bool = False,
        uuids: tuple[str, ...] = (UUID,),
        lost_after: int | None = None,
        backwards: tuple[str, ...] = (),
        frozen: tuple[str, ...] = (),
        metric_codes: tuple[int, int] = (0, 0),
        die: bool = False,
        flaky: int | None = None,
    ) -> None:
        self.errors = errors or {}
        self.gpm = gpm
        self.uuids = uuids
        self.lost_after = lost_after
        self.backwards = backwards
        self.frozen = frozen
        self.metric_codes = metric_codes
        self.die = die
        self.flaky = flaky
        self.clock_reads = 0
        self.counts: dict[str, int] = {}
        self.held: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("c_nvml"):
            return getattr(pynvml, name)
        raise SystemExit(f"{name} is not among the functions a sampler may call")

    def _fail(self, key: str | int) -> None:
        lost = self.lost_after is not None and self.clock_reads > self.lost_after
        code = LOST if lost else self.errors.get(key, 0)
        if code:
            raise pynvml.NVMLError(code)

    def _grow(self, name: str, first: int, step: int) -> int:
        if name in self.frozen:
            return first
        self.counts[name] = self.counts.get(name, -1) + 1
        return first + step * self.counts[name] * (-1 if name in self.backwards else 1)

    def nvmlInit(self) -> None:
        self._fail("nvmlInit")

    def nvmlShutdown(self) -> None:
        self._fail("nvmlShutdown")

    def nvmlSystemGetDriverVersion(self) -> str:
        self._fail("nvmlSystemGetDriverVersion")
        return "570.86.15"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._fail("nvmlDeviceGetHandleByUUID")
        if uuid not in self.uuids:
            raise pynvml.NVMLError(6)
        return "mig" if uuid.startswith("MIG-") else "gpu"

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        assert handle == "mig"
        return "gpu"

    def nvmlDeviceGetGpuInstanceId(self, handle: str) -> int:
        assert handle == "mig"
        return 7

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert handle == "gpu"
        self.clock_reads += 1
        if self.die and self.clock_reads > 4:
            raise SystemExit("the sampler was killed by a fault in the driver")
        self._fail("nvmlDeviceGetClockInfo")
        if self.flaky is not None and kind == 1 and self.clock_reads // 2 == self.flaky:
            raise pynvml.NVMLError(10)
        return {1: 1410, 2: 1593}[kind]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        self._fail("nvmlDeviceGetMaxClockInfo")
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        self._fail("nvmlDeviceGetEnforcedPowerLimit")
        return 700_000

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> Any:
        self._fail("nvmlDeviceGetFieldValues")
        values = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, field in zip(values, fields, strict=True):
            value.fieldId = field
            value.nvmlReturn = self.errors.get(field, 0)
            if field == 186:
                value.valueType = 1
                value.value.uiVal = 301_000
            else:
                value.valueType = 3
                value.value.ullVal = self._grow(f"field{field}", 1_000_000, 5_000)
        return values

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._fail("nvmlDeviceGetPowerUsage")
        return 250_000

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._fail("nvmlDeviceGetTemperature")
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        self._fail("nvmlDeviceGetCurrentClocksEventReasons")
        return 0x4

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return 0x20

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._fail("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=98, memory=40)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._fail("nvmlDeviceGetTotalEnergyConsumption")
        return self._grow("energy", 10_000_000, 42_000)

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> Any:
        self._fail("nvmlDeviceGetViolationStatus")
        return SimpleNamespace(violationTime=self._grow(f"policy{policy}", 500, 1000 * policy), referenceTime=1)

    def nvmlGpmQueryDeviceSupport(self, handle: str) -> Any:
        self._fail("nvmlGpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=int(self.gpm))

    def nvmlGpmSampleAlloc(self) -> Any:
        number = 1 + self._grow("sample", 0, 1)
        self.held.add(number)
        return ctypes.cast(number, pynvml.c_nvmlGpmSample_t)

    def nvmlGpmSampleFree(self, sample: Any) -> None:
        self.held.remove(ctypes.cast(sample, ctypes.c_void_p).value or 0)

    def nvmlGpmSampleGet(self, handle: str, sample: Any) -> Any:
        self._fail("nvmlGpmSampleGet")
        return sample

    def nvmlGpmMigSampleGet(self, handle: str, instance: int, sample: Any) -> Any:
        assert (handle, instance) == ("gpu", 7)
        return sample

    def nvmlGpmMetricsGet(self, request: Any) -> Any:
        assert (request.version, request.numMetrics) == (1, 2)
        for slot, (metric, value) in enumerate(((5, 12.5), (10, 40.0))):
            assert request.metrics[slot].metricId == metric
            request.metrics[slot].nvmlReturn = self.metric_codes[slot]
            request.metrics[slot].value = value
        return request


VOLTA = Fake({186: NOT_SUPPORTED, 269: NOT_SUPPORTED, 270: NOT_SUPPORTED, 271: NOT_SUPPORTED})
AMPERE = Fake()
HOPPER = Fake(gpm=True)
MIG = Fake({"nvmlDeviceGetUtilizationRates": NOT_SUPPORTED, "nvmlGpmSampleGet": NOT_SUPPORTED}, gpm=True,
           uuids=(UUID, MIG_UUID))  # fmt: skip
ONE_METRIC = Fake(gpm=True, metric_codes=(0, NOT_SUPPORTED))
NO_DRIVER = Fake({"nvmlInit": 12})
NOT_LOADED = Fake({"nvmlInit": 9})
UNINITIALISED = Fake({"nvmlDeviceGetHandleByUUID": 1})
FORBIDDEN = Fake(
    dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetViolationStatus"), NO_PERMISSION)  # type: ignore[arg-type]
    | {"nvmlDeviceGetCurrentClocksEventReasons": NO_PERMISSION, "nvmlGpmSampleGet": NO_PERMISSION},
    gpm=True,
)
LOST_MID_LOOP = Fake(gpm=True, lost_after=6)
LOST_AT_ONCE = Fake(lost_after=-1)
BACKWARDS = Fake(backwards=("energy", "policy1", "field269"))
FROZEN = Fake(frozen=("energy", "policy0"))
OLD_DRIVER = Fake({"nvmlDeviceGetCurrentClocksEventReasons": 13})
CRASHING = Fake(die=True)
FLAKY = Fake(flaky=1)
