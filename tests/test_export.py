"""``loraprof export`` through the command line: what each form holds, what it refuses, what it leaves behind."""

import gzip
import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
from builders import json_of, kernel, op, step, write
from recorded import recorded
from redaction import numbers
from reports import diagnosed, real

import loraprof
from loraprof.cli.app import run
from loraprof.cli.export import Form
from loraprof.model.recording import Recording
from loraprof.report.export.registry import EXPORTERS
from loraprof.report.export.scalars import scalars
from loraprof.store.profiles import profiles_dir

KERNELS = [kernel(1_000, 3_000, launch=(100, 600)), kernel(5_000, 9_500, launch=(700, 1_200), name='k "cat"')]


def made(folder: Path, **more: Any) -> Path:
    """A trace of two steps; the second launches nothing."""
    host = [step(3, 0, 8_000), step(4, 8_000, 12_000), op("aten::mm", 50, 7_000)]
    return write(folder / "in.json", json_of(host, KERNELS) | more)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def loaded(path: Path) -> Any:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def test_every_form_has_its_option() -> None:
    assert [f.value for f in Form] == list(EXPORTERS)


@pytest.mark.parametrize("form", ["json", "html", "markdown"])
def test_documents_are_what_report_writes(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(made(tmp_path))
    assert run(["export", path, "--to", form, "-o", str(tmp_path / "a")]) == 0
    assert "wrote" in capfd.readouterr().err.splitlines()[-1]
    assert run(["report", path, "--format", form, "-o", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert names(tmp_path) == ["a", "b", "in.json"]


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_perfetto_shows_the_partition(tmp_path: Path, name: str) -> None:
    path, out = made(tmp_path), tmp_path / name
    assert run(["export", str(path), "--to", "perfetto", "-o", str(out)]) == 0
    given, got = loaded(path)["traceEvents"], loaded(out)["traceEvents"]
    assert got[: len(given)] == given
    ours = [e for e in got[len(given) :] if e["ph"] == "X"]
    named = {e["tid"]: e["args"]["name"] for e in got[len(given) :] if e["name"] == "thread_name"}
    assert [e["args"]["name"] for e in got if e["name"] == "process_name"] == ["loraprof"]
    own = {e["pid"] for e in got[len(given) :] if e["ph"] != "s"}  # an arrow starts on a thread of the trace
    assert own.isdisjoint(e["pid"] for e in given)
    report = loraprof.diagnose(path)
    for s in (s for s in report.steps if s.wall_ns):
        (tid,) = [t for t, n in named.items() if n.split(" on ")[0] == s.name and "phases" not in n]
        track = [e for e in ours if e["tid"] == tid]
        sums: Counter[str] = Counter()
        for e in track:
            sums[e["name"]] += e["args"]["ns"]
            assert e["args"]["ns"] - 2.001 < e["dur"] * 1000 < e["args"]["ns"] + 0.001
        truth: Counter[str] = Counter()
        for p in s.partition:
            truth[p.role if p.kind == "busy" else f"idle: {p.cause}"] += p.ns
        assert sums == +truth
        assert all(a["ts"] + a["dur"] == pytest.approx(b["ts"]) for a, b in pairwise(track))


@pytest.mark.parametrize("read", [lambda us: math.floor(us * 1000 + 0.5), lambda us: int(us * 1000)])
def test_perfetto_drops_no_slice(tmp_path: Path, read: Callable[[float], int]) -> None:
    """As its importer reads them, slices neither overlap nor lose more than three nanoseconds, 50 days from 0."""
    rng, at, kernels = random.Random(1), 4_483_781_115_872_905, []
    for _ in range(2000):
        begin = at + rng.randint(1, 3000)
        kernels.append(kernel(begin, begin + rng.randint(1, 9000), launch=(at, at + 1)))
        at = begin + rng.randint(1, 12_000)
    host = [step(0, 4_483_781_115_872_905, at)]
    path = write(tmp_path / "in.json", json_of(host, kernels))
    assert run(["export", str(path), "--to", "perfetto", "-o", str(tmp_path / "out.json"), "--quiet"]) == 0
    ours = [e for e in loaded(tmp_path / "out.json")["traceEvents"] if e.get("cat") == "loraprof" and e["ph"] == "X"]
    track = [e for e in ours if e["args"]["kind"] != "phase"]
    assert len(track) > 2000
    assert sum(e["args"]["ns"] for e in track) == loraprof.diagnose(path).steps[0].wall_ns
    assert all(read(a["ts"]) + read(a["dur"]) <= read(b["ts"]) for a, b in pairwise(track))
    assert all(read(e["dur"]) >= e["args"]["ns"] - 3 for e in track)


def test_perfetto_has_phases_arrows_the_queue_and_findings(tmp_path: Path) -> None:
    path = profiles_dir() / "recordings" / "h100-sxm" / "minimind-26m.loraprof"
    assert run(["export", str(path), "--to", "perfetto", "-o", str(tmp_path / "x.json.gz")]) == 0
    ours = [e for e in loaded(tmp_path / "x.json.gz")["traceEvents"] if e.get("cat") == "loraprof"]
    report = reference.job(path).report
    step = report.step()
    assert step is not None
    phases: Counter[str] = Counter()
    for e in (e for e in ours if e["ph"] == "X" and e["args"]["kind"] == "phase"):
        phases[e["name"]] += e["args"]["ns"]
    assert sum(phases.values()) == sum(s.wall_ns for s in report.steps)
    assert phases["forward"] == sum(s.ns(phase="forward") for s in report.steps)
    starts, ends = ({e["id"]: e for e in ours if e["ph"] == ph} for ph in "sf")
    assert starts.keys() == ends.keys()
    assert len(starts) > 1000
    depth = [e["args"]["queued"] for e in ours if e["ph"] == "C"]
    assert min(depth) == 0 < max(depth)
    assert depth[-1] == 0
    assert [e["name"].split(":")[0] for e in ours if e["ph"] == "i"] == [f.id for f in report.findings]


def same_report(a: Path, b: Path) -> None:
    first, second = diagnosed(a), loraprof.diagnose(b)
    assert msgspec.structs.replace(second, source=first.source) == first


@pytest.mark.parametrize("form", ["perfetto", "trace"])
def test_a_copy_gives_the_same_report(tmp_path: Path, form: str) -> None:
    path = real("mi300_resnet_ddp_actckpt_train")
    assert run(["export", str(path), "--to", form, "-o", str(tmp_path / "x.json.gz")]) == 0
    same_report(path, tmp_path / "x.json.gz")


def test_the_tensorboard_run_and_what_force_replaces(tmp_path: Path) -> None:
    path, out = made(tmp_path), tmp_path / "runs" / "lora"
    command = ["export", str(path), "--to", "tensorboard", "-o", str(out)]
    assert run(command) == 0
    first = names(out)
    assert len(first) == 3
    (trace,) = out.glob("loraprof_0.*.pt.trace.json.gz")
    cats = Counter(e["cat"] for e in loaded(trace)["traceEvents"])
    assert cats == {"user_annotation": 2, "cpu_op": 1, "runtime": 2, "kernel": 2}
    (out / "mine.txt").write_text("kept")
    (out / "loraprof_0.1.pt.trace.json.gz").write_text("an older export")
    before = {p: p.read_bytes() for p in out.iterdir() if p.name in first}
    assert run(command) == 2
    assert run([*command, "--force"]) == 0
    assert names(out) == sorted([*first, "mine.txt"])
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.slow
def test_the_curves_are_the_report(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, out = recorded("tiny-llama-cpu"), tmp_path / "run"
    assert run(["export", str(path), "--to", "tensorboard", "-o", str(out)]) == 0
    report = loraprof.diagnose(path)
    events = EventAccumulator(str(out), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    curves = {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    expected: dict[str, list[tuple[int, Any]]] = {}
    for tag, number, value in scalars(report):
        expected.setdefault(tag, []).append((number, pytest.approx(value, rel=1e-6)))
    assert curves == expected
    numbers = [n for n, _ in curves["step/wall_ms"]]
    assert [f"ProfilerStep#{n}" for n in numbers] == [s.name for s in report.steps]
    assert len(curves) <= 10
    for i, s in enumerate(report.steps):
        assert curves["step/busy_ms"][i][1] + curves["step/idle_ms"][i][1] == pytest.approx(s.wall_ns / 1e6)
    assert report.timing.unprofiled is not None
    assert curves["unprofiled/step_ms"][0][1] == pytest.approx(report.timing.unprofiled.median_ns / 1e6)
    (trace,) = out.glob("loraprof_0.*.pt.trace.json.gz")
    assert not [e for e in loaded(trace)["traceEvents"] if e["name"].startswith("loraprof::")]
    assert [e for e in loaded(path / "rank0.trace.json.gz")["traceEvents"] if e["name"].startswith("loraprof::")]
    text = events.Tensors("diagnosis")[0].tensor_proto.string_val[0].decode()
    assert report.verdict.sentence.split(",")[0] in text
    assert "<details>" not in text


@pytest.mark.slow
def test_a_redacted_recording_says_nothing_of_where_it_was_made(tmp_path: Path) -> None:
    given = recorded("tiny-llama-cpu")
    folder = tmp_path / "alice" / "in.loraprof"
    folder.mkdir(parents=True)
    recording = msgspec.json.decode((given / "recording.json").read_bytes(), type=Recording)
    argv = ["/home/alice/train.py", "--out", "/data/alice"]
    workload = msgspec.structs.replace(recording.workload, argv=argv)
    environment = msgspec.structs.replace(recording.environment, host="alice-pc")
    recording = msgspec.structs.replace(recording, workload=workload, environment=environment)
    (folder / "recording.json").write_bytes(msgspec.json.encode(recording))
    document = loaded(given / "rank0.trace.json.gz")
    document |= {"traceName": "/home/alice/x.json", "host_name": "alice-pc", "user": "alice"}
    frame = {"ph": "X", "cat": "python_function", "name": "/home/alice/train.py(3): main", "pid": 1, "tid": 1}
    document["traceEvents"].append({**frame, "ts": 1, "dur": 1, "args": {"Call stack": "/home/alice/x.py(1): f"}})
    (folder / "rank0.trace.json.gz").write_bytes(gzip.compress(json.dumps(document).encode()))
    forms = {"recording": "r.loraprof", "perfetto": "p.json", "tensorboard": "tb", "json": "j", "html": "h"}
    for form, name in forms.items():
        assert run(["export", str(folder), "--to", form, "-o", str(tmp_path / name), "--redact", "--quiet"]) == 0
        target = tmp_path / name
        for file in target.iterdir() if target.is_dir() else [target]:
            data = file.read_bytes()
            text = gzip.decompress(data) if file.suffix == ".gz" else data
            assert b"alice" not in text + file.name.encode(), (form, file.name)
            assert str(tmp_path).encode() not in text
    events = loaded(tmp_path / "r.loraprof" / "rank0.trace.json.gz")["traceEvents"]
    assert [e["name"] for e in events if e.get("cat") == "python_function"][-1].startswith("python_")
    assert numbers(loraprof.diagnose(folder)) == numbers(loraprof.diagnose(tmp_path / "r.loraprof"))


@pytest.mark.slow
@pytest.mark.parametrize("form", list(EXPORTERS))
def test_nothing_is_overwritten_without_force(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = recorded("tiny-llama-cpu")
    folder = form in ("tensorboard", "recording")
    target = tmp_path / "x.loraprof"
    target.mkdir() if folder else target.write_text("mine")
    command = ["export", str(path), "--to", form, "-o", str(target)]
    assert run(command) == 2
    assert "exists already" in capfd.readouterr().err
    assert folder or target.read_text() == "mine"
    assert run([*command, "--force"]) == 0
    assert names(tmp_path) == ["x.loraprof"]
    assert target.is_dir() == folder
    assert folder or target.read_bytes() != b"mine"


def test_refusals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(made(tmp_path))
    (tmp_path / "broken.json").write_text('{"traceEvents": [')
    cases = [
        (["export", path, "--to", "recording", "-o", str(tmp_path / "x.loraprof")], 2, "is a trace"),
        (["export", path, "--to", "recording", "-o", str(tmp_path / "x")], 2, "ends in .loraprof"),
        (["export", path, "--to", "json", "-o", str(tmp_path / "no" / "x.json")], 2, "folder does not exist"),
        (["export", path, "--to", "json", "-o", str(tmp_path), "--force"], 2, "is a directory"),
        (["export", path, "--to", "tensorboard", "-o", path, "--force"], 2, "is a file"),
        (["export", path, "--to", "excel", "-o", str(tmp_path / "x")], 2, "excel"),
        (["export", str(tmp_path / "none"), "--to", "json", "-o", str(tmp_path / "x")], 5, "no such file"),
        (["export", str(tmp_path / "broken.json"), "--to", "trace", "-o", str(tmp_path / "x")], 5, "truncated"),
        (["export", str(tmp_path / "broken.json"), "--to", "tensorboard", "-o", str(tmp_path / "x")], 5, "truncated"),
    ]
    for argv, code, text in cases:
        assert run(argv) == code
        assert text in capfd.readouterr().err
    assert names(tmp_path) == ["broken.json", "in.json"]


def test_no_export_imports_torch(tmp_path: Path) -> None:
    path = made(tmp_path)
    forms = [form for form in EXPORTERS if form != "recording"]
    commands = [["export", str(path), "--to", form, "-o", str(tmp_path / form)] for form in forms]
    code = f"import sys; from loraprof.cli.app import run; assert not any(map(run, {commands})); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / form).exists() for form in forms)


@pytest.mark.slow
def test_every_rank_is_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in.loraprof"
    folder.mkdir()
    given = recorded("tiny-llama-cpu")
    text = (given / "recording.json").read_bytes()
    (folder / "recording.json").write_bytes(text)
    recording = msgspec.json.decode(text, type=Recording)
    for rank in (0, 1, 10):
        (folder / f"rank{rank}.trace.json.gz").write_bytes((given / "rank0.trace.json.gz").read_bytes())
        own = msgspec.structs.replace(recording, notes=[f"rank {rank} wrote /home/alice/log"])
        (folder / f"rank{rank}.json").write_bytes(msgspec.json.encode(own))
    assert run(["export", str(folder), "--to", "tensorboard", "-o", str(tmp_path / "tb")]) == 0
    traces = sorted((tmp_path / "tb").glob("*.pt.trace.json.gz"))
    assert [p.name.split(".")[0] for p in traces] == ["loraprof_0", "loraprof_1", "loraprof_10"]
    assert run(["export", str(folder), "--to", "recording", "-o", str(tmp_path / "out.loraprof"), "--redact"]) == 0
    assert names(tmp_path / "out.loraprof") == names(folder)
    assert "alice" not in (tmp_path / "out.loraprof" / "rank10.json").read_text()
    assert run(["export", str(folder), "--to", "json", "-o", str(tmp_path / "x"), "--redact"]) == 0
    assert "alice" not in (tmp_path / "x").read_text()
    capfd.readouterr()
    assert run(["export", str(folder), "--to", "perfetto", "-o", str(tmp_path / "x.json")]) == 0
    assert "rank 0, the slowest of 3" in capfd.readouterr().err  # of equals the first


@pytest.mark.slow
def test_a_damaged_rank_is_named_without_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "alice" / "in.loraprof"
    folder.mkdir(parents=True)
    given = recorded("tiny-llama-cpu")
    for name in names(given):
        (folder / name).write_bytes((given / name).read_bytes())
    (folder / "rank1.trace.json.gz").write_text("not gzip")
    assert run(["export", str(folder), "--to", "json", "-o", str(tmp_path / "x"), "--redact"]) == 0
    text = (tmp_path / "x").read_text()
    assert "rank 1 left out: rank1.trace.json.gz" in text
    assert "alice" not in text
