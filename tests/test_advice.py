"""Advice that fits the script: its own stack, what limits it of every family, commands that a shell takes."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from provoke import advice, facts, found, made, shaped, synthetic, workload
from recorded import profiled

import loraprof
from loraprof.analysis.costmodel.speedup import crossover_hidden
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.advice import _crossover
from loraprof.diagnosis.remedy import typed
from loraprof.diagnosis.verdict import advice as headline
from loraprof.model.finding import Finding, Gain, RemedyKind, RemedyReport
from loraprof.model.recording import AdapterSite, Recording, Workload
from loraprof.model.report import Report
from loraprof.store.recordings import load_source

TRAINERS = "TrainingArguments|SFTConfig|per_device|axolotl|Unsloth"


def everything(report: Report) -> str:
    return "; ".join([report.verdict.sentence, report.verdict.unclear or "", *map(advice, report.findings)])


@pytest.mark.slow
def test_a_script_without_libraries_hears_of_none() -> None:
    path = profiled("own_lora.py", "a b", "c")
    said = everything(loraprof.diagnose(path))
    assert not re.search(f"{TRAINERS}|peft|LoraConfig|transformers", said)
    assert "compare" not in said  # adapters that cannot be bypassed: it would be refused
    for command in re.findall(r"loraprof profile [^;:]*", said):
        assert shlex.split(command)[-2:] == ["a b", "c"]


@pytest.mark.slow
def test_padding_limits_a_step() -> None:
    path = profiled("padded.py")
    report = loraprof.diagnose(path)
    finding = next(f for f in report.findings if f.id == "G4")
    assert report.verdict.limiting_cause == "G4"
    assert f"Limited by: {finding.title} (G4)" in report.verdict.sentence
    assert 'padding="longest"' in finding.remedy
    assert not re.search(TRAINERS, everything(report))
    assert finding.gain is not None
    assert finding.gain.low > 1.5


@pytest.mark.slow
def test_a_frozen_network_is_named() -> None:
    path = profiled("frozen_encoder.py")
    finding = found(path)["B11"]
    assert facts(finding)["of the step"] > 0.3
    assert facts(finding)["networks without a trainable parameter"] == 1
    assert "cache them" in finding.remedy
    assert not re.search(TRAINERS + "|attention|entropy", everything(loraprof.diagnose(path)))


def test_one_network_is_the_one_that_trains() -> None:
    assert "B11" not in found(made(synthetic("bandwidth-v1")))


@pytest.mark.parametrize(
    ("trainers", "stack", "words"),
    [
        ([], "peft", "autocast_adapter_dtype=False"),
        (["kohya"], "kohya", "--full_bf16"),
        (["torchtune"], "torchtune", "recipe's config"),
        (["trl", "transformers"], "peft", "autocast_adapter_dtype=False"),
    ],
)
def test_the_text_is_the_trainers(trainers: list[str], stack: str, words: str) -> None:
    run = shaped(variant="V5", hidden=2048, ffn=5632, tokens=2048)
    remedies = [r for f in found(made(run, **workload(run.recording, trainers=trainers))).values() for r in f.remedies]
    chosen = [r for r in remedies if r.arm == "lora-bf16"]
    assert {(r.stack, words in r.text) for r in chosen} == {(stack, True)}


def cause(id: str, *remedies: tuple[RemedyKind, str, float]) -> Finding:
    made = [
        RemedyReport(
            kind=kind,
            stack="plain",
            text=text,
            gain=Gain(ns=round(1e6 * low), speedup=low + 0.1, low=low, high=low + 0.2, basis="model"),
        )
        for kind, text, low in remedies
    ]
    gain = max((r.gain for r in made if r.gain), key=lambda g: g.ns)
    return Finding(id=id, severity="major", title=f"{id} is so", evidence=[], remedy="", gain=gain, remedies=made)


def test_the_headline_keeps_the_training_where_it_can() -> None:
    fewer = cause("L6", ("other_training", "fewer", 1.5))
    fused = cause("L1", ("same_training", "fuse", 1.1), ("other_training", "drop", 1.2))
    said = headline([fewer, fused])
    assert said is not None
    assert said.startswith(
        "Limited by: L6 is so (L6). Without changing what is trained, most is gained by: fuse (L1, 1.20x"
    )
    alone = headline([fewer])
    assert alone is not None
    assert "Changing what is trained, most is gained by: fewer (L6, 1.60x" in alone
    assert headline([cause("L1", ("same_training", "fuse", 1.0))]) == "Limited by: L1 is so (L1)."
    assert headline([]) is None


def test_the_recording_says_which_trainer_was_loaded(tmp_path: Path) -> None:
    run = shaped()
    path = made(run, **workload(run.recording, trainers=["trl"]))
    recording = load_source(path).recording
    assert isinstance(recording, Recording)
    assert recording.workload.trainers == ["trl"]


@pytest.mark.parametrize(
    ("kind", "argv", "words"),
    [
        ("builtin", ["gpt2-xl"], "gpt2-xl"),
        ("script", ["train me.py", "--name", "it's"], "'train me.py' --name 'it'\"'\"'s'"),
        ("script", ["package.train", "a b"], "-m package.train 'a b'"),
        ("script", [], None),
    ],
)
def test_a_target_is_quoted_as_a_shell_needs_it(kind: str, argv: list[str], words: str | None) -> None:
    assert typed(Workload(name="gpt2-xl", kind=kind, argv=argv)) == words


@pytest.mark.parametrize(("base", "bytes_per_element"), [("bfloat16", 2), ("float32", 4)])
def test_adapters_pay_from_the_width_at_which_a_gradient_takes_as_long_as_their_traffic(
    base: str, bytes_per_element: int
) -> None:
    """c T d / BW = 2 T d^2 / F: V1's c is of two-byte elements, and everything is twice as wide in four."""
    site = AdapterSite(path="q", kind="lora", rank=8, in_features=64, out_features=64, dtype=base, base_dtype=base)
    case: Any = SimpleNamespace(
        rates=SimpleNamespace(stream_bytes_per_s=2e12), sites=[site], gemm_flops_per_s=400e12, workload=None
    )
    two_bytes = crossover_hidden("V1", 400e12 / 2e12)
    assert _crossover(cast(Case, case)) == pytest.approx(two_bytes * bytes_per_element / 2)


@pytest.mark.parametrize(
    ("cls", "part", "fused"), [("LlamaForCausalLM", "gate_proj", True), ("GPT2LMHeadModel", "c_fc", False)]
)
def test_kernels_that_replace_a_gated_block_are_named_where_there_is_one(cls: str, part: str, fused: bool) -> None:
    run = shaped(variant="V5", hidden=2048, ffn=5632, tokens=2048)
    first, *rest = run.recording.modules
    modules = [
        replace(first, cls=cls, origin="transformers.models"),
        *(replace(m, path=m.path.replace("up_proj", part)) for m in rest),
    ]
    remedies = [r for f in found(made(run, modules=modules)).values() for r in f.remedies]
    assert remedies
    assert any("FastLanguageModel" in r.text for r in remedies) == fused
