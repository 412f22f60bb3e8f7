"""``loraprof estimate`` through the command line: every workload and GPU, every format, bad input, nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import loraprof
from loraprof.cli.app import run
from loraprof.errors import UsageError
from loraprof.model.estimate import ArmEstimate, Estimate, GpuEstimate
from loraprof.store.gpus import gpu_files
from loraprof.store.specs import workload_names

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def estimated(capsys: pytest.CaptureFixture[str], *words: str) -> Estimate:
    assert run(["estimate", *words, "--format", "json"]) == 0
    return msgspec.json.decode(capsys.readouterr().out, type=Estimate)


def one(capsys: pytest.CaptureFixture[str], *words: str) -> GpuEstimate:
    (found,) = estimated(capsys, *words).gpus
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "qwen" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize("workload", workload_names())
def test_every_workload_on_every_gpu(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = estimated(capsys, workload)
    assert [gpu.gpu for gpu in found.gpus] == list(gpu_files())
    for gpu in found.gpus:
        full, frozen, lora = (gpu.arms[name] for name in ("full", "frozen", "lora"))
        assert 0 < frozen.step_ns < min(full.step_ns, lora.step_ns)
        assert full.forward_ns == frozen.forward_ns
        assert gpu.ideal.value >= gpu.speedup.value
        for arm in (full, frozen, lora):
            assert arm.low_ns <= arm.step_ns <= arm.high_ns
            assert arm.forward_ns + arm.backward_ns + arm.optimizer_ns == arm.step_ns
        assert lora.memory.gradients_bytes < full.memory.gradients_bytes
        assert gpu.speedup.low <= full.step_ns / lora.step_ns <= gpu.speedup.high


@pytest.mark.parametrize(
    ("workload", "ratio", "peak_gb"),
    [("llama-3.2-1b", 0.83, 19.35), ("tinyllama-1.1b", 0.63, 9.14), ("gpt2-xl", 0.71, 16.45)],
)
def test_beside_the_recordings_of_an_h100(
    workload: str, ratio: float, peak_gb: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = one(capsys, workload, "--gpu", "h100-sxm")
    assert found.speedup.value == pytest.approx(ratio, rel=0.2)
    assert found.speedup.low <= ratio <= found.speedup.high
    assert found.arms["lora"].memory.peak_bytes / 1e9 == pytest.approx(peak_gb, rel=0.1)


@pytest.mark.parametrize("form", ["terminal", "html", "markdown", "github", "json"])
@pytest.mark.parametrize("gpu", ["a100-80gb-sxm", "all"])
def test_every_format(form: str, gpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "llama-3.2-1b", "--gpu", gpu, "--format", form]) == 0
    shown = capsys.readouterr().out
    assert "LoRA" in shown or form == "json"
    assert "nan" not in shown.lower().replace("finance", "")


def test_the_same_question_has_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("estimate", "gpt2-xl", "--gpu", "l40s", "--format", "json")
    answers = []
    for _ in range(2):
        assert run(list(words)) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("part", ["config.json", ""])
def test_a_config_or_its_folder(part: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = estimated(capsys, str(config.parent / part), "--gpu", "rtx-4090", "--targets", "qv")
    assert (found.model, found.parameters, found.adapted) == ("qwen", 494032768, 48)


def test_a_written_report(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "estimate.html"
    assert run(["estimate", str(config), "--gpu", "l4", "--format", "html", "-o", str(page)]) == 0
    assert "<h1>On L4 " in page.read_text()
    assert run(["estimate", str(config), "--gpu", "l4", "-o", str(page)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "faster"),
    [
        (("--adapter-dtype", "same"), True),
        (("--targets", "qv"), True),
        (("--adapter-kernels", "compiled"), True),
        (("--kernels", "fused"), True),
        (("--checkpointing",), False),
        (("--quantized", "nf4"), False),
        (("--dropout", "0.1"), False),
        (("--attention", "eager"), False),
        (("--tokens", "8192"), False),
        (("--host-us", "200"), False),
    ],
)
def test_a_setting_moves_the_step_the_known_way(
    words: tuple[str, ...], faster: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = one(capsys, "llama-3.2-1b", "--gpu", "h100-sxm").arms["lora"].step_ns
    after = one(capsys, "llama-3.2-1b", "--gpu", "h100-sxm", *words).arms["lora"].step_ns
    assert (after < before) == faster


def test_memory_follows_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    def peak(*words: str) -> int:
        arm: ArmEstimate = one(capsys, "llama-3-8b", "--gpu", "h100-sxm", *words).arms["lora"]
        return arm.memory.peak_bytes

    checkpointed = peak()
    assert peak("--no-checkpointing") > checkpointed > peak("--quantized", "nf4")
    assert peak("--gpus", "8", "--parallel", "fsdp") < checkpointed


def found_ids(found: GpuEstimate) -> list[str]:
    assert found.findings is not None
    return [finding.id for finding in found.findings]


@pytest.mark.parametrize(
    ("id", "words", "near_miss"),
    [
        ("W1", ("llama-3.2-1b", "--gpu", "h100-sxm"), ("llama-3-8b", "--gpu", "a100-80gb-sxm")),
        ("L2", ("llama-3.2-1b", "--gpu", "h100-sxm"), ("llama-3.2-1b", "--gpu", "h100-sxm", "--adapter-dtype", "same")),
        ("L6", ("llama-3.2-1b", "--gpu", "h100-sxm"), ("llama-3.2-1b", "--gpu", "h100-sxm", "--targets", "qv")),
        ("L1", ("llama-3.2-1b", "--gpu", "h100-sxm"), ("llama-3.2-1b", "--gpu", "h100-sxm", "--targets", "k_proj")),
        ("B6", ("llama-3.2-1b", "--gpu", "h100-sxm"), ("tinyllama-1.1b", "--gpu", "h100-sxm")),
        ("H1", ("tinyllama-1.1b", "--gpu", "h100-sxm"), ("tinyllama-1.1b", "--gpu", "h100-sxm", "--tokens", "16384")),
        ("B2", ("llama-3-8b", "--gpu", "b200"), ("llama-3-8b", "--gpu", "b200", "--no-checkpointing")),
        ("B2", ("llama-3-8b", "--gpu", "b200"), ("llama-3-8b", "--gpu", "b200", "--tokens", "32768")),
        ("B4", ("llama-3-8b", "--gpu", "h100-sxm", "--quantized", "nf4", "--tokens", "512"),
               ("llama-3-8b", "--gpu", "h100-sxm", "--quantized", "nf4", "--tokens", "16384")),
        ("B8", ("tinyllama-1.1b", "--gpu", "t4", "--batch", "1"),
               ("tinyllama-1.1b", "--gpu", "t4", "--batch", "1", "--dtype", "fp16")),
        ("B1", ("llama-3-8b", "--gpu", "a100-80gb-sxm", "--tokens", "16384", "--optimizer", "adamw-fused"),
               ("llama-3-8b", "--gpu", "a100-80gb-sxm")),
        ("D1", ("llama-3-8b", "--gpu", "l40s", "--gpus", "8", "--parallel", "fsdp", "--tokens", "512"),
               ("llama-3-8b", "--gpu", "h100-sxm", "--gpus", "8", "--parallel", "fsdp")),
    ],
)  # fmt: skip
def test_what_the_shapes_decide(
    id: str, words: tuple[str, ...], near_miss: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert id in found_ids(one(capsys, *words))
    assert id not in found_ids(one(capsys, *near_miss))


def test_gains_come_first_and_the_largest_first(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--tokens", "16384", "--optimizer", "adamw-fused")
    findings = one(capsys, "llama-3-8b", "--gpu", "a100-80gb-sxm", *words).findings or []
    gains = [finding.gain.ns if finding.gain else -1 for finding in findings]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] == -1


def test_experts_are_a_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    mixture = {
        **CONFIG,
        "model_type": "qwen3_moe",
        "num_experts": 64,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 768,
    }
    file.write_text(json.dumps(mixture))
    assert "B9" in found_ids(one(capsys, str(file), "--gpu", "h100-sxm"))


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "H100 SXM", "h100_sxm"])
def test_a_gpu_by_another_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one(capsys, "tinyllama-1.1b", "--gpu", name).gpu == "h100-sxm"


def test_what_does_not_fit_is_in_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "llama-3-8b", "--gpu", "rtx-4090"]) == 0
    assert "Full fine-tuning does not fit" in " ".join(capsys.readouterr().out.split())
    assert run(["estimate", "tinyllama-1.1b", "--gpu", "rtx-4090"]) == 0
    assert "does not fit" not in capsys.readouterr().out


def test_the_host_given_leaves_the_interval(capsys: pytest.CaptureFixture[str]) -> None:
    loose = one(capsys, "tinyllama-1.1b", "--gpu", "h100-sxm")
    tight = one(capsys, "tinyllama-1.1b", "--gpu", "h100-sxm", "--host-us", "25")
    assert tight.speedup.value == loose.speedup.value
    assert tight.speedup.high < loose.speedup.high
    assert "host_us" in {rate.shape for rate in loose.rates} - {rate.shape for rate in tight.rates}


def test_where_lora_pays(capsys: pytest.CaptureFixture[str]) -> None:
    wide = one(capsys, "llama-3-8b", "--gpu", "a100-80gb-sxm", "--adapter-dtype", "same")
    assert wide.pays == [(None, None)]
    narrow = one(capsys, "llama-3.2-1b", "--gpu", "h100-sxm")
    assert narrow.pays == []


BAD = [
    (("llama-3-9b",), "neither a built-in workload nor a file", "did you mean 'llama-3-8b'?"),
    (("llama-3-8b", "--gpu", "h100"), "no data sheet for a GPU 'h100'", "h100-"),
    (("llama-3-8b", "--gpu", "toaster"), "no data sheet for a GPU 'toaster'", "known: a10"),
    (("llama-3-8b", "--tokens", "0"), "--tokens must be at least 1, got 0", ""),
    (("llama-3.2-1b", "--tokens", "1023"), "--tokens 1023 is no multiple of --batch 4", ""),
    (("llama-3.2-1b", "--batch", "0"), "--batch must be at least 1, got 0", ""),
    (("llama-3.2-1b", "--rank", "0"), "--rank must lie between 1 and 1000000, got 0", ""),
    (("llama-3.2-1b", "--accumulate", "1000000000"), "--accumulate must lie between 1 and 100000", ""),
    (("llama-3.2-1b", "--batch", "9" * 400), "--batch must lie between 1 and 1000000", ""),
    (("llama-3.2-1b", "--batch", "1", "--tokens", "9" * 400), "tokens per sequence are more than 100000000", ""),
    (("/dev/null",), "/dev/null: is no plain file", ""),
    (("llama-3.2-1b", "--rank", "4096"), "--rank 4096 is above the width 2048", ""),
    (("llama-3.2-1b", "--dropout", "1"), "--dropout must lie in [0, 1), got 1.0", ""),
    (("llama-3.2-1b", "--dtype", "int3"), "--dtype int3 is not one of bf16, fp16, fp32, fp8", ""),
    (("llama-3.2-1b", "--targets", "q_prj"), "llama-3.2-1b has no layer 'q_prj'", "did you mean 'q_proj'?"),
    (("llama-3.2-1b", "--gpus", "8"), "--gpus 8 needs to know how they share the work", "--parallel ddp"),
    (("llama-3.2-1b", "--host-us", "0"), "--host-us 0 is no time per launch", ""),
    (("llama-3.2-1b", "--dtype", "fp32", "--quantized", "nf4"), "--quantized nf4 needs a 16-bit --dtype", ""),
    (("llama-3-8b", "--gpu", "t4"), "LoRA needs", "--quantized nf4"),
    (("llama-3-8b", "--batch", "4096"), f"more than every one of the {len(gpu_files())} GPUs has", "--checkpointing"),
    (("llama-3-8b", "--gpu", "a100-80gb-sxm", "--dtype", "fp8"), "has no float8 products", "--dtype bf16"),
    (("gpt2-xl", "--tokens", "8192", "--batch", "1"), "8192 tokens per sequence, but gpt2-xl has 1024 positions", ""),
    (("resnet18", "--tokens", "64"), "works on images", "--batch"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said", "hint"), BAD)
def test_bad_input_is_one_line(
    words: tuple[str, ...], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["estimate", *words]) == 2
    shown = capsys.readouterr()
    first, *rest = shown.err.splitlines()
    assert said in first
    assert hint in " ".join(rest)
    assert len(rest) <= 1
    assert not shown.out


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff", "3", "[" * 100000])
def test_a_config_that_is_none(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert run(["estimate", str(file)]) == 2
    assert str(file) in capsys.readouterr().err.splitlines()[0]


def test_a_folder_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", str(tmp_path)]) == 2
    assert "config.json: No such file" in capsys.readouterr().err


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from loraprof.cli.app import run; run(['estimate', 'llama-3-8b', '--gpu', 'l40s']);"
        "print({'torch', 'numpy', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_its_json_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "estimate"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert made["$defs"]["GpuEstimate"]["properties"]["speedup"] == {"$ref": "#/$defs/Span"}


def test_the_same_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "llama-3-8b", "--gpu", "l40s", "--rank", "8", "--targets", "qv", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = loraprof.estimate_step("llama-3-8b", "l40s", rank=8, targets="qv")
    assert msgspec.json.decode(msgspec.json.encode(made)) == told


# .estimate_step("llama-3-8b", "l40s", rank=8, targets="qv"))) == told


def test_a_config_that_a_program_holds() -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 64}
    found = loraprof.estimate_step(config, "NVIDIA L40S", batch=2, tokens=64)
    assert (found.model, found.settings.seq, found.gpus[0].gpu) == ("config", 32, "l40s")


def test_an_option_that_is_none() -> None:
    with pytest.raises(UsageError, match="no option 'ranks'") as refused:
        loraprof.estimate_step("llama-3-8b", ranks=8)
    assert "rank" in str(refused.value.hint)
