"""In which dtype does the base model compute?"""

from loraprof.model.recording import Recording


def compute_dtype(recording: Recording, own: str | None = None) -> str:
    """Autocast's dtype where it is on, else ``own``, else that of the adapted layers' weights, else of the adapters."""
    autocast = recording.workload.autocast
    if autocast and autocast != "none":
        return autocast
    known = [own, *(d for s in recording.sites[:1] for d in (s.base_dtype, s.dtype))]
    return next((d for d in known if d and "int" not in d), "float32")  # quantized weights are unpacked first
