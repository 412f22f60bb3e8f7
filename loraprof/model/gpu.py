"""What a GPU's data sheet promises: dense peaks and the clock they are quoted at.

``flops_per_clock_sm`` x ``sms`` x clock is the tensor peak at that clock. Hopper quotes its tensor peaks at
``tensor_mhz`` and its fp32 peak at ``max_sm_mhz``, so a peak is only meaningful together with a clock.
"""

import msgspec


class GpuSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU model. Rates are dense, with FP32 accumulation; ``None``: not supported or not known."""

    name: str
    match: str  # regular expression searched in the device name the driver reports
    compute_capability: str
    sms: int
    flops_per_clock_sm: int  # bf16 tensor FLOPs (fp16 below compute capability 8.0)
    tensor_mhz: int  # clock of the tensor peaks
    max_sm_mhz: int  # highest SM clock, the clock of the fp32 peak
    bf16_flops_per_s: float | None = None
    fp16_flops_per_s: float | None = None
    tf32_flops_per_s: float | None = None
    fp32_flops_per_s: float | None = None
    fp8_flops_per_s: float | None = None
    dram_bytes_per_s: float | None = None
    l2_bytes: int | None = None
    memory_bytes: tuple[int, ...] = ()  # nominal capacities sold under this name
    source: str
    confidence: str
    note: str = ""

    def peak(self, dtype: str, sm_mhz: float | None = None) -> float | None:
        """Dense matrix FLOP/s of ``dtype`` at ``sm_mhz`` (as quoted when ``None``); ``None`` if unknown.

        ``dtype`` is a torch name ("bfloat16") or "tf32"; "float32" is the rate without tensor cores.
        """
        rates = {
            "bfloat16": self.bf16_flops_per_s,
            "float16": self.fp16_flops_per_s,
            "tf32": self.tf32_flops_per_s,
            "float32": self.fp32_flops_per_s,
            "float8_e4m3fn": self.fp8_flops_per_s,
            "float8_e5m2": self.fp8_flops_per_s,
        }
        rate = rates.get(dtype)
        if rate is None or sm_mhz is None:
            return rate
        return rate * sm_mhz / (self.max_sm_mhz if dtype == "float32" else self.tensor_mhz)
