"""The GPU suite without a GPU: how parts run, fail and are kept; the limits; the table; a short rehearsal."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from suite_results import part, recorded

from benchmarks.gpu import runner
from benchmarks.gpu.models import CASES
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.results import NotHere, Options, PartResult, Roofs, load_results, save_result
from benchmarks.gpu.runner import run_part, run_parts, work
from loraprof.runs.compare.interleave import is_out_of_memory
from loraprof.store.specs import load_workload
from loraprof.workloads.arms import resolve_arm

ROOT = Path(__file__).resolve().parents[1]
FAKE = Part("fake", "nothing", "fake", 30)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "logs").mkdir()
    return Options(device="cpu", size="small", folder=str(tmp_path))


def processes(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Parts whose processes run ``script``."""
    monkeypatch.setattr(runner, "command_of", lambda part, options: [sys.executable, "-c", script])


def test_a_process_that_dies_is_a_failure_with_its_last_line(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, "import sys; sys.exit('CUDA driver is too old')")
    done = run_part(FAKE, options, 60)
    assert (done.status, done.reason) == ("failed", "its process ended with code 1: CUDA driver is too old")
    assert load_results(options.out) == {"fake": done}


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_all_it_started(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    note = options.out / "child"
    script = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    processes(monkeypatch, script)
    done = run_part(FAKE, options, 3)
    assert (done.status, done.reason) == ("failed", "it was stopped after 3 s")
    child = int(note.read_text())
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("what the part had started lives on")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_an_old_result_is_not_taken_for_a_new_one(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    save_result(options.out, part("fake", None))
    processes(monkeypatch, "raise SystemExit(3)")
    assert run_part(FAKE, options, 60).status == "failed"


def does(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    """The fake part's own work."""
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.fake", SimpleNamespace(run=run))


def raising(error: Exception) -> Callable[..., Any]:
    def run(options: Options) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (NotHere("ncu is not on PATH"), "not here", "ncu is not on PATH"),
        (RuntimeError("CUDA out of memory.\nTried to"), "failed", "RuntimeError: CUDA out of memory."),
        (KeyError(), "failed", "KeyError: "),
    ],
)
def test_a_part_says_why_it_has_no_result(
    options: Options, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    does(monkeypatch, raising(error))
    done = work(FAKE, options)
    assert (done.status, done.reason) == (status, reason)
    assert done.of(Roofs) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_cuda_a_part_is_not_here(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, raising(AssertionError("it ran")))
    done = work(FAKE, msgspec.structs.replace(options, device="cuda"))
    assert (done.status, done.reason) == ("not here", "no CUDA device is available, `loraprof doctor` says why")


def test_a_result_is_read_back(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, lambda options: recorded())
    work(FAKE, options)
    found = load_results(options.out)["fake"]
    assert found.of(type(recorded())) == recorded()
    (options.out / "broken.json").write_text('{"part": ')
    assert list(load_results(options.out)) == ["fake"]


class Ran:
    """Stands for ``run_part``: takes its time on a clock, and finishes."""

    def __init__(self) -> None:
        self.now, self.names, self.timeouts = 0.0, list[str](), list[float]()

    def __call__(self, part: Part, options: Options, timeout_s: float) -> PartResult:
        self.now += part.cost_s
        self.names.append(part.name)
        self.timeouts.append(timeout_s)
        done = PartResult(
            part=part.name, status="ok", device=options.device, size=options.size, seconds=1, created="now"
        )
        save_result(options.out, done)
        return done


def several(
    options: Options, monkeypatch: pytest.MonkeyPatch, again: bool = False, budget_s: float | None = None
) -> tuple[Ran, list[str]]:
    ran, said = Ran(), list[str]()
    monkeypatch.setattr(runner, "run_part", ran)
    parts = [Part(name, name, "fake", cost) for name, cost in (("a", 100), ("b", 300), ("c", 50))]
    run_parts(parts, options, again=again, budget_s=budget_s, say=said.append, clock=lambda: ran.now)
    return ran, said


def test_finished_parts_are_kept_unless_asked_again(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    assert several(options, monkeypatch)[0].names == ["a", "b", "c"]
    assert several(options, monkeypatch)[0].names == []
    assert several(options, monkeypatch, again=True)[0].names == ["a", "b", "c"]
    larger = msgspec.structs.replace(options, size="full")
    assert several(larger, monkeypatch)[0].names == ["a", "b", "c"]
    assert several(options, monkeypatch)[0].names == []  # more than was asked for
    assert several(msgspec.structs.replace(options, device="cuda"), monkeypatch)[0].names == ["a", "b", "c"]


def test_a_failed_part_is_run_again(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    several(options, monkeypatch)
    save_result(options.out, part("b", None, status="failed", device="cpu"))
    assert several(options, monkeypatch)[0].names == ["b"]


def test_a_budget_takes_the_first_that_fit_and_ends_in_time(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, said = several(options, monkeypatch, budget_s=200)
    assert ran.names == ["a", "c"]
    assert ran.timeouts == [200, 100]
    assert "b: left out, it takes about 300 s and 100 s are left" in said
    assert several(options, monkeypatch, again=True)[0].timeouts == [480] * 3


def test_parts_are_named_once_and_cases_can_be_run() -> None:
    names = [part.name for part in PARTS]
    assert len(names) == len(set(names))
    assert {word for part in PARTS if part.module == "models" for word in part.words} == set(CASES)
    for workload, changes, arms in CASES.values():
        load_workload(workload, changes)
        assert [resolve_arm(arm).label for arm in arms] == list(arms)


def test_out_of_memory_is_known_by_what_torch_raises() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("no kernel image is available"))


def suite(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu(tmp_path: Path) -> None:
    run = suite("--device", "cpu", "--small", "--out", str(tmp_path), "--parts", "sessions,counters,main-job")
    printed, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    found = load_results(tmp_path)
    assert {name: one.status for name, one in found.items()} == {
        "sessions": "ok", "counters": "not here", "main-job": "ok",
    }  # fmt: skip
    assert printed.rstrip("\n") == (tmp_path / "summary.md").read_text(encoding="utf-8").rstrip("\n")
    assert "A rehearsal on a CPU" in printed
    assert (tmp_path / "recordings" / "main-job.loraprof" / "recording.json").exists()
    again = suite("--device", "cpu", "--small", "--out", str(tmp_path), "--parts", "sessions,main-job")
    _, said = again.communicate(timeout=300)
    assert [line.split(": ")[2].split(" from")[0] for line in said.splitlines()[:2]] == ["kept", "kept"]


@pytest.mark.slow
def test_a_suite_that_is_ended_takes_its_part_along(tmp_path: Path) -> None:
    run = suite("--device", "cpu", "--small", "--out", str(tmp_path), "--parts", "noise")
    assert run.stderr is not None
    assert "noise" in run.stderr.readline()
    child = next(pid for pid in iter(lambda: child_of(run.pid), -1) if pid)
    time.sleep(1)  # the suite is waiting for it by now
    assert alive(child)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert not alive(child)
    assert load_results(tmp_path) == {}


def child_of(pid: int) -> int:
    """The first child, 0 while there is none."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--parts", "nope"], "no part 'nope'"),
        (["--budget", "soon"], "'soon' is not a time"),
        (["--summary"], "holds no results of cuda"),
    ],
)
def test_bad_words_are_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    run = suite("--out", str(tmp_path), *words)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert says in said
    assert len(said.splitlines()) == 1
