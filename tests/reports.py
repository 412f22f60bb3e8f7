"""Documents through the public door: written to disk, diagnosed, the path taken out so that reports compare."""

import gzip
import os
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import msgspec
import pytest
from builders import Document, write

import loraprof
from loraprof.model.recording import Recording
from loraprof.model.report import Report, Step

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "traces"

Ns = Counter[tuple[str, str, str, str]]  # (kind, class or cause, phase, role)


def report_of(document: Document | bytes, recording: Recording | None = None) -> Report:
    """The report of a document (or of the bytes of a trace file), with its recording if there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "x.loraprof"
        folder.mkdir()
        trace = folder / "rank0.trace.json.gz"
        if isinstance(document, bytes):
            trace.write_bytes(document if document[:2] == b"\x1f\x8b" else gzip.compress(document, 1))
        else:
            write(trace, document)
        if recording:
            (folder / "recording.json").write_bytes(msgspec.json.encode(recording))
        report = loraprof.diagnose(folder if recording else trace)
    return msgspec.structs.replace(report, source=msgspec.structs.replace(report.source, path="x"))


@cache
def diagnosed(path: Path) -> Report:
    """That of a trace or recording that stays as it is, made once for all tests of a process; nobody changes it."""
    return loraprof.diagnose(path)


def text(report: Report) -> bytes:
    return msgspec.json.encode(report)


def partition(step: Step) -> Ns:
    """Non-zero rows of a step's partition."""
    out: Ns = Counter()
    for p in step.partition:
        out[p.kind, p.class_ or p.cause or "", p.phase, p.role] += p.ns
    return +out


def by_kind(step: Step) -> Counter[str]:
    """ns by class and by cause."""
    out: Counter[str] = Counter()
    for (_, what, _, _), ns in partition(step).items():
        out[what] += ns
    return out


def busy_ns(step: Step) -> int:
    return step.ns(kind="busy")


def assert_conserved(report: Report) -> None:
    """K1: every step's rows sum to its window, none is negative."""
    for step in (*report.steps, *(s for steps in (report.devices or {}).values() for s in steps)):
        assert sum(p.ns for p in step.partition) == step.wall_ns
        assert all(p.ns >= 0 for p in step.partition)


def real(name: str) -> Path:
    """A public trace kept beside the repository; skips where it is not."""
    path = REAL / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout ({os.path.relpath(REAL)})")
    return path
