"""What must hold for a reference recording, whichever GPU it is from."""

import gzip
from functools import cache, partial
from pathlib import Path

import msgspec
from golden_files import assert_golden

import loraprof
from loraprof.model.report import Report
from loraprof.report.export.job import Job
from loraprof.report.json import to_json
from loraprof.report.terminal.render import to_text
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source

LARGEST_BYTES = 4_000_000
ATTRIBUTED = 0.99  # of busy time, where PEFT adapted the model
PRIVATE = ("host_name", "traceName", "/home/", "/root/", "/Users/")
WIDTH = 120


def found_in(folder: Path) -> list[Path]:
    """``<gpu>/<name>.loraprof`` under ``profiles/recordings``."""
    return sorted(folder.glob("*/*.loraprof"))


@cache
def job(place: Path) -> Job:
    """Its diagnosis, made once for all tests of a process; nobody changes it."""
    return Job(partial(load_source, place))


def named(name: str) -> Job:
    """That of one recorded on an H100."""
    return job(profiles_dir() / "recordings" / "h100-sxm" / f"{name}.loraprof")


def check(place: Path, readme: str) -> Report:
    """Runs the whole analysis. Raises AssertionError where something does not hold."""
    source = load_source(place)
    assert source.recording is not None
    assert source.recording.device.kind == "cuda", "a CPU's recording is no reference"
    assert compressed_bytes(place) <= LARGEST_BYTES
    assert f"{place.parent.name}/{place.name}" in readme, "the README has no line on it"
    assert not private_words(place)
    report = job(place).report
    closure = report.closure
    assert closure.ok, closure.notes
    assert report.steps
    assert all(sum(part.ns for part in step.partition) == step.wall_ns for step in report.steps)
    step = report.step()
    assert step is not None
    if source.recording.sites:
        assert closure.unattributed_ns <= (1 - ATTRIBUTED) * step.ns(kind="busy")
    assert to_json(report) == to_json(loraprof.diagnose(place))
    assert msgspec.json.decode(to_json(report), type=Report, strict=True) == report
    return report


def compressed_bytes(place: Path) -> int:
    files = [path for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_size if path.suffix == ".gz" else len(gzip.compress(path.read_bytes())) for path in files)


def private_words(place: Path) -> list[str]:
    """What could name a person or a machine."""
    texts = [path.read_bytes() for path in place.rglob("*") if path.is_file()]
    whole = b"".join(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for text in texts)
    return [word for word in PRIVATE if word.encode() in whole]


def assert_golden_report(report: Report, place: Path) -> None:
    """The printed report, without the path of this machine."""
    own = msgspec.structs.replace(report, source=msgspec.structs.replace(report.source, path=place.name))
    assert_golden(f"recordings/{place.parent.name}-{place.stem}.txt", to_text(own, WIDTH).decode())
