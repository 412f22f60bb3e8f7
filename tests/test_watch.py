"""``loraprof watch``: when the step time shifts, by how much, with what, and one step of either level recorded."""

import json
from array import array
from pathlib import Path

import msgspec
import pytest
import torch
from golden_files import assert_golden
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from warm import python

import loraprof
from loraprof.analysis.statistics import shift, shifts
from loraprof.cli.app import run
from loraprof.model.recording import NvmlSample
from loraprof.model.watch import Moved, Shift, Watch
from loraprof.report.markdown import to_markdown
from loraprof.report.shown import document_of
from loraprof.runs.watch.clock import StepClock
from loraprof.runs.watch.loader import LoaderWatch, elements
from loraprof.runs.watch.series import Series, shifts_of, steady

HERE = Path(__file__).parent


def noisy(level: float, count: int, scatter: float = 0.01, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return (level * (1 + scatter * torch.randn(count, generator=made))).round().long().tolist()


def series(ns: list[int], **columns: object) -> Series:
    zeros = [0] * len(ns)
    given = {"loader_ns": zeros, "elements": zeros, "graphs": zeros, "disturbed": zeros, **columns}
    return Series(ns=ns, ends=[sum(ns[: i + 1]) for i in range(len(ns))], **given)  # type: ignore[arg-type]


def test_a_shift_is_found_in_either_direction_and_none_in_noise() -> None:
    assert shift(noisy(1e7, 60) + noisy(1.2e7, 60, seed=1)) == 60
    assert shift(noisy(1.2e7, 60) + noisy(1e7, 60, seed=1)) == 60
    assert all(shift(noisy(1e7, 200, 0.05, seed)) is None for seed in range(20))
    assert shift(noisy(1e7, 60, 0.2) + noisy(1.1e7, 60, 0.2, seed=1)) is None  # within the noise
    assert shift(noisy(1e7, 60) + noisy(1.01e7, 60, seed=1)) is None  # too little
    assert shift([1, 2]) is None


def test_all_shifts_of_a_long_series() -> None:
    long = noisy(1e7, 4000) + noisy(1.3e7, 3000, seed=1) + noisy(1e7, 3000, seed=2)
    first, second = shifts(long)
    assert abs(first - 4000) <= 25
    assert abs(second - 7000) <= 25
    assert shifts([]) == []


def test_steps_that_were_recorded_and_warm_up_do_not_count() -> None:
    ns = [*noisy(9e7, 5), *noisy(1e7, 100, seed=1)]
    ns[50] = 10**9
    steps, warmup = steady(series(ns, disturbed=[int(i == 50) for i in range(105)]))
    assert warmup == 5
    assert 50 not in steps
    assert len(steps) == 99


def test_what_shifts_with_the_step_is_named() -> None:
    ns = noisy(1e7, 60) + noisy(2e7, 60, seed=1)
    late = [int(i >= 60) for i in range(120)]
    ends = [sum(ns[: i + 1]) for i in range(120)]
    seen = series(
        ns,
        loader_ns=[5_000_000 * x for x in late],
        elements=[100 + 50 * x for x in late],
        graphs=[1 + x for x in late],
        memory=[(10, 1000, 0), (50, 1000, 0), (70, 2000, 3)],
        clocks=[NvmlSample(monotonic_ns=e, sm_clock_mhz=1980 - 500 * x) for e, x in zip(ends, late, strict=True)],
    )
    (found,) = shifts_of(seen, range(120))
    assert found.step == 60
    assert found.after_ns / found.before_ns == pytest.approx(2, rel=0.02)
    assert {m.what: (m.before, m.after) for m in found.moved} == {
        "waiting for a batch, per step": (0, 5_000_000),
        "elements of the batches, per step": (100, 150),
        "graphs compiled so far": (1, 2),
        "reserved memory": (1000, 2000),
        "allocator retries so far": (0, 3),
        "SM clock": (1980, 1480),
    }


def test_a_shift_alone_names_nothing() -> None:
    (found,) = shifts_of(series(noisy(1e7, 60) + noisy(2e7, 60, seed=1)), range(120))
    assert found.moved == []


def test_the_loader_is_watched_and_left_as_it_was() -> None:
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    before = _BaseDataLoaderIter.__next__
    watch = LoaderWatch()
    watch.install()
    batches = list(DataLoader(TensorDataset(torch.zeros(6, 5)), batch_size=2))
    waited, seen = watch.take()
    watch.remove()
    assert len(batches) == 3
    assert seen == 30
    assert waited > 0
    assert watch.take() == (0, 0)
    assert _BaseDataLoaderIter.__next__ is before


def test_the_size_of_a_batch() -> None:
    ids = torch.zeros(2, 7, dtype=torch.long)
    assert elements({"labels": torch.zeros(1), "input_ids": ids}) == elements([ids, 1]) == elements(ids) == 14
    assert elements({"text": ["a"]}) == elements(None) == 0


def test_the_clock_sees_every_step_and_takes_itself_off() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = StepClock(5, False, lambda *_: None)
    clock.install()
    for _ in range(300):  # more than it keeps marks of
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    clock.remove()
    optimizer.step()
    found, nvml = clock.finish()
    assert clock.steps == 299
    assert {len(c) for c in (found.ns, found.ends, found.loader_ns, found.disturbed)} == {299}
    assert min(found.ns) > 0
    assert sum(found.ns) == pytest.approx(found.ends[-1] - found.ends[0] + found.ns[0], rel=0.5)
    assert nvml is None
    assert isinstance(found.ns, array)


SEEN = Watch(
    script="train.py", device_name="NVIDIA H100", steps=5000, warmup=12, median_ns=10_400_000, low_ns=10_300_000,
    high_ns=10_500_000, cost_ns=8_000.0, before="train-watch-before.loraprof", after="train-watch-after.loraprof",
    shifts=[
        Shift(step=2100, at_ns=22 * 10**9, before_ns=10_000_000, after_ns=13_000_000,
              moved=[Moved(what="SM clock", before=1980, after=1500, unit="MHz")]),
        Shift(step=4000, at_ns=46 * 10**9, before_ns=13_000_000, after_ns=12_000_000),
    ],
    notes=["a note"],
)  # fmt: skip


def test_the_page() -> None:
    headline = document_of(SEEN).headline
    assert headline.startswith("The step time shifted 2 times, most at step 2,100: from 10.0 ms to 13.0 ms, 30")
    assert "SM clock 1,980 MHz to 1,500 MHz" in headline
    assert_golden("watch.md", to_markdown(SEEN).decode())
    still = msgspec.structs.replace(SEEN, shifts=[])
    assert document_of(still).headline == "The step time stayed at 10.4 ms: no shift beyond its noise."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.py"], "no such script"),
        (["--record", "there", "x.py"], "ends in .loraprof"),
        (["run.loraprof"], "not a script"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["watch", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_recording_that_is_there_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x-watch-before.loraprof").mkdir()
    assert run(["watch", "x.py"]) == 2
    assert "exists" in capsys.readouterr().err


def watched(what: str, folder: Path, *options: str, code: int = 0) -> Watch:
    words = ["--record", str(folder / "run.loraprof"), "--skip", "20", "--format", "json", *options]
    script = str(HERE / "scripts" / "drifts.py")
    done = python("-m", "loraprof", "watch", *words, "-o", str(folder / "seen.json"), script, what, cwd=HERE.parent)
    assert done.returncode == code, done.stderr[-2000:]
    (folder / "err.txt").write_text(done.stderr)
    return msgspec.json.decode((folder / "seen.json").read_bytes(), type=Watch)


@pytest.mark.slow
def test_a_loader_that_slows_down_is_seen_while_it_runs_and_both_levels_are_recorded(tmp_path: Path) -> None:
    seen = watched("loader", tmp_path)
    found = next(s for s in seen.shifts if any(m.what.startswith("waiting") for m in s.moved))
    assert 80 <= found.step <= 95
    assert found.after_ns > 2 * found.before_ns
    assert "per step" in (tmp_path / "err.txt").read_text()
    assert seen.before is not None
    assert seen.after is not None, seen.notes
    before, after = loraprof.diagnose(seen.before).step(), loraprof.diagnose(seen.after).step()
    assert before is not None
    assert after is not None
    assert after.ns(cause="data") > before.ns(cause="data") + 50_000_000


@pytest.mark.slow
def test_longer_batches_are_named(tmp_path: Path) -> None:
    seen = watched("longer", tmp_path, "--no-recording")
    assert any("elements" in m.what for s in seen.shifts for m in s.moved)
    assert (seen.before, seen.after) == (None, None)
    assert seen.steps == 159


@pytest.mark.slow
def test_the_exit_code_is_the_scripts(tmp_path: Path) -> None:
    seen = watched("fails", tmp_path, "--no-recording", code=7)
    assert json.loads((tmp_path / "seen.json").read_text())["schema"] == "loraprof.watch/1"
    assert not [s for s in seen.shifts if s.after_ns > 2 * s.before_ns]
