"""What of a recording or a trace could name a person or a machine, and what is left without it?

Absolute paths keep their last part, wherever they stand. Of a trace's top-level values only those listed here stay
(``host_name``, ``traceName`` and what users add do not). A recording loses host, GPU identity, and the folders of
its command line; names of people found in its home paths are taken out of its words.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from loraprof.model.recording import Recording, Workload
from loraprof.store.recordings import Source

KEPT: Final = frozenset(
    (
        *("schemaVersion", "deviceProperties", "displayTimeUnit", "baseTimeNanoseconds", "distributedInfo"),
        *("record_shapes", "with_stack", "with_modules", "with_flops", "profile_memory"),
        *("cupti_version", "cuda_runtime_version", "cuda_driver_version", "hip_runtime_version", "hip_driver_version"),
    )
)
GONE: Final = "redacted"
_PART = rb"[^/\\\x00-\x20\"'<>|:;,(){}\[\]=*?]+"
# Folders of a path that starts behind a character no relative path has there; blanks where a slash still follows.
_START = rb"/(?:(?<=[\s\"'=(,:;|\[{<>@]/)|(?<=\\[nrt]/))/*"
_PATH = re.compile(rb"%b(?:%b(?: +%b)*/+)+" % (_START, _PART, _PART))
_ESCAPED = re.compile(rb"\\(.)", re.S)
_HOME = re.compile(rb"/(?:home|Users)/+(%b)" % _PART)
_FOLDERS = re.compile(r"[^=]*[\\/]+(?=[^\\/])")


def without_paths(text: bytes) -> bytes:
    """JSON text whose strings hold no absolute path; the file's own name stays."""
    if b"\\/" in text:
        text = _ESCAPED.sub(lambda m: b"/" if m[1] == b"/" else m[0], text)
    return _PATH.sub(b"", _HOME.sub(b"/home/" + GONE.encode(), text))


def kept_value(key: str, text: bytes) -> bytes | None:
    """A trace's top-level value, or ``None`` when it does not stay."""
    return without_paths(text) if key in KEPT else None


def redacted(source: Source) -> Source:
    """The source without paths, host and user names. Its traces and the ranks' files are still as they are."""
    nvml = source.nvml and msgspec.structs.replace(source.nvml, uuid=GONE)
    recording = source.recording and redacted_recording(source.recording)
    return replace(source, path=Path(source.path.name), recording=recording, nvml=nvml)


def redacted_recording(recording: Recording) -> Recording:
    text = msgspec.json.encode(recording)
    people = {name.decode() for name in _HOME.findall(text)} | {recording.environment.host or ""} - {""}
    clean = msgspec.json.decode(without_paths(text), type=Recording)
    return msgspec.structs.replace(
        clean,
        environment=msgspec.structs.replace(clean.environment, host=None),
        device=msgspec.structs.replace(clean.device, uuid=None),
        workload=_workload(clean.workload, people),
        notes=[_without(note, people) for note in clean.notes],
    )


def _workload(workload: Workload, people: set[str]) -> Workload:
    argv = [_without(_FOLDERS.sub("", word), people) for word in workload.argv]
    options = {k: _without(v, people) if isinstance(v, str) else v for k, v in workload.options.items()}
    return msgspec.structs.replace(workload, name=_without(workload.name, people), argv=argv, options=options)


def _without(text: str, people: set[str]) -> str:
    """Whole words that name a person or a machine become ``redacted``."""
    for name in sorted(people - {""}):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", GONE, text)
    return text
