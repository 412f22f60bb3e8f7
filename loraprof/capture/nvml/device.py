"""What does NVML say about one GPU now? Cheap readings, counters for both ends of a loop, GPM activity.

Only getters: no setting of the device is ever changed. Semantics follow the NVML API reference:
field 186 (POWER_INSTANT) is instantaneous everywhere, ``nvmlDeviceGetPowerUsage`` is a 1 s average on Ampere and
newer except GA100; violation counters and fields 269 to 271 are cumulative ns; energy is mJ since driver load;
GPM activities are per cent between two samples at least 100 ms apart.
"""

from typing import Any, Final

import msgspec

from loraprof.capture.nvml.errors import NvmlFailure, call, failure

POWER_INSTANT: Final = 186
GPM_METRICS: Final = {"tensor_active": 5, "dram_active": 10}  # ANY_TENSOR_UTIL, DRAM_BW_UTIL
GPM_VERSION: Final = 1
GPM_MIN_NS: Final = 100_000_000  # shorter intervals are invalid on Hopper (NVIDIA/DCGM#310)
POLICIES: Final = {
    "power": 0,
    "thermal": 1,
    "sync_boost": 2,
    "board_limit": 3,
    "low_utilization": 4,
    "reliability": 5,
}
POLICY_FIELDS: Final = {"software_thermal": 269, "hardware_thermal": 270, "power_brake": 271}
# nvmlValueType_t to the member of nvmlValue_t that holds the value
VALUE_MEMBERS: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
CLOCK_SM: Final = 1
CLOCK_MEMORY: Final = 2
TEMPERATURE_GPU: Final = 0


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """An open GPU. Under MIG ``handle`` is the whole GPU and ``instance`` the GPU instance inside it."""

    library: Any
    handle: Any
    uuid: str
    driver: str | None
    mig: bool = False
    instance: int | None = None


def open_device(library: Any, uuid: str) -> Device:
    """Initialises NVML and finds the GPU or MIG instance by UUID. Raises NvmlFailure."""
    call(library, "nvmlInit")
    try:
        driver = _text(call(library, "nvmlSystemGetDriverVersion"))
    except NvmlFailure:
        driver = None
    handle, found = _find(library, uuid)
    if not found.startswith("MIG-"):
        return Device(library=library, handle=handle, uuid=found, driver=driver)
    whole = call(library, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
    try:
        instance = int(call(library, "nvmlDeviceGetGpuInstanceId", handle))
    except NvmlFailure:
        instance = None
    return Device(library=library, handle=whole, uuid=found, driver=driver, mig=True, instance=instance)


def _find(library: Any, uuid: str) -> tuple[Any, str]:
    """torch gives a MIG instance's UUID without saying that it is one: try both prefixes."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    first, second = ("MIG-", "GPU-") if uuid.startswith("MIG-") else ("GPU-", "MIG-")
    try:
        return call(library, "nvmlDeviceGetHandleByUUID", first + bare), first + bare
    except NvmlFailure as error:
        try:
            return call(library, "nvmlDeviceGetHandleByUUID", second + bare), second + bare
        except NvmlFailure:
            raise error from None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def field(device: Device, field_id: int) -> int:
    """One NVML field value (nvmlDeviceGetFieldValues), with its own return code checked."""
    value = call(device.library, "nvmlDeviceGetFieldValues", device.handle, [field_id])[0]
    if value.nvmlReturn != 0:
        raise failure(value.nvmlReturn)
    member = VALUE_MEMBERS.get(value.valueType)
    if member is None:
        raise NvmlFailure(f"field {field_id} has the unknown value type {value.valueType}")
    return int(getattr(value.value, member))


def reading(device: Device, figure: str) -> int:
    """One cheap figure by its name in NvmlSample, ``power_average_mw``, or a constant of Nvml."""
    library, handle = device.library, device.handle
    match figure:
        case "sm_clock_mhz":
            return int(call(library, "nvmlDeviceGetClockInfo", handle, CLOCK_SM))
        case "mem_clock_mhz":
            return int(call(library, "nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY))
        case "power_mw":
            return field(device, POWER_INSTANT)
        case "power_average_mw":
            return int(call(library, "nvmlDeviceGetPowerUsage", handle))
        case "temperature_c":
            return int(call(library, "nvmlDeviceGetTemperature", handle, TEMPERATURE_GPU))
        case "reasons":
            return _reasons(library, handle)
        case "utilization":
            return int(call(library, "nvmlDeviceGetUtilizationRates", handle).gpu)
        case "energy_mj":
            return int(call(library, "nvmlDeviceGetTotalEnergyConsumption", handle))
        case "power_limit_mw":
            return int(call(library, "nvmlDeviceGetEnforcedPowerLimit", handle))
        case "sm_clock_max_mhz":
            return int(call(library, "nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM))
    raise ValueError(figure)


def _reasons(library: Any, handle: Any) -> int:
    """Clock-event bits; drivers before 535 know them, bit for bit, by their older name."""
    try:
        return int(call(library, "nvmlDeviceGetCurrentClocksEventReasons", handle))
    except NvmlFailure as error:
        if not error.absent:
            raise
        return int(call(library, "nvmlDeviceGetCurrentClocksThrottleReasons", handle))


def counters(device: Device) -> dict[str, int | NvmlFailure]:
    """Cumulative counters, read at both ends of a loop: ``energy_mj`` and one per throttle policy (ns)."""
    found: dict[str, int | NvmlFailure] = {}
    for name in ("energy_mj", *POLICIES, *POLICY_FIELDS):
        try:
            if name in POLICIES:
                status = call(device.library, "nvmlDeviceGetViolationStatus", device.handle, POLICIES[name])
                found[name] = int(status.violationTime)
            else:
                found[name] = field(device, POLICY_FIELDS[name]) if name in POLICY_FIELDS else reading(device, name)
        except NvmlFailure as error:
            found[name] = error
    return found


def gpm_sample(device: Device) -> Any:
    """A GPM sample of the GPU, or of its MIG instance. The driver holds it until ``gpm_free``."""
    library = device.library
    if not call(library, "nvmlGpmQueryDeviceSupport", device.handle).isSupportedDevice:
        raise NvmlFailure("GPM needs a Hopper or newer GPU")
    if device.mig and device.instance is None:
        raise NvmlFailure("MIG: the GPU instance could not be identified")
    sample = call(library, "nvmlGpmSampleAlloc")
    try:
        if device.mig:
            call(library, "nvmlGpmMigSampleGet", device.handle, device.instance, sample)
        else:
            call(library, "nvmlGpmSampleGet", device.handle, sample)
    except NvmlFailure:
        gpm_free(device, sample)
        raise
    return sample


def gpm_free(device: Device, sample: Any) -> None:
    """Gives a GPM sample back; a failure to do so loses nothing that was measured."""
    try:
        call(device.library, "nvmlGpmSampleFree", sample)
    except NvmlFailure:
        return


def gpm_activity(device: Device, first: Any, last: Any) -> dict[str, float | NvmlFailure]:
    """Activities between two samples, as fractions, each by its own return code. Raises NvmlFailure."""
    request = call(device.library, "c_nvmlGpmMetricsGet_t")
    request.version = GPM_VERSION
    request.numMetrics = len(GPM_METRICS)
    request.sample1, request.sample2 = first, last
    for slot, metric in enumerate(GPM_METRICS.values()):
        request.metrics[slot].metricId = metric
    call(device.library, "nvmlGpmMetricsGet", request)
    found: dict[str, float | NvmlFailure] = {}
    for slot, name in enumerate(GPM_METRICS):
        metric = request.metrics[slot]
        if metric.nvmlReturn != 0:
            found[name] = failure(metric.nvmlReturn)
        elif not 0 <= metric.value <= 100:  # NaN too
            found[name] = NvmlFailure(f"GPM returned {metric.value} per cent")
        else:
            found[name] = metric.value / 100
    return found
