"""The input in its own form, to hand on."""

from loraprof.errors import UsageError
from loraprof.report.export.files import replacing
from loraprof.report.export.job import Job
from loraprof.store.kineto.packed import packed
from loraprof.store.recordings import RecordingWriter, read_recording


def export_trace(job: Job) -> str:
    """The trace alone, of the rank that the report describes."""
    with replacing(job.target) as out:
        job.copy(job.shown, out)
    return f"loraprof report {job.target}"


def export_recording(job: Job) -> str:
    """A recording directory. Raises UsageError when the input is a trace."""
    if job.source.recording is None:
        raise UsageError(f"{job.source.path}: is a trace, not a recording", "--to trace copies a trace")
    with RecordingWriter(job.target, job.force) as writer:
        for rank in job.ranks:
            with writer.trace(rank.rank or 0).open("wb") as out, packed(out) as inner:
                job.copy(rank, inner)
            if rank.own is not None:
                writer.recording(read_recording(rank.own), rank.rank)
        writer.recording(job.source.recording)
        if job.source.nvml is not None:
            writer.nvml(job.source.nvml)
        writer.commit()
    return f"loraprof report {job.target}"
