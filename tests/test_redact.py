"""Nothing that names a person or a machine is left, and nothing else is lost."""

import json
from pathlib import Path

import msgspec
import pytest

from loraprof.model.recording import DeviceInfo, Environment, ModuleInfo, Nvml, Recording, Workload
from loraprof.store.recordings import Source
from loraprof.store.redact import kept_value, redacted, redacted_recording, without_paths

RECORDING = Recording(
    created="2026-01-01T00:00:00+00:00",
    environment=Environment(loraprof="0.1.0", python="3.11", torch="2.13.0", platform="Linux-6.1", host="gpu-box-7"),
    device=DeviceInfo(kind="cuda", name="NVIDIA A100", uuid="GPU-1234", driver="550.1"),
    workload=Workload(
        name="train.py",
        kind="script",
        argv=["/home/alice/lora/train.py", "--out=runs/alice/a", "--lr", "3e-4", "--run", "alice-first", "a/b/"],
        options={"targets": ["q_proj"], "cache": "/scratch/alice/hub", "layers": 2},
    ),
    modules=[ModuleInfo(id=0, path="model.layers.0", cls="Linear", origin="torch.nn.modules.linear")],
    notes=["nothing at /home/alice/lora/data on gpu-box-7", "3 steps/s and a / b"],
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/alice/x.py(12): forward", "x.py(12): forward"),
        ("/usr/lib/python3.11/threading.py(1): run", "threading.py(1): run"),
        ("torch/nn/modules/module.py(1739): _call_impl", None),
        ("--out=/data/bob/run", "--out=run"),
        ("/a/b.py(1): f;/home/alice/c.py(2): g", "b.py(1): f;c.py(2): g"),
        ("/home/john doe/my runs/x.py", "x.py"),
        ("C:/Users/bob/x.py", "C:x.py"),
        ("file:///home/alice/x.py", "file:x.py"),
        ("/home/alice", "redacted"),
        ("see\n/home/alice/x.py", "see\nx.py"),
        ("aten::div", None),
        ("void f<(a)/2>(x / y)", None),
        ("ProfilerStep#3", None),
        ("tokens/s and 1/2/3", None),
    ],
)
def test_paths_in_strings(text: str, left: str | None) -> None:
    assert json.loads(without_paths(json.dumps({"name": text}).encode())) == {"name": text if left is None else left}
    assert json.loads(without_paths(json.dumps([1, text]).replace("/", "\\/").encode()))[1] == (left or text)


def test_top_level_values() -> None:
    assert kept_value("host_name", b'"gpu-box-7"') is None
    assert kept_value("traceName", b'"/home/alice/x.json"') is None
    assert kept_value("my note", b'"secret"') is None
    assert kept_value("schemaVersion", b"1") == b"1"


def test_a_recording_keeps_what_the_analysis_needs() -> None:
    clean = redacted_recording(RECORDING)
    text = msgspec.json.encode(clean).decode()
    assert not [word for word in ("alice", "gpu-box-7", "GPU-1234", "/home", "/scratch") if word in text]
    assert clean.workload.argv == ["train.py", "--out=a", "--lr", "3e-4", "--run", "redacted-first", "b/"]
    assert clean.workload.options == {"targets": ["q_proj"], "cache": "hub", "layers": 2}
    assert clean.notes == ["nothing at data on redacted", "3 steps/s and a / b"]
    assert (clean.modules, clean.device.name, clean.device.driver) == (RECORDING.modules, "NVIDIA A100", "550.1")
    assert redacted_recording(clean) == clean


def test_a_source_loses_its_folder_and_the_gpu_its_number() -> None:
    nvml = Nvml(uuid="GPU-1234", driver="550.1", steps=1, loop_ns=1, samples=[])
    trace = Path("/home/alice/x.loraprof/rank0.trace.json.gz")
    clean = redacted(Source(Path("/home/alice/x.loraprof"), "recording", RECORDING, (trace,), nvml))
    assert (clean.path, clean.traces) == (Path("x.loraprof"), (trace,))
    assert clean.nvml is not None
    assert clean.nvml.uuid == "redacted"
