"""From a path to what was recorded beside the trace."""

from os import PathLike

from loraprof.errors import InputError
from loraprof.model.recording import Recording
from loraprof.store.recordings import load_source


def load(path: str | PathLike[str]) -> Recording:
    """The recording in a ``NAME.loraprof`` directory: modules, adapters, unprofiled times, calibration. No torch.

    Raises InputError when it cannot be read, and for a bare trace, which has none.
    """
    recording = load_source(path).recording
    if recording is None:
        raise InputError(f"{path}: a trace without a recording", "loraprof.diagnose reads traces too")
    return recording
