"""Which kinds of device can be measured? One line per kind; further ones are added here and nowhere else."""

from typing import Final, cast

import torch

from loraprof.capture.device.cpu import Cpu
from loraprof.capture.device.cuda import Cuda
from loraprof.capture.device.protocol import Device, QueuedDevice
from loraprof.errors import MeasurementError

KINDS: Final[dict[str, type[Device]]] = {
    "cuda": Cuda,  # NVIDIA, and ROCm builds of torch
    "cpu": Cpu,
}


def measured(place: torch.device) -> Device:
    """The device as loraprof measures it. Raises MeasurementError where it cannot."""
    kind = KINDS.get(place.type)
    if kind is None:
        what = f"{place.type} devices cannot be measured: torch knows them, loraprof does not"
        raise MeasurementError(what, f"it measures {', '.join(KINDS)}")
    return kind(place)


def queued(place: torch.device) -> QueuedDevice:
    """The same for what only devices with a launch queue have."""
    return cast(QueuedDevice, measured(place))


def default_device() -> torch.device:
    """The first one that is here, in the order above."""
    return next(place for kind in KINDS.values() for place in kind.present())


def accelerators() -> list[torch.device]:
    """Every device here that has a launch queue."""
    return [place for kind in KINDS.values() if kind.asynchronous for place in kind.present()]
