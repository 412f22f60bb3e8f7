"""The whole analysis on every recording from a real GPU under ``profiles/recordings``, against golden reports."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
from golden_files import assert_golden
from synthetic.presets import preset
from synthetic.simulate import simulate

from loraprof.analysis.analyse import analyse
from loraprof.model.recording import DeviceInfo
from loraprof.model.vocabulary import ROLES
from loraprof.store.kineto.read import read_trace
from loraprof.store.profiles import profiles_dir
from loraprof.store.recordings import load_source

FOLDER = profiles_dir() / "recordings"
NONE_YET = pytest.param(
    None, marks=pytest.mark.skip("no recording of a real GPU has been made yet: benchmarks/gpu_suite.py makes them")
)
RECORDINGS: list[Any] = [
    pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in reference.found_in(FOLDER)
]


@pytest.mark.parametrize("place", RECORDINGS or [NONE_YET])
def test_a_reference_recording(place: Path) -> None:
    report = reference.check(place, (FOLDER / "README.md").read_text(encoding="utf-8"))
    reference.assert_golden_report(report, place)


@pytest.mark.parametrize("name", ["gpt2-xl-512", "llama-3.2-1b", "tinyllama-512"])
def test_a_trace_alone_has_its_recordings_adapters_and_roles(name: str) -> None:
    """By shapes, names and order: every role of 1 % of the step within 5 % of what the modules say."""
    source = load_source(FOLDER / "h100-sxm" / f"{name}.loraprof")
    trace = read_trace(source.traces[0])
    bare, known = analyse(trace), analyse(trace, source.recording)
    assert known.reported is not None
    assert [site.rank for site in bare.attribution.sites] == [site.rank for site in known.attribution.sites]
    step, own = bare.steps[known.reported], known.steps[known.reported]
    for role in ROLES:
        ns = own.ns(kind="busy", role=role)
        if ns > 0.01 * own.ns(kind="busy"):
            assert step.ns(kind="busy", role=role) == pytest.approx(ns, rel=0.05), role


def test_folders_are_named_after_a_gpu() -> None:
    known = {path.stem for path in (profiles_dir() / "gpus").glob("*.toml")}
    assert {path.parent.name for path in reference.found_in(FOLDER)} <= known


# The machinery itself, on a simulated recording.


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "h100-sxm"
    folder.mkdir()
    made = simulate(*preset("bandwidth-v1")).save(folder, "llama")
    trace = made / "rank0.trace.json.gz"
    clean = json.loads(reference.gzip.decompress(trace.read_bytes()))
    del clean["traceName"]
    trace.write_bytes(reference.gzip.compress(json.dumps(clean).encode()))
    return made


README = "| h100-sxm/llama.loraprof | bandwidth |"


def test_a_sound_recording_passes(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert reference.found_in(place.parents[1]) == [place]
    report = reference.check(place, README)
    monkeypatch.setattr("golden_files._FOLDER", tmp_path / "golden")
    with pytest.raises(FileNotFoundError):
        reference.assert_golden_report(report, place)
    monkeypatch.setenv("LORAPROF_GOLDEN", "write")
    reference.assert_golden_report(report, place)
    text = (tmp_path / "golden" / "recordings" / "h100-sxm-llama.txt").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    monkeypatch.delenv("LORAPROF_GOLDEN")
    assert_golden("recordings/h100-sxm-llama.txt", text)
    with pytest.raises(AssertionError):
        assert_golden("recordings/h100-sxm-llama.txt", text + "x")


def test_what_is_wrong_with_a_recording_is_found(place: Path) -> None:
    with pytest.raises(AssertionError, match="no line on it"):
        reference.check(place, "")
    path = place / "recording.json"
    own = msgspec.json.decode(path.read_bytes(), type=reference.load_source(place).recording.__class__)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(own, device=DeviceInfo(kind="cpu", name="Xeon"))))  # type: ignore[type-var]
    with pytest.raises(AssertionError, match="no reference"):
        reference.check(place, README)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(own, notes=["/home/somebody/x"])))  # type: ignore[type-var]
    with pytest.raises(AssertionError):
        reference.check(place, README)


def test_a_recording_with_lost_records_is_found(place: Path) -> None:
    trace = place / "rank0.trace.json.gz"
    document = json.loads(reference.gzip.decompress(trace.read_bytes()))
    kernels = [e for e in document["traceEvents"] if e.get("cat") == "kernel"]
    document["traceEvents"].remove(kernels[3])
    trace.write_bytes(reference.gzip.compress(json.dumps(document).encode()))
    with pytest.raises(AssertionError, match="no device record"):
        reference.check(place, README)
