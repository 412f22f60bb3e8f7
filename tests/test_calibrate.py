"""Calibration: structure, sane magnitudes, the budget, and the cache's hits and misses."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from loraprof.capture.device import calibration_cache
from loraprof.capture.device.calibrate import best_flops_per_s, calibrate, gemm_rates
from loraprof.capture.device.calibration_cache import Cached, cache_directory, cached_calibration
from loraprof.capture.device.cpu import SQUARES, last_level_cache_bytes
from loraprof.capture.device.profiler_cost import ROOT, event_cost_ns
from loraprof.capture.device.stopwatch import LEAST, MOST, median_ns
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.recording import Calibration

CPU = torch.device("cpu")
SKINNY = [(256, 8, 512), (256, 512, 8)]
HUGE = (1 << 20, 1 << 20, 1 << 20)


@pytest.fixture(autouse=True)
def a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached must not depend on what else runs here."""
    monkeypatch.setattr(calibration_cache, "unsteady", lambda calibration: None)


@pytest.fixture(scope="module")
def measured() -> Calibration:
    return calibrate(CPU, [*SKINNY, SKINNY[0], (256, 256, 256), HUGE], "float32", 0.5, event_cost=False)


def test_gemms_are_the_sweep_then_each_wanted_shape_once(measured: Calibration) -> None:
    shapes = [(one.m, one.n, one.k) for one in measured.gemm]
    assert shapes == [(n, n, n) for n in SQUARES] + SKINNY  # HUGE does not fit the budget
    assert {one.dtype for one in measured.gemm} == {"float32"}
    assert all(one.ns > 0 for one in measured.gemm)


def test_more_work_takes_longer_and_rates_are_possible(measured: Calibration) -> None:
    first, last = measured.gemm[0], measured.gemm[len(SQUARES) - 1]
    assert last.ns > first.ns
    assert 1e8 < best_flops_per_s(measured.gemm) < 1e15
    copies = measured.copy
    assert [one.bytes for one in copies] == sorted({one.bytes for one in copies})
    assert copies[-1].ns > copies[0].ns
    assert all(1e7 < 1e9 * one.bytes / one.ns < 1e13 for one in copies)
    # A square GEMM must beat what its operands' copies would allow if each product came from memory.
    stream = 1e9 * copies[-1].bytes / copies[-1].ns
    assert best_flops_per_s(measured.gemm) > stream / 8


def test_copies_end_beyond_the_cache(measured: Calibration) -> None:
    cache = last_level_cache_bytes() or 0
    assert measured.copy[-1].bytes >= min(8 * cache, 1 << 30)
    assert measured.copy[0].bytes == 16 << 10


def test_a_cpu_has_op_costs_and_no_launches(measured: Calibration) -> None:
    assert (measured.launch_floor_ns, measured.turnaround_ns, measured.event_ns) == (None, None, None)
    assert measured.op_ns is not None
    assert measured.host_ns is not None
    assert 10 < measured.op_ns < 1e6
    assert 10 < measured.host_ns < 1e6


def test_bfloat16_skinny_gemms() -> None:
    rates = gemm_rates(CPU, SKINNY, "bfloat16", 5e7)
    assert [(one.m, one.n, one.k) for one in rates] == SKINNY
    assert all(one.ns > 0 and one.dtype == "bfloat16" for one in rates)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match="int3"):
        gemm_rates(CPU, SKINNY, "int3", 1e7)


def test_the_random_state_of_the_caller_is_untouched() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    calibrate(CPU, SKINNY, "float32", 0.05, event_cost=False)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("budget_ns", "count"), [(0, LEAST), (3e9, 15), (1e15, MOST)])
def test_measurements_per_median(budget_ns: float, count: int) -> None:
    calls: list[int] = []

    def played_clock(work: object, repeat: int) -> float:
        calls.append(repeat)
        return 1e8 * repeat * len(calls)

    took = median_ns(lambda: None, played_clock, budget_ns)
    expected = max(LEAST, min(MOST, count))
    assert len(calls) == 2 + expected  # two to warm up and to estimate
    assert took == round(1e8 * (3 + (expected // 3 - 1) / 2))  # the median of the first third: each takes longer


def test_calls_too_short_for_the_clock_are_repeated() -> None:
    repeats: set[int] = set()

    def played_clock(work: object, repeat: int) -> float:
        repeats.add(repeat)
        return 1_000.0 * repeat

    assert median_ns(lambda: None, played_clock, 1e6) == 1_000
    assert repeats == {1, 200}


@pytest.mark.slow
def test_event_cost_comes_from_another_process() -> None:
    """This process may have its own profiler session still: none has run here."""
    cost = event_cost_ns(CPU)
    assert cost is not None
    assert 10 < cost < 1e5
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import torch\n"
        "def refuse(*a, **k): raise SystemExit('a session in this process')\n"
        "torch.autograd.profiler.profile.__enter__ = refuse\n"
        "from loraprof.capture.device.profiler_cost import event_cost_ns\n"
        "print(event_cost_ns(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 10


@pytest.mark.slow
def test_event_cost_that_cannot_be_measured_is_unknown() -> None:
    assert event_cost_ns(torch.device("cuda", 77)) is None


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, measured: Calibration) -> list[Calibration]:
    """For tests of the cache alone: what was measured before is measured again at once. One entry per call."""
    calls: list[Calibration] = []

    def calibrate(*_: object, **__: object) -> Calibration:
        calls.append(measured)
        return measured

    monkeypatch.setattr(calibration_cache, "calibrate", calibrate)
    return calls


def first_time(directory: Path, **options: Any) -> tuple[Calibration, list[str]]:
    return cached_calibration(CPU, SKINNY, "float32", 3.0, event_cost=False, directory=directory, **options)


def only_file(directory: Path) -> Path:
    (path,) = directory.iterdir()  # and no temporary file is left
    return path


@pytest.mark.usefixtures("played")
def test_a_hit_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, notes = first_time(tmp_path)
    assert notes == []

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(calibration_cache, "calibrate", refuse)
    monkeypatch.setattr("loraprof.capture.device.calibrate._gemm_ns", refuse)
    again, notes = first_time(tmp_path)
    assert again == found
    assert notes == []
    with pytest.raises(AssertionError, match="measured again"):
        first_time(tmp_path, fresh=True)


def test_new_shapes_are_added_to_what_is_known(tmp_path: Path) -> None:
    found, _ = first_time(tmp_path)
    more, notes = cached_calibration(CPU, [*SKINNY, (64, 16, 32)], "float32", 1.0, event_cost=False, directory=tmp_path)
    assert notes == []
    assert more.gemm[:-1] == found.gemm
    assert (more.gemm[-1].m, more.gemm[-1].n, more.gemm[-1].k) == (64, 16, 32)
    assert more.copy == found.copy
    assert msgspec.json.decode(only_file(tmp_path).read_bytes(), type=Cached).calibration == more
    both, _ = cached_calibration(CPU, SKINNY, "bfloat16", 1.0, event_cost=False, directory=tmp_path)
    assert both.gemm[: len(more.gemm)] == more.gemm
    assert {one.dtype for one in both.gemm} == {"float32", "bfloat16"}


@pytest.mark.usefixtures("played")
def test_some_shapes_are_measured_in_another_dtype_beside_once(tmp_path: Path) -> None:
    found, _ = first_time(tmp_path)
    both, notes = first_time(tmp_path, beside="bfloat16")
    assert notes == []
    assert both.gemm[: len(found.gemm)] == found.gemm
    half = both.gemm[len(found.gemm) :]
    assert {g.dtype for g in half} == {"bfloat16"}
    assert {(g.m, g.n, g.k) for g in half} <= {(g.m, g.n, g.k) for g in found.gemm if g.dtype == "float32"}
    assert {(g.m, g.n, g.k) for g in half} & {*SKINNY}
    assert first_time(tmp_path, beside="bfloat16")[0] == both


@pytest.mark.usefixtures("played")
def test_an_event_cost_the_cache_lacks_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_time(tmp_path)
    asked: list[torch.device] = []

    def event_cost(device: torch.device) -> float:
        asked.append(device)
        return 432.5

    monkeypatch.setattr(calibration_cache, "event_cost_ns", event_cost)
    for _ in range(2):
        found, _ = cached_calibration(CPU, SKINNY, "float32", 1.0, directory=tmp_path)
        assert found.event_ns == 432.5
    assert asked == [CPU]


@pytest.mark.usefixtures("played")
def test_a_calibration_that_contradicts_itself_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_cache, "unsteady", lambda calibration: "copies of 1 MiB were slow")
    _, notes = first_time(tmp_path)
    assert ["the machine was busy: copies of 1 MiB were slow" in note for note in notes] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_shape_beyond_the_budget_is_a_note(tmp_path: Path) -> None:
    found, notes = cached_calibration(CPU, [HUGE], "float32", 0.1, event_cost=False, directory=tmp_path)
    assert HUGE not in [(one.m, one.n, one.k) for one in found.gemm]
    assert any("1048576x1048576x1048576" in note for note in notes)


@pytest.mark.parametrize(
    ("field", "value"), [("torch", "1.0"), ("driver", "1.2.3"), ("power_limit_mw", 300_000), ("device", "other")]
)
def test_a_mismatch_is_measured_anew(tmp_path: Path, played: list[Calibration], field: str, value: object) -> None:
    first_time(tmp_path)
    path = only_file(tmp_path)
    cached = msgspec.json.decode(path.read_bytes(), type=Cached)
    key = msgspec.structs.replace(cached.key, **{field: value})
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(cached, key=key)))
    _, notes = first_time(tmp_path)
    assert len(notes) == 1
    assert field in notes[0]
    assert msgspec.json.decode(path.read_bytes(), type=Cached).key == cached.key
    assert first_time(tmp_path)[1] == []
    assert len(played) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"key": {}}'])
def test_an_unreadable_cache_is_ignored_with_a_note(tmp_path: Path, played: list[Calibration], content: bytes) -> None:
    first_time(tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(content)
    found, notes = first_time(tmp_path)
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert found.gemm
    assert first_time(tmp_path)[1] == []
    assert len(played) == 2


@pytest.mark.usefixtures("played")
def test_a_directory_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found, notes = first_time(tmp_path / "file" / "cache")
    assert found.gemm
    assert any("was not cached" in note for note in notes)


@pytest.mark.usefixtures("played")
def test_the_threads_belong_to_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_time(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    first_time(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "loraprof"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification: relative paths are ignored
    assert cache_directory() == Path.home() / ".cache" / "loraprof"


def test_devices_that_cannot_be_measured() -> None:
    with pytest.raises(MeasurementError, match="mps"):
        cached_calibration(torch.device("mps"))
