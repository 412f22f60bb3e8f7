"""The one profiler session of a process: Kineto with shapes, and what the device has besides."""

import warnings
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from loraprof.capture.device.protocol import Device


def session(device: Device) -> Any:
    """Not started: ``prepare``, ``start_trace``, ``stop_trace``, ``export_chrome_trace``."""
    activities = [ProfilerActivity.CPU, *device.activities]
    return torch.profiler._KinetoProfile(activities=activities, record_shapes=True)


def prepare(profiler: Any) -> None:
    """Begins its warm-up. torch 2.11 warns of cycles, which a profiler without a schedule does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profiler.prepare_trace()
