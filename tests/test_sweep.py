"""``loraprof sweep``: the grid, its map, and a folder that survives what kills a worker."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fakeray import FakeRay
from msgspec.structs import replace
from rich.console import Console

from loraprof.cli.app import run
from loraprof.comparison.grid import crossovers, grid, key_of, parse_axes, resized
from loraprof.errors import UsageError
from loraprof.model.sweep import Sweep, SweepCell
from loraprof.report.terminal.render import render, to_text
from loraprof.runs.executor import ATTEMPTS, Execute, in_turn, on_ray
from loraprof.runs.sweep.cells import CellJob, finished, keep, open_folder, run_cells
from loraprof.store.specs import list_workloads, load_workload


def test_axes_and_their_grid() -> None:
    axes = parse_axes(["rank=4,8", "tokens=256"])
    assert axes == {"rank": ["4", "8"], "tokens": ["256"]}
    cells = grid(axes)
    assert cells == [{"rank": "4", "tokens": "256"}, {"rank": "8", "tokens": "256"}]
    assert key_of(cells[0]) == "rank=4,tokens=256"


@pytest.mark.parametrize("words", [[], ["rank"], ["rank="], ["=4"], ["rank=4,,8"], ["rank=4", "rank=8"], ["rank=4,4"]])
def test_what_is_no_grid(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_axes(words)


@pytest.mark.parametrize("name", [w.name for w in list_workloads() if w.family != "resnet"])
def test_another_hidden_size_keeps_the_shape_of_the_model(name: str) -> None:
    config = load_workload(name).config
    wide = "n_embd" if "n_embd" in config else "hidden_size"
    old = int(str(config[wide]))
    heads = int(str(config.get("n_head", config.get("num_attention_heads"))))
    assert {key: config[key] for key in resized(config, old)} == resized(config, old)
    double = resized(config, 2 * old)
    assert double[wide] // double["n_head" if "n_head" in config else "num_attention_heads"] == old // heads
    with pytest.raises(UsageError, match="multiple of the head width"):
        resized(config, old + 1)


def test_a_model_without_a_hidden_size() -> None:
    with pytest.raises(UsageError, match="no hidden size"):
        resized(load_workload("resnet18").config, 64)


def cell(speedup: float | None, predicted: float | None = None, **values: str) -> SweepCell:
    verdict = None if speedup is None else "faster" if speedup > 1.02 else "slower" if speedup < 0.98 else "undecided"
    return SweepCell(
        values=values,
        speedup=speedup,
        low=speedup,
        high=speedup,
        verdict=verdict,  # type: ignore[arg-type]
        full_ns=9,
        lora_ns=8,
        predicted=predicted,
    )


def test_the_crossover_lies_between_gain_and_loss() -> None:
    axes = {"rank": ["4", "8"], "tokens": ["100", "400", "1600"]}
    rows = {"4": (0.5, 2.0, 3.0), "8": (0.5, 0.6, 0.7)}
    cells = [cell(y, 1.2, rank=r, tokens=t) for r, ys in rows.items() for t, y in zip(axes["tokens"], ys, strict=True)]
    found = crossovers(axes, cells)
    assert [(c.axis, c.at, c.predicted) for c in found] == [("tokens", {"rank": r}, None) for r in ("4", "8")]
    assert found[0].measured == pytest.approx(200)  # half way between 100 and 400, in logarithms
    assert found[1].measured is None
    assert crossovers({"dtype": ["float32", "bfloat16"]}, []) == []


def sweep(axes: dict[str, list[str]], speedups: list[float | None]) -> Sweep:
    cells = [cell(y, y and y * 1.1, **v) for y, v in zip(speedups, grid(axes), strict=True)]
    return Sweep(workload="w", device_name="d", axes=axes, cells=cells, crossovers=crossovers(axes, cells))


def test_the_map_draws_the_line() -> None:
    axes = {"hidden": ["512", "1024"], "tokens": ["256", "1024"]}
    shown = to_text(sweep(axes, [0.8, 0.9, 0.95, 1.25])).decode()
    assert "LoRA is faster in 1 and slower in 3 of 4 cells: from 0.80x (hidden=512 tokens=256) to 1.25x" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["hidden", "256", "1024"] in lines
    assert ["512", "0.80x", "0.90x"] in lines
    assert ["1024", "0.95x", "┃1.25x▔"] in lines
    three = to_text(sweep({"rank": ["1", "2"], **axes}, [0.8] * 7 + [None])).decode()
    assert "Speed-up rank=1" in three
    assert "Speed-up rank=2" in three
    assert "No cell could be measured." in to_text(sweep({"rank": ["1"]}, [None])).decode()


def test_what_is_missing_says_why_and_only_once() -> None:
    axes = {"rank": ["1", "2", "4"]}
    cells = [
        SweepCell(values={"rank": "1"}, speedup=1.2, notes=["no prediction: x", "stopped"]),
        SweepCell(values={"rank": "2"}, speedup=1.3, notes=["no prediction: x", "stopped"]),
        SweepCell(values={"rank": "4"}, status="oom", reason="full: too big", notes=["stopped"]),
    ]
    shown = to_text(Sweep(workload="w", device_name="d", axes=axes, cells=cells, crossovers=[])).decode()
    assert "No difference between LoRA and full fine-tuning is established in any of 2 cells: from 1.20x" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[-3:] == ["1 2 no prediction: x", "all stopped", "4 oom: full: too big"]


def test_the_prediction_stays_beside_the_measurement_in_80_columns() -> None:
    one = replace(
        cell(1.2345, 1.3), full_ns=123_456_789, lora_ns=100_000_000, low=1.2301, high=1.2391,
        predicted_low=1.2123, predicted_high=1.4123, verdict="undecided",
        values={"rank": "16", "tokens": "1024", "hidden": "2048"},
    )  # fmt: skip
    axes = {name: [value] for name, value in one.values.items()}
    out = io.StringIO()
    sweep = Sweep(workload="w", device_name="d", axes=axes, cells=[one], crossovers=[])
    render(sweep, Console(file=out, width=80, force_terminal=True, no_color=True, color_system=None))
    shown = out.getvalue()
    assert "1.2345x [1.2301, 1.2391]  undecided  1.30x [1.21, 1.41]" in shown
    assert max(map(len, shown.splitlines())) <= 80


WORKER = """
import json, os, signal, sys
from pathlib import Path
job, answer = map(Path, sys.argv[1:])
tries = Path(json.loads(job.read_text())["workload"])
count = len(tries.read_text()) if tries.exists() else 0
tries.write_text('x' * (count + 1))
if count < {deaths}:
    os.kill(os.getpid(), signal.SIGKILL)
answer.write_text('{{"values": {{"rank": "4"}}, "speedup": 1.5}}')
"""


def fake(deaths: int, say: Callable[[str], None] = lambda _: None) -> Execute[CellJob, SweepCell]:
    return in_turn(
        lambda job, answer: [sys.executable, "-c", WORKER.format(deaths=deaths), str(job), str(answer)], SweepCell, say
    )


def job_of(tries: Path) -> dict[str, CellJob]:
    return {"rank=4": CellJob(workload=str(tries), overrides={}, values={"rank": "4"}, budget_ns=1)}


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    found = dict(run_cells(job_of(tmp_path / "tries"), tmp_path, fake(1, said.append)))
    assert found["rank=4"].speedup == 1.5
    assert said == ["the process of rank=4 died (signal 9); running it again"]
    assert finished(tmp_path, "rank=4") == found["rank=4"]


def test_a_cell_that_always_dies_is_no_result_and_tried_again_next_time(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    jobs = job_of(tries)
    found = dict(run_cells(jobs, tmp_path, fake(99)))
    assert found["rank=4"].status == "failed"
    assert found["rank=4"].reason == f"its process died {ATTEMPTS} times: signal 9"
    assert len(tries.read_text()) == ATTEMPTS
    assert finished(tmp_path, "rank=4") is None
    assert dict(run_cells(jobs, tmp_path, fake(0)))["rank=4"].speedup == 1.5


def test_cells_as_ray_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {f"rank={i}": replace(job_of(tmp_path)["rank=4"], values={"rank": str(i)}) for i in range(3)}
    ray = FakeRay(dies=1)
    monkeypatch.setitem(sys.modules, "ray", ray)
    found = dict(run_cells(jobs, tmp_path, on_ray("local", measured, device=True)))
    assert [*found] == ["rank=2", "rank=1", "rank=0"]  # as they end
    assert found["rank=1"] == SweepCell(values={"rank": "1"}, status="failed", reason="out of memory")
    assert found["rank=2"] == finished(tmp_path, "rank=2") == measured(jobs["rank=2"])
    assert finished(tmp_path, "rank=1") is None
    assert not ray.open


def measured(job: CellJob) -> SweepCell:
    return SweepCell(values=job.values, speedup=1.5)


def test_a_folder_holds_one_sweep(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    open_folder(folder, {"budget": 1}, False)
    keep(folder, "rank=4", SweepCell(values={"rank": "4"}))
    open_folder(folder, {"budget": 1}, False)
    assert finished(folder, "rank=4") == SweepCell(values={"rank": "4"})
    (folder / "rank=8.json").write_text('{"values": ')
    assert finished(folder, "rank=8") is None
    with pytest.raises(UsageError, match="other settings"):
        open_folder(folder, {"budget": 2}, False)
    open_folder(folder, {"budget": 2}, True)
    assert finished(folder, "rank=4") is None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds no sweep"):
        open_folder(tmp_path / "other", {}, True)


SWEEP = (sys.executable, "-m", "loraprof", "sweep", "tiny-llama-cpu", "--layers", "1", "--batch", "1", "--budget", "1s")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--over", "rnak=4"), "did you mean 'rank'?"),
        (("--over", "rank=4", "tokens=15", "--batch", "2"), "tokens=15 cannot be made from 2 sequences"),
        (("--over", "tokens=9999"), "more than the model's 2048 positions"),
        (("--over", "hidden=100"), "head width"),
        (("--over", "hidden=wide"), "not a whole number"),
        (("--over", "rank=0"), "at least 1"),
        (("--rank", "4"), "a sweep needs an axis"),
        (("gpt2-xl", "--over", "rank=4"), "one workload is swept"),
        (("--over", "rank=4", "--address", "local"), "needs Ray"),
    ],
)
def test_usage_errors_come_before_any_work(
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run([*SWEEP[3:], *words]) == (4 if "Ray" in said else 2)
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("*/rank*")) == []


@pytest.mark.slow
def test_a_cell_is_measured_and_predicted(tmp_path: Path) -> None:
    words = [*SWEEP, "--over", "hidden=64", "tokens=32", "--set", "config.vocab_size=128", "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Sweep).cells[0]
    assert found.status == "ok", found
    assert found.predicted is not None, found.notes
    assert found.predicted_low is not None
    assert found.predicted_high is not None
    assert found.predicted_low <= found.predicted <= found.predicted_high


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    words = [*SWEEP, "--over", "rank=2,4", "tokens=8", "--no-predict", "--format", "json"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    os.kill(_worker(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "the process of rank=2,tokens=8 died (signal 9); running it again" in err
    found = msgspec.json.decode(out, type=Sweep)
    assert [(c.values, c.status) for c in found.cells] == [
        ({"rank": "2", "tokens": "8"}, "ok"),
        ({"rank": "4", "tokens": "8"}, "ok"),
    ]
    assert all(c.speedup is not None and c.low is not None and c.low <= c.speedup for c in found.cells)
    folder = tmp_path / "sweep-tiny-llama-cpu"
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("rank*.json")}
    assert sorted(before) == ["rank=2,tokens=8.json", "rank=4,tokens=8.json"]
    again = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 cells are already there" in again.stderr
    assert json.loads(again.stdout) == json.loads(out)
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("rank*.json")} == before


def _worker(parent: int) -> int:
    """The first process that ``parent`` starts for a cell."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    for _ in range(600):
        for child in children.read_text().split():
            if b"runs.sweep.cell" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no worker was started")
