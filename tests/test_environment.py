"""Environment and device: the allow-list holds, and what is unknown is None."""

import importlib.metadata
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from loraprof.capture.device.cpu import cpu_name, last_level_cache_bytes
from loraprof.capture.device.cuda import driver_version, gpu_uuid
from loraprof.capture.device.environment import VARIABLES, environment
from loraprof.capture.device.kinds import measured
from loraprof.errors import MeasurementError

SECRET = "hf_do_not_store_me"


def test_no_secret_is_ever_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "TORCH_SECRET", "NCCL_TOKEN", "PATH"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = environment()
    assert SECRET not in msgspec.json.encode(found).decode()
    assert found.variables["OMP_NUM_THREADS"] == "2"
    assert set(found.variables) == set(VARIABLES) & set(os.environ)


def test_the_allow_list_names_no_secret_and_no_path() -> None:
    words = ("TOKEN", "KEY", "SECRET", "PASS", "HOME", "PATH", "DIR", "FILE", "USER", "ADDR")
    harmless = {"TOKENIZERS_PARALLELISM"}
    assert [name for name in VARIABLES if any(word in name for word in words) and name not in harmless] == []


def test_versions_are_those_installed() -> None:
    found = environment()
    assert found.torch == torch.__version__
    assert found.packages["torch"] == importlib.metadata.version("torch")
    assert found.packages["peft"] == importlib.metadata.version("peft")
    assert "no-such-package" not in found.packages


def test_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "nonsense")
    found = environment()
    assert (found.rank, found.world_size) == (3, 1)


def test_cpu_device() -> None:
    found = measured(torch.device("cpu")).info()
    assert (found.kind, found.uuid, found.sms, found.driver) == ("cpu", None, None, None)
    assert found.cpu_threads == torch.get_num_threads()
    assert found.name == cpu_name()
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1 << 28


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_unmeasurable_devices_are_named(kind: str) -> None:
    with pytest.raises(MeasurementError, match=kind) as caught:
        measured(torch.device(kind)).info()
    assert caught.value.exit_code == 4


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeasurementError, match="no CUDA device") as caught:
        measured(torch.device("cuda")).info()
    assert caught.value.exit_code == 4


def test_cuda_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping of torch's device properties, played: name, UUID with prefix, caches."""
    played = SimpleNamespace(
        name="NVIDIA H100", uuid="1b2c", multi_processor_count=132, major=9, minor=0, total_memory=80 << 30,
        L2_cache_size=50 << 20,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: played)
    found = measured(torch.device("cuda", 1)).info()
    assert (found.index, found.uuid, found.sms, found.capability) == (1, "GPU-1b2c", 132, (9, 0))
    assert (found.memory_bytes, found.l2_bytes) == (80 << 30, 50 << 20)
    with pytest.raises(MeasurementError, match="cuda:2"):
        measured(torch.device("cuda", 2)).info()


def test_system_files(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\n")
    assert cpu_name(cpuinfo) == "Some CPU @ 3 GHz"
    assert cpu_name(tmp_path / "absent")
    for number, size in enumerate(("48K", "1024K", "32M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size + "\n")
    assert last_level_cache_bytes(tmp_path) == 32 << 20
    assert last_level_cache_bytes(tmp_path / "absent") is None
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC 12.3.0\n")
    assert driver_version(version) == "570.86.15"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.183.01  Release Build  (user@host)\n"
    )
    assert driver_version(version) == "535.183.01"
    assert driver_version(tmp_path / "absent") is None


def test_uuid_prefix() -> None:
    assert gpu_uuid("MIG-1") == "MIG-1"
    assert gpu_uuid("GPU-1") == gpu_uuid("1") == "GPU-1"
