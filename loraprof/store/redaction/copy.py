"""A source without what names a person, a machine or a company: a copy in files, read like any other.

What analyses, renders and copies it afterwards needs to know nothing of redaction.
"""

from pathlib import Path
from typing import Final

from msgspec.structs import replace

from loraprof.errors import InputError
from loraprof.store.directories import RankFile
from loraprof.store.kineto.packed import packed
from loraprof.store.kineto.rewrite import rewrite
from loraprof.store.layout import trace_name
from loraprof.store.places import Place
from loraprof.store.recordings import RecordingWriter, Source, load_source, read_recording
from loraprof.store.redaction.recording import redacted
from loraprof.store.redaction.trace import redact_events, redact_value
from loraprof.store.redaction.words import Pseudonyms

NAME: Final = "redacted"


def redacted_copy(source: Source, folder: Path) -> Source:
    """Writes the copy into ``folder``. Raises InputError, MeasurementError."""
    names, ranks = Pseudonyms(), source.ranks or (RankFile(0, source.traces[0]),)
    if source.kind == "trace":
        place = folder / (NAME if source.ranks else f"{NAME}.json.gz")
        if source.ranks:
            place.mkdir()
        for i, file in enumerate(ranks):
            rank = i if file.rank is None else file.rank
            _trace(file.trace, place / trace_name(rank) if source.ranks else place, names, len(ranks) > 1)
    else:
        place = write_redacted(source, folder / f"{NAME}.loraprof", damaged=len(ranks) > 1)
    return replace(load_source(place), path=Path(place.name))


def write_redacted(source: Source, target: Path, force: bool = False, damaged: bool = False) -> Path:
    """A recording's copy at ``target``; ``force`` replaces what is there, the source itself included.

    ``damaged``: what cannot be read stays in its place, as a file that cannot be read. Raises InputError otherwise.
    """
    names = Pseudonyms()
    with RecordingWriter(target, force) as writer:
        for i, file in enumerate(source.ranks):
            rank = i if file.rank is None else file.rank
            _trace(file.trace, writer.trace(rank), names, damaged)
            if file.own is not None:
                writer.recording(redacted(read_recording(file.own), names), rank)
        if source.recording is not None:
            writer.recording(redacted(source.recording, names))
        if source.nvml is not None:
            writer.nvml(redacted(source.nvml, names))
        return writer.commit()


def _trace(source: Place, target: Path, names: Pseudonyms, damaged: bool) -> None:
    try:
        with target.open("xb") as out, packed(out) as inner:
            rewrite(source, inner, [redact_events(names)], redact_value(names))
    except InputError:
        if not damaged:
            raise
        target.write_bytes(b"")
