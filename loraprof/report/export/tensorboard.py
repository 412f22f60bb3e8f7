"""What does TensorBoard show? A run with the page for a tab of its own, the trace for torch-tb-profiler, ten curves
and the diagnosis as text.

The plugin takes files named ``WORKER.EPOCH_MS.pt.trace.json.gz`` and knows API calls only under the category
``runtime``: under Kineto's own names it links no kernel to an op, and every device time is 0.
"""

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from loraprof.model.report import Report
from loraprof.report.export.files import filling
from loraprof.report.export.job import Job
from loraprof.report.export.scalars import scalars
from loraprof.report.html import to_html
from loraprof.report.registry import render
from loraprof.store.kineto.packed import packed
from loraprof.store.kineto.rewrite import runtime_category, without_markers
from loraprof.store.recordings import Source

WORKER: Final = "loraprof_{rank}"  # NODE_PROCESS, which the plugin's distributed view takes apart
PAGE: Final = "loraprof.page.html"  # what the tab of its own shows
OURS: Final = ("loraprof_*.pt.trace.json.gz", "events.out.tfevents.*.loraprof", PAGE)
_TAGS = re.compile(r"</?(?:details|summary|sub)>")
_ESCAPED = re.compile(r"\\(.)")
_PLAIN: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "~": "~"}  # its Markdown knows no escape for these


def export(job: Job) -> str:
    """Fills the log directory; returns what to do with it."""
    epoch_ms = _epoch_ms(job.source)
    with filling(job.target, OURS) as folder:
        for place, rank in enumerate(job.ranks):
            number = place if rank.rank is None else rank.rank
            name = f"{WORKER.format(rank=number)}.{epoch_ms}.pt.trace.json.gz"
            with (folder / name).open("wb") as out, packed(out) as inner:
                job.copy(rank, inner, runtime_category, without_markers)
        (folder / PAGE).write_bytes(to_html(job.report, job.drawn()))
        _write_events(folder / f"events.out.tfevents.{epoch_ms // 1000}.loraprof", job.report, epoch_ms / 1000)
    return f"tensorboard --logdir {job.target}"


def _epoch_ms(source: Source) -> int:
    """When it was recorded, or when the trace was last written; 0 for a trace behind a URL."""
    if source.recording is not None:
        return int(datetime.datetime.fromisoformat(source.recording.created).timestamp() * 1000)
    trace = source.traces[0]
    return trace.stat().st_mtime_ns // 10**6 if isinstance(trace, Path) else 0


def _write_events(path: Path, report: Report, seconds: float) -> None:
    with path.open("wb") as out:
        writer = RecordWriter(out)
        for event in _events(report):
            event.wall_time = seconds
            writer.write(event.SerializeToString())
        writer.flush()


def _events(report: Report) -> Iterator[Any]:
    yield Event(file_version="brain.Event:2")
    for tag, step, value in scalars(report):
        yield Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
    text = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[_markdown(report)])
    metadata = create_summary_metadata(display_name="diagnosis", description="loraprof's report")
    yield Event(summary=Summary(value=[Summary.Value(tag="diagnosis", tensor=text, metadata=metadata)]))


def _markdown(report: Report) -> bytes:
    """TensorBoard shows tags as text: without the renderer's own (those in names are escaped)."""
    text = _ESCAPED.sub(lambda m: _PLAIN.get(m[1], m[0]), render(report, "markdown").decode())
    return _TAGS.sub(lambda m: "\n### " if m[0] == "<summary>" else "", text).encode()
