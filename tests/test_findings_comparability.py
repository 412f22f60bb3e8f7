"""Findings on what the numbers mean: each is provoked on a real or simulated step, and stays silent nearby."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import json_of, kernel, op, step, write
from provoke import facts, found, made, shaped, synthetic, timing, toy, workload
from synthetic.simulate import Synthetic

import loraprof
from loraprof.model.finding import Finding
from loraprof.model.recording import ModuleInfo, TrainingCost

LARGE: dict[str, Any] = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 1024}
WIDE: dict[str, Any] = {"hidden": 16384, "ffn": 32768, "tokens": 4096, "vocab": 1024, "rank": 4}


def sized(run: Synthetic) -> list[ModuleInfo]:
    """The modules with the widths of their weights."""
    shapes = {p.module: p.shape for p in run.recording.parameters}
    return [
        msgspec.structs.replace(m, in_features=shapes[m.id][1], out_features=shapes[m.id][0]) if m.id in shapes else m
        for m in run.recording.modules
    ]


def predicted(run: Synthetic, optimizer_ns: int, tokens: int = 4096, **more: Any) -> dict[str, Finding]:
    """Findings of a run from which the full step can be predicted; ``optimizer_ns`` of all parameters."""
    cost = TrainingCost(parameters=1, sampled=1, optimizer_ns=optimizer_ns, clip_ns=0, accumulate_ns=0)
    facts = workload(run.recording, tokens_per_step=tokens, micro_batches=1, optimizer="AdamW")
    return found(made(run, modules=sized(run), training_cost=cost, **facts, **more))


def test_the_optimizer_decides() -> None:
    run = shaped(**LARGE)
    seen = facts(predicted(run, 12_000_000)["G2"])
    assert seen["of its step"] > 0.25
    assert seen["speed-up over full fine-tuning, whole step"] > seen["the same without optimizer and clipping"]
    assert "G2" not in predicted(run, 4_000_000)


def test_no_optimizer_time_to_save() -> None:
    run = shaped(**LARGE)
    finding = predicted(run, 500_000)["B1"]
    assert facts(finding)["of its step"] < 0.05
    assert "1.5x" in finding.remedy
    assert "B1" not in predicted(run, 4_000_000)


def test_nothing_to_fix() -> None:
    near_bound = predicted(shaped(**WIDE), 4_000_000)
    assert "G6" in near_bound
    assert facts(near_bound["G6"])["ideal speed-up, adapters for free"] > 1.3
    assert not any(f.id[0] == "L" and f.severity != "major" for f in near_bound.values())
    assert "G6" not in predicted(shaped(**LARGE, variant="V5"), 4_000_000)


def test_nothing_is_predicted_from_a_bare_trace(tmp_path: Path) -> None:
    run = shaped(**LARGE)
    run.save(tmp_path)
    report = loraprof.diagnose(tmp_path / "synthetic.loraprof")
    assert not {"G2", "G6", "B1", "W1"} & {f.id for f in report.findings}
    assert all(f.gain is None for f in report.findings)


def test_a_cold_start() -> None:
    run = synthetic("bandwidth-v1")
    samples = timing(run).samples_ns
    cold = msgspec.structs.replace(timing(run), samples_ns=[2 * samples[0], *samples])
    finding = found(made(run, timing=cold))["G3"]
    assert "--skip 9" in finding.remedy
    mild = msgspec.structs.replace(timing(run), samples_ns=[round(1.4 * samples[0]), *samples])
    assert "G3" not in found(made(run, timing=mild))


def test_a_step_that_loads_its_code(tmp_path: Path) -> None:
    """A launch call of a millisecond on an idle device is no launch overhead: nothing about the host explains it."""

    def trace(name: str, first_ns: int) -> Path:
        host, device, at = [step(0, 0, 10**8)], [], 10_000
        for i in range(30):
            called = first_ns if i % 3 == 0 else 4_000
            host.append(op("aten::mm", at, at + called + 4_000))
            device.append(kernel(at + called + 6_000, at + called + 9_000, launch=(at + 2_000, at + 2_000 + called)))
            at += called + 20_000
        return write(tmp_path / name, json_of(host, device))

    cold = found(trace("cold.json", 1_000_000))
    assert cold["G3"].title.startswith("The step is cold")
    assert facts(cold["G3"])["launch calls above 200 µs on an idle device"] == 10
    assert cold["G3"].severity == "major"
    assert "H1" not in cold
    warm = found(trace("warm.json", 5_000))
    assert "G3" not in warm
    assert "H1" in warm


@pytest.mark.parametrize("queued", [True, False])
def test_a_trace_that_begins_in_the_midst_of_training(tmp_path: Path, queued: bool) -> None:
    """Its first window is long because of what was queued before it, not because anything is cold."""
    long = kernel(1_000, 300_000, None if queued else (100, 200), correlation=0)
    host, device, end = [], [long], 300_000
    for i in range(4):
        at = 50_000 * i
        host += [step(i, at, at + 40_000), op("aten::mm", at + 1_000, at + 30_000)]
        device.append(kernel(end, end + 50_000, launch=(at + 2_000, at + 5_000)))
        end += 50_000
    report = loraprof.diagnose(write(tmp_path / "trace.json", json_of(host, device)))
    assert report.closure.kernels_without_launch == int(queued)
    assert [s.wall_ns for s in report.steps] == [350_000, 50_000, 50_000, 50_000]
    assert ("G3" in {f.id for f in report.findings}) == (not queued)


@pytest.mark.slow
def test_padding() -> None:
    finding = found(toy("padding"))["G4"]
    seen = facts(finding)
    assert (seen["tokens per step"], seen["of them real"], seen["real tokens, of all"]) == (96, 48, 0.5)
    # Half of the tokens; issuing the ops of so small a step stays as it is, and may be all of it.
    assert finding.gain is None or (1 < finding.gain.speedup < 2 and finding.gain.basis == "model")
    assert "G4" not in found(toy("little-padding"))
    assert "G4" not in found(toy("plain"))


@pytest.mark.slow
def test_recompilation_within_the_run() -> None:
    assert facts(found(toy("recompile"))["H3"])["recompilations"] > 0
    assert "H3" not in found(toy("compiled"))
    assert "H3" not in found(toy("plain"))


@pytest.mark.slow
def test_a_loader_and_a_pause() -> None:
    """On a real step: the input pipeline is H4, a pause in a module is H2."""
    late = found(toy("slow-data"))
    assert facts(late["H4"])["of the step"] > 0.3  # four fifths where nothing else runs
    assert "H2" not in late
    slept = found(toy("pause"))
    assert facts(slept["H2"])["host ranges above 200 µs without a launch"] >= 2
    assert "H4" not in slept


def test_the_wrong_lever() -> None:
    """A narrow layer with few tokens, launch-bound: full fine-tuning issues fewer kernels and is faster."""
    narrow = {"hidden": 512, "ffn": 1376, "tokens": 256}
    finding = predicted(shaped(**narrow), 100_000, tokens=256)["W1"]  # type: ignore[arg-type]
    seen = facts(finding)
    assert seen["at most"] < seen["this step"]
    assert seen["median width of the adapted layers"] == 512
    assert seen["width from which adapters pay in forward and backward"] == pytest.approx(32 / 2 * 200, rel=1e-3)
    assert finding.gain is not None
    assert finding.gain.low > 1
    assert "W1" not in predicted(shaped(**LARGE), 4_000_000)


def test_steps_that_do_not_repeat() -> None:
    run = synthetic("bandwidth-v1")
    base = timing(run).samples_ns[0]
    wild = msgspec.structs.replace(timing(run), samples_ns=[base, 3 * base, base, 3 * base, 2 * base] * 2)
    assert "repeat" in found(made(run, timing=wild))["G3"].title
    steady = msgspec.structs.replace(timing(run), samples_ns=[base, round(1.1 * base)] * 5)
    assert "G3" not in found(made(run, timing=steady))


def test_less_padding_and_none() -> None:
    """Half of the tokens would be left to the longest of each batch, a quarter with none: at most 2 and 4 times."""
    run = synthetic("bandwidth-v1")
    tokens = run.recording.workload.tokens_per_step or 0
    shares = {"real_tokens_per_step": tokens // 4, "longest_tokens_per_step": tokens // 2}
    finding = found(made(run, **workload(run.recording, **shares)))["G4"]
    assert facts(finding)["where each batch has the length of its longest row"] == tokens // 2
    gains = {remedy.arm: remedy.gain for remedy in finding.remedies}
    longest, none = gains["pad-to-longest"], gains[None]  # nothing that fix could pack
    assert longest is not None
    assert none is not None
    assert 1.1 < longest.low < longest.speedup < longest.high < 2.2
    assert longest.speedup < none.speedup < none.high < 4.5
    unknown = found(made(run, **workload(run.recording, real_tokens_per_step=tokens // 4)))["G4"]
    assert min(r.gain.low for r in unknown.remedies if r.gain) == 1.0  # how long the longest rows are is not known


def test_predicted_speed_ups_are_ratios_of_steps() -> None:
    path_of = shaped(**WIDE)
    seen = facts(predicted(path_of, 4_000_000)["G6"])
    frozen = seen["this step without adapters, predicted"]
    now = timing(path_of).samples_ns[0]
    full = seen["ideal speed-up, adapters for free"] * frozen
    assert seen["speed-up over full fine-tuning, predicted"] == pytest.approx(full / now, rel=0.02)
    decided = facts(predicted(shaped(**LARGE), 12_000_000)["G2"])
    optimizer, share = decided["optimizer and clipping of full fine-tuning, predicted"], decided["of its step"]
    ratio = decided["speed-up over full fine-tuning, whole step"]
    assert optimizer / share / ratio == pytest.approx(timing(shaped(**LARGE)).samples_ns[0], rel=0.02)
