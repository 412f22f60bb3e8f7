"""Findings about the host: each is provoked on a simulated step, and stays silent nearby."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import json_of as trace_json
from builders import kernel, op, step, write
from msgspec import structs
from provoke import CALIBRATION, advice, facts, found, made, on_cpu, shaped, synthetic, workload
from synthetic.machine import Hardware

import loraprof
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings import host as rules
from loraprof.diagnosis.worth import Worth
from loraprof.model.finding import Finding

LARGE = {"hidden": 4096, "ffn": 11008, "tokens": 4096, "vocab": 32000}


def test_launch_bound() -> None:
    finding = found(made(synthetic("launch-bound")))["H1"]
    seen = facts(finding)
    assert seen["of all"] == 169
    assert seen["kernels launched after the device had fallen idle"] > 150
    assert finding.gain is not None
    assert finding.gain.basis == "replay"
    assert seen["saved by a host twice as fast, replayed"] == finding.gain.ns
    assert finding.gain.low < finding.gain.speedup < finding.gain.high
    assert finding.severity == "major"


@pytest.mark.parametrize(("saved", "late", "found_"), [(0.149, 0, False), (0.151, 0, True), (0.149, 169, True)])
def test_a_device_that_is_rarely_empty_may_wait_for_the_host_all_the_same(
    saved: float, late: int, found_: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host twice as fast would save 15 % of the step."""

    def replayed(case: Case, waited_ns: int) -> Worth:
        ns = saved * case.wall_ns * case.scale
        return Worth(ns, ns, ns, basis="replay")

    monkeypatch.setattr(rules, "_faster_host", replayed)
    monkeypatch.setattr(rules, "_events", lambda case, cause: late)
    assert ("H1" in found(made(synthetic("launch-bound")))) == found_


def test_a_compiled_step_is_not_told_to_compile() -> None:
    run = synthetic("launch-bound")
    assert "torch.compile" in advice(found(made(run))["H1"])
    assert "torch.compile" not in advice(found(made(run, **workload(run.recording, compiled=True)))["H1"])


def test_the_remedy_names_options_of_adapters_that_are_there() -> None:
    run = synthetic("launch-bound")
    peft = advice(found(made(run))["H1"])
    assert "fewer target_modules" in peft
    assert "torch.compile(get_peft_model(model, config))" in peft
    assert "dropout" not in peft  # there is none
    sites = [structs.replace(site, dropout=0.1) for site in run.recording.sites]
    assert "lora_dropout=0.0" in advice(found(made(run, sites=sites))["H1"])
    sites = [structs.replace(site, kind="handwritten") for site in run.recording.sites]
    own = advice(found(made(run, sites=sites))["H1"])
    assert "adapt fewer layers" in own
    assert "target_modules" not in own
    assert "torch.compile(model)" in own


def test_the_remedy_of_a_step_without_adapters_names_none(tmp_path: Path) -> None:
    host, device = [step(0, 0, 900_000)], []
    for at in range(10_000, 810_000, 20_000):
        host.append(op("aten::mm", at, at + 12_000))
        device.append(kernel(at + 15_000, at + 18_000, launch=(at + 8_000, at + 11_000)))
    bare = advice(found(write(tmp_path / "bare.json", trace_json(host, device)))["H1"])
    for remedy in (bare, advice(found(made(shaped(Hardware(api_ns=6000), arm="full")))["H1"])):
        assert "torch.compile(model)" in remedy
        for word in ("peft", "target_modules", "lora", "adapt"):
            assert word not in remedy


def test_long_kernels_are_not_launch_bound() -> None:
    assert "H1" not in found(made(synthetic("bandwidth-v1")))


def test_many_launch_calls_on_a_full_queue_are_not_launch_bound() -> None:
    """Launch calls block when the queue is full: most host time is in them, and the device never waits."""
    assert "H1" not in found(made(shaped(Hardware(queue=8), **LARGE)))


def test_data_loading() -> None:
    finding = found(made(synthetic("data-bound")))["H4"]
    assert facts(finding)["time the step waits for data"] > 400_000_000
    assert "num_workers" in finding.remedy
    assert "H4" not in found(made(synthetic("bandwidth-v1")))


def test_data_that_is_ready_in_time() -> None:
    quick = synthetic("bandwidth-v1", lambda p: replace(p, load_ns=900_000))  # 4 % of the step
    assert "H4" not in found(made(quick))
    slow = facts(found(made(synthetic("bandwidth-v1", lambda p: replace(p, load_ns=1_400_000))))["H4"])
    assert slow["of the step"] == pytest.approx(0.058, rel=0.03)  # 1.4 of 24.2 ms: above one in twenty


def test_long_host_ranges(tmp_path: Path) -> None:
    def trace(name: str, pause: int) -> Path:
        host = [step(0, 0, 1_000_000 + 4 * pause)]
        device, at = [], 10_000
        for _ in range(4):
            at += pause
            host.append(op("aten::mm", at, at + 20_000))
            device.append(kernel(at + 15_000, at + 215_000, launch=(at + 5_000, at + 9_000)))
            at += 230_000
        return write(tmp_path / name, trace_json(host, device))

    finding = found(trace("slow.json", 300_000))["H2"]
    assert facts(finding)["host ranges above 200 µs without a launch"] == 4
    assert "H2" not in found(trace("fast.json", 100_000))


def test_layers_on_two_devices_one_after_another(tmp_path: Path) -> None:
    def trace(name: str, lag: int) -> Path:
        host, device = [step(0, 0, 1_000_000)], []
        for i in range(4):
            at = 10_000 + 200_000 * i
            host += [op("aten::mm", at, at + 20_000), op("aten::mm", at + 30_000, at + 50_000)]
            device.append(kernel(at + 15_000, at + 100_000, launch=(at + 2_000, at + 5_000), device=0))
            second = at + 105_000 - lag
            device.append(kernel(second, second + 85_000, launch=(at + 32_000, at + 35_000), device=1, stream=8))
        return write(tmp_path / name, trace_json(host, device))

    finding = found(trace("auto.json", 0))["H5"]
    assert facts(finding)["devices that work in this process"] == 2
    assert facts(finding)["time at least two of them work at once"] == 0
    assert "H5" not in found(trace("parallel.json", 60_000))


def test_devices_that_hardly_work_are_no_pipeline(tmp_path: Path) -> None:
    """Nor need any of them be the first of the machine."""
    host = [step(0, 0, 10_000_000), op("aten::mm", 1000, 9000)]
    device = [
        kernel(10_000, 12_000, launch=(2000, 3000), device=2),
        kernel(20_000, 22_000, launch=(4000, 5000), device=3, stream=8),
        kernel(9_000_000, 9_001_000, launch=(6000, 6500), device=2),
    ]
    assert "H5" not in found(write(tmp_path / "idle.json", trace_json(host, device)))


def test_recompilation() -> None:
    run = synthetic("bandwidth-v1")
    finding = found(made(run, **workload(run.recording, compiled=True, recompiles=3, graph_breaks=2)))["H3"]
    assert facts(finding)["recompilations"] == 3
    assert "H3" not in found(made(run, **workload(run.recording, compiled=True, recompiles=0, graph_breaks=0)))
    assert "H3" not in found(made(run, **workload(run.recording, compiled=False, recompiles=3)))


TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"


@pytest.mark.skipif(not TRACES.is_dir(), reason="the folder of shared traces is not here")
@pytest.mark.parametrize(
    ("name", "launch_bound"),
    [
        ("h100_bert_small", True),
        ("rtx2080ti_linear_train", True),
        ("b200_vllm_prefill_eager", True),
        ("v100_resnet_train_ns", False),  # 99 % busy
        ("mi300_resnet_ddp_actckpt_train", False),
        ("noflow_sampled_rank0", False),  # waits on its other streams
        ("a100_event_sync_multistream", False),  # six kernels are no step
        ("v100_resnet50_tbplugin_2021", False),  # waits for data
    ],
)
def test_public_traces(name: str, launch_bound: bool) -> None:
    here = found(TRACES / f"{name}.json.gz")
    assert ("H1" in here) == launch_bound
    assert ("H4" in here) == (name == "v100_resnet50_tbplugin_2021")
    assert ("B2" in here) == (name == "mi300_resnet_ddp_actckpt_train")


def test_issuing_ops_on_a_cpu_costs_the_smallest_op_each_and_the_python_between() -> None:
    """Three tenths of the step: 67 ops of 5.5 us are, of 4 us are not."""

    def seen(op_ns: int) -> dict[str, Finding]:
        calibration = structs.replace(CALIBRATION, op_ns=op_ns)
        return found(on_cpu(shaped(hidden=512, ffn=1376, tokens=256), calibration=calibration))

    finding = seen(20_000)["H1"]
    told = facts(finding)
    median = loraprof.diagnose(on_cpu(shaped(hidden=512, ffn=1376, tokens=256))).timing.unprofiled
    assert median is not None
    assert (told["ops issued per step"], told["cost of the smallest op here"]) == (67, 20_000)
    assert told["Python between ops"] > 0
    spent = told["Python between ops"] + 67 * 20_000
    assert told["issuing, of the step"] == pytest.approx(spent / median.median_ns)
    assert finding.gain is not None
    assert finding.gain.ns == pytest.approx(spent / 2, abs=1)
    assert finding.title.startswith("Overhead-bound")
    assert facts(seen(200_000)["H1"])["issuing, of the step"] == 1
    assert "H1" in seen(5_500)
    assert "H1" not in seen(4_000)
