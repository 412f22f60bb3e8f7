"""``loraprof compare``: recordings against each other, and arms in turn."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from recorded import recorded
from warm import python

from loraprof.cli.app import run
from loraprof.cli.quantities import parse_bytes, parse_duration_ns
from loraprof.comparison.arms import measured
from loraprof.comparison.ratios import Series, Timed, failures
from loraprof.comparison.recordings import compare
from loraprof.errors import InputError, UsageError
from loraprof.model.compare import ArmResult
from loraprof.model.compilation import Compilation, CompilePass
from loraprof.model.recording import Recording, Timing, Workload

MS = 1_000_000
SCRIPTS = Path(__file__).parent / "scripts"
TINY = ("compare", "tiny-llama-cpu", "--layers", "1", "--seq", "16", "--batch", "1")


def loraprof(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "loraprof", *args, cwd=cwd, **env)


def variant(source: Path, target: Path, change: Callable[[Recording], Recording]) -> Path:
    """A copy of a recording with other facts."""
    shutil.copytree(source, target)
    file = target / "recording.json"
    file.write_bytes(msgspec.json.encode(change(msgspec.json.decode(file.read_bytes(), type=Recording))))
    return target


def timed(step_ns: int, count: int = 20) -> Callable[[Recording], Recording]:
    """Steps of ``step_ns`` with a jitter of a tenth of a percent."""
    samples = [step_ns + step_ns * (i * 7 % 5 - 2) // 2000 for i in range(count)]
    return lambda r: replace(r, timing=Timing(samples_ns=samples, dropped=3, clock="perf_counter_ns"))


def works(change: Callable[[Workload], Workload]) -> Callable[[Recording], Recording]:
    return lambda r: replace(timed(100 * MS)(r), workload=change(r.workload))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = variant(recorded("tiny-llama-cpu", "arm=full"), tmp_path / "base.loraprof", timed(100 * MS))
    new = variant(recorded("tiny-llama-cpu"), tmp_path / "new.loraprof", timed(110 * MS))
    return base, new


@pytest.mark.slow
def test_the_bars_of_two_recordings_add_up(pair: tuple[Path, Path]) -> None:
    found = compare(*pair)
    way = found.waterfall
    assert way is not None
    assert (way.from_, way.to, way.from_ns, way.to_ns) == ("base", "new", 100 * MS, 110 * MS)
    assert sum(bar.ns for bar in way.bars) == 10 * MS
    assert {"wgrad", "optimizer", "adapter.gemm", "adapter.elementwise", "profiler", "residual"} <= {
        bar.key for bar in way.bars
    }
    assert {bar.key: bar.ns for bar in way.bars}["residual"] == 0
    assert [(r.of, r.to, round(r.ratio, 3), r.verdict) for r in found.ratios] == [("new", "base", 1.1, "slower")]
    assert not found.interleaved
    assert found.arms["base"].trainable is not None
    assert found.arms["new"].trainable is not None
    assert found.arms["base"].trainable > found.arms["new"].trainable


@pytest.mark.slow
def test_swapping_two_recordings_negates_every_bar(pair: tuple[Path, Path]) -> None:
    there, back = compare(*pair).waterfall, compare(*pair[::-1]).waterfall
    assert there is not None
    assert back is not None
    assert {b.key: (b.ns, b.count_ns, b.duration_ns) for b in there.bars} == {
        b.key: (-b.ns, -b.count_ns, -b.duration_ns) for b in back.bars
    }


@pytest.mark.slow
def test_a_recording_against_itself_is_all_zeros(pair: tuple[Path, Path]) -> None:
    found = compare(pair[1], pair[1])
    assert found.waterfall is not None
    assert {(b.ns, b.count_ns, b.duration_ns) for b in found.waterfall.bars} == {(0, 0, 0)}
    assert [(r.ratio, r.verdict) for r in found.ratios] == [(1.0, "undecided")]
    assert not found.waterfall.residual_flagged
    assert len(found.arms) == 2


@pytest.mark.slow
def test_recordings_of_one_name_are_told_apart_by_few_folders(pair: tuple[Path, Path], tmp_path: Path) -> None:
    places = [tmp_path / "runs" / side / "lora.loraprof" for side in ("before", "after")]
    for place in places:
        shutil.copytree(pair[0], place)
    assert list(compare(*places).arms) == ["before/lora", "after/lora"]
    assert list(compare(places[0], places[0]).arms) == ["lora", "lora (2)"]


@pytest.mark.slow
def test_other_workloads_and_token_counts_need_a_word(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = pair
    other = variant(base, tmp_path / "other.loraprof", works(lambda w: replace(w, name="gpt2-xl")))
    with pytest.raises(UsageError, match="differ in workload: tiny-llama-cpu in base, gpt2-xl in other"):
        compare(base, other)
    found = compare(base, other, allow_different=True)
    assert next((f.id, f.severity) for f in found.findings) == ("G1", "blocker")
    many = variant(base, tmp_path / "many.loraprof", works(lambda w: replace(w, tokens_per_step=1000)))
    near = variant(base, tmp_path / "near.loraprof", works(lambda w: replace(w, tokens_per_step=1010)))
    far = variant(base, tmp_path / "far.loraprof", works(lambda w: replace(w, tokens_per_step=1011)))
    with pytest.raises(UsageError, match="tokens per step: 1000 in many, 1011 in far"):
        compare(many, far)
    assert not any(f.severity == "blocker" for f in compare(many, near).findings)


@pytest.mark.slow
def test_a_setting_that_differs_is_a_finding(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = pair
    assert "G1" not in {f.id for f in compare(*pair).findings}
    mixed = variant(new, tmp_path / "mixed.loraprof", works(lambda w: replace(w, autocast="bfloat16")))
    finding = next(f for f in compare(base, mixed).findings if f.id == "G1")
    assert finding.severity == "major"
    assert [(e.what, e.value) for e in finding.evidence] == [("autocast", "none in base, bfloat16 in mixed")]


@pytest.mark.slow
def test_checkpointing_in_one_arm_only_is_a_finding(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Whether the recording says so, or only its step shows recomputed work, as a script's does."""
    base, new = pair
    told = variant(new, tmp_path / "told.loraprof", works(lambda w: replace(w, checkpointing="non-reentrant")))
    finding = next(f for f in compare(base, told).findings if f.id == "G1")
    assert [(e.what, e.value) for e in finding.evidence] == [("checkpointing", "None in base, non-reentrant in told")]
    assert finding.severity == "major"
    recomputing = recorded("tiny-llama-cpu", "checkpointing=non-reentrant")
    shown = variant(recomputing, tmp_path / "shown.loraprof", timed(130 * MS))
    found = compare(base, shown)
    finding = next(f for f in found.findings if f.id == "G1")
    assert [(e.what, e.value) for e in finding.evidence] == [("recomputation", "none in base, some in shown")]
    assert found.waterfall is not None
    assert next(bar.ns for bar in found.waterfall.bars if bar.key == "recompute") > 0


@pytest.mark.slow
def test_few_steps_give_no_verdict(pair: tuple[Path, Path], tmp_path: Path) -> None:
    few = variant(pair[1], tmp_path / "few.loraprof", timed(300 * MS, 4))
    found = compare(pair[0], few)
    assert [(r.verdict, r.low > 1.03) for r in found.ratios] == [("undecided", True)]
    assert failures(found, 1.03) is None  # what is not established fails nothing
    assert "too few timed steps for a verdict in few: record with --timed 10 or more" in found.notes


@pytest.mark.slow
def test_what_cannot_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    untimed = variant(pair[1], tmp_path / "untimed.loraprof", lambda r: replace(r, timing=None))
    with pytest.raises(InputError, match="no unprofiled step times"):
        compare(pair[0], untimed)
    with pytest.raises(InputError, match="no such file"):
        compare(pair[0], tmp_path / "gone.loraprof")
    with pytest.raises(UsageError, match="one recording"):
        compare(*pair[:1])


@pytest.mark.slow
def test_thresholds_decide_the_exit_code(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base, new = map(str, pair)
    assert run(["compare", base, new, "--fail-on", "slower>12%", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["missed"] is None
    assert run(["compare", "--fail-on", "slower>3%", "--format", "json", base, new]) == 3
    shown = capsys.readouterr()
    said = "new is slower than base: 1.1000x [1.0988, 1.1012] its step time, 1.03x allowed"
    assert json.loads(shown.out)["missed"] == said
    assert "--fail-on slower>3%: new is slower than base" in shown.err
    assert run(["compare", "--format", "github", "--fail-on", "slower>3%", base, new]) == 3
    assert "::error title=loraprof%3A threshold missed::new is slower than base: 1.1000x" in capsys.readouterr().out
    assert run(["compare", new, base, "--fail-on", "slower>3%"]) == 0
    assert run(["compare", base, new, "--fail-on", "faster"]) == 2


@pytest.mark.slow
def test_options_and_words_that_do_not_fit_recordings(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = map(str, pair)
    assert run(["compare", base, new, "--rank", "8"]) == 2
    assert run(["compare", base, "train.py"]) == 2
    assert run(["compare", base, new, "--budget", "5s"]) == 2
    assert run(["compare", f"{base}/", f"{new}/"]) == 0  # as a shell completes them
    written = tmp_path / "out.json"
    assert run(["compare", base, new, "--format", "json", "-o", str(written), "--quiet"]) == 0
    assert json.loads(written.read_text())["schema"] == "loraprof.compare/1"
    assert run(["compare", base, new, "-o", str(written)]) == 2
    assert run(["compare", base, new, "-o", str(written), "--force"]) == 0


@pytest.mark.parametrize(
    ("text", "ns"), [("120s", 120e9), ("2m", 120e9), ("1.5", 1.5e9), ("1h", 3600e9), (" 3 min ", 180e9)]
)
def test_durations(text: str, ns: float) -> None:
    assert parse_duration_ns(text) == ns


@pytest.mark.parametrize(("text", "size"), [("80GiB", 80 * 2**30), ("1.5 kB", 1500), ("12", 12), ("2mib", 2**21)])
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "s", "-3s", "0s", "3 parsecs", "1e3s"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        parse_duration_ns(text)
    with pytest.raises(UsageError, match="is not a"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny-llama-cpu", "--arms", "full,lorra"), "did you mean 'lora'?"),
        (("tiny-llama-cpu", "--arms", "full"), "one arm, full, cannot be compared"),
        (("tiny-llama-cpu", "--arms", "full,lora,full"), "arm full is named twice"),
        (("tiny-llama-cpu", "--arms", "full,top"), "needs a number of layers"),
        (("--arms", "full,frozne", "train.py"), "did you mean 'frozen'?"),
        (("--arms", "full,dora", "train.py"), "arm dora is for built-in workloads"),
        (("train.py",), "no such script or workload"),
        (("--rank", "8", "train.py"), "--rank is for built-in workloads"),
        (("tiny-llama-cpu", "train.py"), "takes no arguments: train.py"),
        (("tiny-llama-cpu", "--budget", "soon"), "'soon' is not a time"),
        (("tiny-llama-cpu", "--allow-different"), "--allow-different is for recordings"),
        (("tiny-lama-cpu",), "did you mean 'tiny-llama-cpu'?"),
    ],
)
def test_usage_errors_come_before_any_work(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_trace_is_not_run_as_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"traceEvents": []}')  # which Python would run
    assert run(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 5
    assert "a trace has no unprofiled step times" in capsys.readouterr().err


@pytest.mark.slow
def test_arms_of_a_workload(tmp_path: Path) -> None:
    done = loraprof(tmp_path, *TINY, "--arms", "full,top:9,lora", "--budget", "3s", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["arms"]["top:9"]["status"] == "refused"
    assert "more layers than the model's 1" in found["arms"]["top:9"]["reason"]
    full, lora = found["arms"]["full"], found["arms"]["lora"]
    assert full["trainable"] > 10 * lora["trainable"] > 0
    assert full["steps"] == lora["steps"] > 0
    assert full["peak_bytes"] > 4 * full["trainable"]
    assert lora["tokens_per_s"] == pytest.approx(16 / lora["median_ns"] * 1e9)
    assert [(r["of"], r["to"]) for r in found["ratios"]] == [("lora", "full")]
    assert found["noise_floor"]["low"] <= found["noise_floor"]["ratio"] <= found["noise_floor"]["high"]
    way = found["waterfall"]
    assert (way["from"], way["to"]) == ("full", "lora")
    assert sum(bar["ns"] for bar in way["bars"]) == way["to_ns"] - way["from_ns"]
    assert all(bar["count_ns"] + bar["duration_ns"] == bar["ns"] for bar in way["bars"])
    assert {"optimizer", "wgrad", "adapter.gemm"} <= {bar["key"] for bar in way["bars"]}
    assert any(note.startswith("stopped because") for note in found["notes"])
    assert found["interleaved"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_arms_of_an_unmodified_script(tmp_path: Path) -> None:
    script = str(SCRIPTS / "adapted.py")
    done = loraprof(tmp_path, "compare", "--arms", "lora,frozen,full", "--budget", "1s", "--format", "json", script)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    arms = found["arms"]
    assert {name: arm["status"] for name, arm in arms.items()} == dict.fromkeys(("lora", "frozen", "full"), "ok")
    base = 64 * 96 + 96 * 384 + 384 + 384 * 64 + 64
    adapters = 4 * (96 + 384) + 4 * (384 + 64)
    assert {name: arm["trainable"] for name, arm in arms.items()} == {"lora": adapters, "frozen": 0, "full": base}
    assert {arm["steps"] for arm in arms.values()} == {20}
    assert all(arm["tokens_per_s"] == pytest.approx(256 / arm["median_ns"] * 1e9) for arm in arms.values())
    assert [(r["of"], r["to"]) for r in found["ratios"]] == [("frozen", "lora"), ("full", "lora")]
    way = found["waterfall"]
    assert (way["from"], way["to"]) == ("full", "lora")
    assert sum(bar["ns"] for bar in way["bars"]) == way["to_ns"] - way["from_ns"]
    assert "2 restarts of every arm, in alternating order" in found["notes"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_scripts_that_refuse_an_arm_or_fail(tmp_path: Path) -> None:
    refused = loraprof(
        tmp_path, "compare", "--arms", "full,lora", "--budget", "1s", str(SCRIPTS / "bare.py"), "--lr", "1e-3"
    )
    assert refused.returncode == 4
    assert "full is refused: arm full cannot be applied to this script: it has no PEFT layer" in refused.stderr
    assert "lora" in refused.stdout
    crashed = loraprof(tmp_path, "compare", "--arms", "lora,full", str(SCRIPTS / "crash.py"))
    assert crashed.returncode == 1
    assert "boom" in crashed.stderr
    assert "Traceback" not in crashed.stderr


@pytest.mark.slow
def test_recordings_are_compared_without_torch(pair: tuple[Path, Path]) -> None:
    argv: Any = ["compare", *map(str, pair), "--format", "json"]
    code = f"import sys; from loraprof.cli.app import run; assert run({argv}) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step_ns", "words"),
    [
        (80 * MS, "pays after 250 steps"),  # 5 s at 20 ms a step
        (120 * MS, "never pays: the steps are slower"),
        (100 * MS, "may pay or not"),
    ],
)
def test_when_compiling_pays(pair: tuple[Path, Path], tmp_path: Path, step_ns: int, words: str) -> None:
    passes = [
        CompilePass(name="skip", steps=3, compilations=1, recompilations=0, graph_breaks=0, compile_ns=4_000 * MS),
        CompilePass(name="timing", steps=9, compilations=0, recompilations=0, graph_breaks=0, compile_ns=1_000 * MS),
    ]

    def change(recording: Recording) -> Recording:
        return replace(timed(step_ns)(recording), compilation=Compilation(passes=passes))

    compiled = variant(pair[0], tmp_path / "fast.loraprof", change)
    notes = [note for note in compare(pair[0], compiled).notes if "compiled for" in note]
    assert len(notes) == 1
    assert notes[0].startswith("fast compiled for 5.00 s; against base that")
    assert words in notes[0]
    assert not [note for note in compare(*pair).notes if "compiled for" in note]


def test_when_a_compiled_arm_pays() -> None:
    steps = {"lora": 100 * MS, "lora-compile": 90 * MS}
    series = {arm: Series(tuple((ns + i,) * 2 for i in range(12))) for arm, ns in steps.items()}
    dropped = dict.fromkeys(steps, 4)
    timed = Timed("lora", series, None, "x", "done", dropped=dropped, warm_up_ns={"lora": 1, "lora-compile": 1360 * MS})
    facts = {arm: ArmResult() for arm in steps}
    found = measured("w", "d", timed, facts, {}, {}, [])
    assert "lora-compile compiled for 1.00 s; against lora that pays after 100 steps" in found.notes  # 1360 - 4 * 90
