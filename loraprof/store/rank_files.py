"""What does a rank's recording say about it? Its own; without one, what holds for the model on every rank."""

import msgspec

from loraprof.model.recording import Recording
from loraprof.store.directories import RankFile
from loraprof.store.recordings import read_recording


def recording_of(file: RankFile) -> Recording | None:
    """None for a foreign trace. Raises InputError."""
    if file.own is not None:
        return read_recording(file.own)
    if file.shared is None:
        return None
    shared = read_recording(file.shared)
    return shared if shared.environment.world_size == 1 else _of_the_model(shared, file.rank)


def _of_the_model(shared: Recording, rank: int | None) -> Recording:
    """Without what another rank measured in its own run."""
    note = f"rank {rank} has no recording of its own: its modules are another rank's, its unprofiled time is unknown"
    return msgspec.structs.replace(shared, calls=[], timing=None, memory=None, notes=[note])
