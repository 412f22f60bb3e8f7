"""SM clock and throttling of the device between the visits of an arm, read in this process: nothing runs meanwhile.

A power limit is not counted as throttling: it holds for every arm alike and lasts; where it does not, the clocks
differ, which is judged on its own.
"""

from collections.abc import Callable
from typing import Final

import torch

from loraprof.capture.nvml.device import open_device, reading
from loraprof.capture.nvml.errors import NvmlFailure, load
from loraprof.runs.compare.interleave import DeviceState

THROTTLED: Final = 0x8 | 0x20 | 0x40 | 0x80  # hardware slowdown, software and hardware thermal, power brake


def state_reader(device: torch.device) -> Callable[[], DeviceState | None]:
    """A function that reads the state; it answers ``None`` on a CPU or where NVML cannot be read."""
    if device.type != "cuda":
        return lambda: None
    try:
        opened = open_device(load(None), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except NvmlFailure:
        return lambda: None

    def figure(name: str) -> int | None:
        try:
            return reading(opened, name)
        except NvmlFailure:
            return None

    def read() -> DeviceState:
        reasons = figure("reasons")
        return DeviceState(figure("sm_clock_mhz"), None if reasons is None else bool(reasons & THROTTLED))

    return read
