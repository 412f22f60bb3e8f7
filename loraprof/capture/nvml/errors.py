"""Why could NVML not give a figure? The one place that knows NVML's error codes.

``call`` runs one NVML function and turns every way it can fail into a ``NvmlFailure`` with a sentence for the
user. Codes: nvmlReturn_t of the NVML API reference.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

ABSENT: Final = 13
LOST: Final = {15, 16}  # the device is gone: no later call can succeed
PERMANENT: Final = {1, 2, 3, 4, 6, 9, 12, 13, 18, 25, 26, *LOST}  # asking again gives the same answer

REASONS: Final = {
    1: "NVML is not initialised",
    2: "invalid argument",
    3: "not supported by this device or driver",
    4: "no permission",
    6: "no such device",
    8: "external power cable not attached",
    9: "the NVIDIA driver is not loaded",
    10: "the driver timed out",
    11: "interrupt problem",
    12: "no NVIDIA driver: libnvidia-ml was not found",
    13: "this driver does not have the function",
    14: "infoROM is corrupted",
    15: "the GPU is lost (fell off the bus)",
    16: "the GPU needs a reset",
    17: "the operating system blocked the request",
    18: "driver and NVML library versions differ (reboot after a driver update)",
    19: "the GPU is in use",
    20: "out of memory",
    21: "no data",
    23: "insufficient resources",
    25: "this driver does not know the structure version",
    26: "withdrawn from this driver",
    27: "not ready",
    28: "no such device",
    29: "invalid state",
    999: "NVML reports an unknown error",
}


class NvmlFailure(Exception):
    """One NVML call failed; ``lost`` ends all sampling, ``permanent`` ends the sampling of this figure.

    ``absent``: the driver does not have the function.
    """

    def __init__(self, reason: str, *, permanent: bool = True, lost: bool = False, absent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.lost = lost
        self.absent = absent


def failure(code: int) -> NvmlFailure:
    """The failure that an nvmlReturn_t other than 0 stands for."""
    reason = REASONS.get(code, f"NVML error {code}")
    return NvmlFailure(reason, permanent=code in PERMANENT, lost=code in LOST, absent=code == ABSENT)


def call(library: Any, name: str, *args: Any) -> Any:
    """``library.name(*args)``; raises NvmlFailure only."""
    try:
        return getattr(library, name)(*args)
    except Exception as error:
        code = getattr(error, "value", None)
        if isinstance(code, int):
            raise failure(code) from error
        if isinstance(error, AttributeError):
            raise NvmlFailure(f"nvidia-ml-py does not offer {name}") from error
        raise NvmlFailure(f"{name}: {error}") from error


def load(library: str | None) -> Any:
    """The NVML binding: pynvml, or an object that offers the same functions.

    ``library`` is ``MODULE``, ``MODULE:OBJECT`` or ``FILE.py:OBJECT``. Raises NvmlFailure.
    """
    where, _, attribute = (library or "pynvml").partition(":")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        return getattr(module, attribute) if attribute else module
    except ModuleNotFoundError as error:
        hint = " (pip install nvidia-ml-py)" if library is None else ""
        raise NvmlFailure(f"the Python module {where} is not installed{hint}") from error
    except (ImportError, OSError, AttributeError) as error:
        raise NvmlFailure(f"{library or where}: {error}") from error


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
