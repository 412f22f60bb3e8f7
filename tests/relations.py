"""What the metamorphic tests share: a trace with its report, the report of a changed trace, sums of a step."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec
from builders import Document, document_of, text_of
from synthetic import faults
from synthetic.randomised import random_run
from synthetic.simulate import simulate

import loraprof
from loraprof.model.recording import Recording
from loraprof.model.report import Report, Step

SEEDS = range(12)
TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"
ABSENT = "the folder of shared traces is not here"
_NUMBERS = count()
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Case:
    document: Document
    recording: Recording | None
    report: Report
    folder: Path

    def after(self, document: Document, recording: Recording | None = None) -> Report:
        return diagnosed(text_of(document), recording or self.recording, self.folder)


Cases = list[Case]


def diagnosed(text: bytes, recording: Recording | None, folder: Path, suffix: str = "") -> Report:
    """The report, without the path it was read from."""
    place = folder / f"{next(_NUMBERS)}.loraprof"
    place.mkdir()
    trace = place / f"rank0.trace.json{suffix}"
    trace.write_bytes(text)
    if recording:
        (place / "recording.json").write_bytes(msgspec.json.encode(recording))
    report = loraprof.diagnose(place if recording else trace)
    return msgspec.structs.replace(report, source=msgspec.structs.replace(report.source, path=""))


@cache
def input_of(name: str | int) -> tuple[Document, Recording | None]:
    """A random run by its seed, a real trace by its name."""
    if isinstance(name, str):
        return document_of(TRACES / f"{name}.json.gz"), None
    run = simulate(*random_run(1000 + name))
    return run.document, run.recording


@cache
def report_of(name: str | int) -> Report:
    document, recording = input_of(name)
    with TemporaryDirectory() as folder:
        return diagnosed(text_of(document), recording, Path(folder))


def case_of(name: str | int, folder: Path) -> Case:
    return Case(*input_of(name), report_of(name), folder)


def sampled(cases: Cases, pick: Callable[[Case], Iterable[T]], least: int) -> list[tuple[Case, T]]:
    """Every case with each of its picks; fails when there are too few for the test to mean something."""
    out = [(case, item) for case in cases for item in pick(case)]
    assert len(out) >= least
    return out


def step_at(case: Case, time: int) -> int:
    """Index of the step whose window holds ``time``."""
    rows = faults.events(case.document)
    at = min(int(e["ts"] * 1000) for e in rows if e["name"].startswith("ProfilerStep#"))
    for i, step in enumerate(case.report.steps):
        at += step.wall_ns
        if time < at:
            return i
    raise AssertionError(f"no window holds {time}")


def causes(step: Step) -> Counter[str]:
    """ns by class and by idle cause."""
    out: Counter[str] = Counter()
    for part in step.partition:
        out[part.class_ or part.cause or ""] += part.ns
    return +out


def busy(step: Step) -> dict[tuple[str, str, str], int]:
    """ns by class, phase and role."""
    return {(p.class_ or "", p.phase, p.role): p.ns for p in step.partition if p.kind == "busy" and p.ns}


def overlaps(step: Step) -> Counter[tuple[str, str]]:
    return Counter({(o.over, o.under): o.ns for o in step.overlap})


def partitions(report: Report) -> list[object]:
    return [step.partition for step in report.steps]
