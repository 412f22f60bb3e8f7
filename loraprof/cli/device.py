"""Which device does ``--device`` name? Without one, the first GPU, else the CPU."""

from typing import TYPE_CHECKING

from loraprof.errors import UsageError

if TYPE_CHECKING:
    import torch


def named_device(name: str | None) -> "torch.device":
    """Raises UsageError for a name that torch does not know, MeasurementError for what cannot be measured."""
    import torch

    from loraprof.capture.device.environment import device_info

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UsageError(f"no device {name!r}", "cpu, cuda or cuda:N") from None
    device_info(device)  # refuses what cannot be measured
    return device
