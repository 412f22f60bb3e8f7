"""What does a profiler trace say? From a file to a Trace.

Formats: Kineto's C++ exporter (``output_json.cpp``), torch's Python exporter (``_chrome_trace_export.py``), files
re-serialised by others, and the categories of 2021. Events may come in any order; flows, instants, metadata,
``gpu_user_annotation`` and synchronisation rows are not work and are dropped. ``events.py`` and ``facts.py``
are the only files that know how Kineto spells its keys and categories.
"""

import os
from pathlib import Path
from typing import BinaryIO

from loraprof.collector import uncollected
from loraprof.errors import InputError
from loraprof.model.trace import Trace
from loraprof.store.checks import check_trace
from loraprof.store.kineto.assemble import assemble
from loraprof.store.kineto.contents import contents_of
from loraprof.store.kineto.facts import facts_of
from loraprof.store.kineto.parts import in_parts
from loraprof.store.places import RemotePath, place_of


def read_trace(path: str | os.PathLike[str] | RemotePath) -> Trace:
    """Read one rank's trace, ``.json`` or gzip (recognised by content), here or behind a URL. Raises InputError."""
    place = place_of(path)
    name = str(place)
    try:
        with place.open("rb") as stream:
            return _read(stream, name, place if isinstance(place, Path) else None)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file", "give a profiler trace (.json, .json.gz)") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a directory", "give the trace file inside it") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read, {why}", "check the path and its permissions") from error


def read_stream(stream: BinaryIO, name: str) -> Trace:
    """Read a trace from an open binary file; ``name`` is what errors call it. Raises InputError."""
    return _read(stream, name, None)


def _read(stream: BinaryIO, name: str, path: Path | None) -> Trace:
    """``path``: where other processes find the file too."""
    try:
        with uncollected():  # it would walk every decoded event and doubles the time
            rows, values = (in_parts(path, stream) if path else None) or contents_of(stream, name)
            trace = assemble(rows, facts_of(values))
    except (RecursionError, MemoryError) as error:
        raise InputError(f"{name}: {type(error).__name__} while reading it", "is it a profiler trace?") from error
    if (problem := check_trace(trace)) is not None:
        raise InputError(f"{name}: {problem}", "is it a profiler trace?")
    return trace
