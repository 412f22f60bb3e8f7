"""Which device does ``--device`` name? Without one, the first GPU, else the CPU."""

from typing import TYPE_CHECKING

from loraprof.errors import UsageError

if TYPE_CHECKING:
    import torch


def named_device(name: str | None) -> "torch.device":
    """Raises UsageError for a name that torch does not know, MeasurementError for what cannot be measured."""
    import torch

    from loraprof.capture.device.kinds import KINDS, default_device, measured

    try:
        device = torch.device(name) if name else default_device()
    except RuntimeError:
        raise UsageError(f"no device {name!r}", f"{', '.join(KINDS)}, or one of several with :N") from None
    measured(device).info()  # refuses what cannot be measured
    return device
