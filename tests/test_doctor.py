"""``doctor``: every ability is named with what is missing and the remedy, with and without a GPU."""

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace

import fakenvml
import pytest
import torch

from loraprof.capture.device import checks as module
from loraprof.capture.device.checks import Check, checks, counters_restricted
from loraprof.cli.app import run
from loraprof.cli.doctor import doctor
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.recording import DeviceInfo

FAKE = str(Path(fakenvml.__file__).resolve())


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "accelerators", list)
    monkeypatch.setattr(module, "driver_version", lambda: None)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = DeviceInfo(
        kind="cuda", name="NVIDIA H100", index=0, uuid=fakenvml.UUID, memory_bytes=80 << 30, driver="570.86.15"
    )
    monkeypatch.setattr(module, "accelerators", lambda: [torch.device("cuda", 0)])
    monkeypatch.setattr(module, "measured", lambda place: SimpleNamespace(info=lambda: card))
    monkeypatch.setattr(module, "driver_version", lambda: "570.86.15")


def by_name(found: list[Check]) -> dict[str, Check]:
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu(tmp_path: Path) -> None:
    found = by_name(checks(directory=tmp_path))
    assert found["torch"].ok
    assert torch.__version__ in found["torch"].detail
    assert found["CPU"].ok
    assert f"{torch.get_num_threads()} thread" in found["CPU"].detail
    assert found["GPU"].ok is False
    assert found["GPU"].remedy is not None
    assert found["profiler"].ok
    assert [found[name].ok for name in ("driver", "NVML", "GPM", "counters")] == [None] * 4
    assert found["peft"].detail.startswith(importlib.metadata.version("peft"))
    assert str(tmp_path) in found["disk"].detail


@pytest.mark.usefixtures("no_gpu")
def test_which_tab_of_tensorboard_needs_the_internet(tmp_path: Path) -> None:
    found = by_name(checks(directory=tmp_path))
    assert "need the internet" in found["torch-tb-profiler"].detail
    assert "offline" in found["tensorboard"].detail
    pages = importlib.metadata.files("torch-tb-profiler") or []
    loads = [page for page in pages if page.suffix in (".html", ".js") and "www.gstatic.com/charts" in page.read_text()]
    assert loads  # or the first of these is no longer true


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("library", "nvml", "gpm", "says"),
    [
        ("HOPPER", True, True, "every figure"),
        ("AMPERE", True, False, "every figure"),
        ("VOLTA", True, False, "power_instant_mw: not supported"),
        ("FORBIDDEN", True, False, "energy_mj: no permission"),
        ("FROZEN", True, False, "every figure"),
        ("LOST_MID_LOOP", False, False, "lost"),
        ("NO_DRIVER", False, False, "libnvidia-ml was not found"),
    ],
)
def test_nvml_is_tried(library: str, nvml: bool, gpm: bool, says: str) -> None:
    found = by_name(checks(f"{FAKE}:{library}"))
    assert found["GPU 0"].detail == f"NVIDIA H100, 80.0 GiB, {fakenvml.UUID}"
    assert (found["NVML, GPU 0"].ok, found["GPM, GPU 0"].ok) == (nvml, gpm)
    assert says in found["NVML, GPU 0"].detail
    assert (found["NVML, GPU 0"].remedy is None) == (library not in ("FORBIDDEN", "NO_DRIVER"))
    assert found["driver"].detail == "NVIDIA 570.86.15"


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("ncu", "restricted", "ok"),
    [
        (None, None, False),
        ("/usr/bin/ncu", None, None),
        ("/usr/bin/ncu", True, False),
        ("/usr/bin/ncu", False, True),
    ],
)
def test_counters(monkeypatch: pytest.MonkeyPatch, ncu: str | None, restricted: bool | None, ok: bool | None) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: ncu)
    monkeypatch.setattr(module, "counters_restricted", lambda: restricted)
    check = by_name(checks(f"{FAKE}:AMPERE"))["counters"]
    assert check.ok is ok
    assert (check.remedy is not None) == (ok is False)


@pytest.mark.parametrize(
    ("text", "restricted"),
    [
        ("ResmanDebugLevel: 4294967295\nRmProfilingAdminOnly: 1\n", True),
        ("RmProfilingAdminOnly: 0\n", False),
        ("Other: 1\n", None),
    ],
)
def test_the_driver_parameter(tmp_path: Path, text: str, restricted: bool | None) -> None:
    path = tmp_path / "params"
    path.write_text(text)
    assert counters_restricted(path) is restricted
    assert counters_restricted(tmp_path / "absent") is None


@pytest.mark.usefixtures("no_gpu")
def test_a_driver_that_torch_cannot_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "driver_version", lambda: "570.86.15")
    check = by_name(checks())["driver"]
    assert check.ok is False
    assert check.remedy is not None


@pytest.mark.usefixtures("no_gpu")
def test_what_is_missing_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(module.importlib.metadata, "version", absent)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    monkeypatch.setattr(module.torch.profiler, "kineto_available", lambda: False)
    found = by_name(checks(directory=tmp_path))
    assert found["peft"].remedy == "pip install 'loraprof[hf]'"
    for name in ("transformers", "peft", "tensorboard", "torch-tb-profiler", "disk", "profiler"):
        assert found[name].ok is False
        assert found[name].remedy is not None
    assert "1.00 MiB" in found["disk"].detail


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_a_device_that_torch_knows_and_loraprof_does_not(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: True)
    check = by_name(checks())[kind]
    assert check.ok is False
    assert kind in check.detail


@pytest.mark.usefixtures("no_gpu")
def test_terminal_shows_every_check_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    doctor()
    text = " ".join(capsys.readouterr().out.split())
    for check in checks():
        assert check.name in text
        if check.remedy is not None:
            assert "-> " + check.remedy.split()[0] in text


@pytest.mark.usefixtures("no_gpu")
def test_json_stands_alone_and_holds_the_calibration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from loraprof.capture.device import calibration_cache
    from loraprof.model.recording import Calibration, CopyRate, GemmRate

    played = Calibration(
        gemm=[GemmRate(m=1000, n=1000, k=1000, dtype="float32", ns=10_000_000)],
        copy=[CopyRate(bytes=1 << 30, ns=20_000_000)],
        op_ns=250,
        event_ns=412.5,
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration_cache, "calibrate", lambda *_, **__: played)
    doctor(calibrate=True, format="json", device="cpu")
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "loraprof.doctor/1"
    assert body["calibration"]["gemm"] == [{"m": 1000, "n": 1000, "k": 1000, "dtype": "float32", "ns": 10_000_000}]
    assert {one["name"]: one["ok"] for one in body["checks"]}["GPU"] is False
    assert body["notes"] == []
    doctor(calibrate=True, device="cpu", fresh=False)
    shown = capsys.readouterr().out
    for text in ("200 GFLOP/s", "53.7 GB/s", "412 ns", "250 ns", "GEMM 1000 x 1000 x 1000 float32"):
        assert text in shown
    assert "launch floor" not in shown  # unknown, hence not shown as 0


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], None),
        (["--calibrate"], ("cpu", "float32", True)),
        (["--device", "cpu"], ("cpu", "float32", True)),
        (["--dtype", "bfloat16"], ("cpu", "bfloat16", True)),
        (["--no-fresh"], ("cpu", "float32", False)),
    ],
)
def test_what_says_how_to_calibrate_calibrates(
    words: list[str], asked: tuple[str, str, bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loraprof.capture.device import calibration_cache
    from loraprof.model.recording import Calibration

    calls: list[tuple[str, str, bool]] = []

    def calibrated(device: torch.device, *, dtype: str, fresh: bool) -> tuple[Calibration, list[str]]:
        calls.append((device.type, dtype, fresh))
        return Calibration(gemm=[], copy=[]), []

    monkeypatch.setattr(calibration_cache, "cached_calibration", calibrated)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["doctor", *words]) == 0
    assert calls == ([] if asked is None else [asked])


def test_a_device_that_cannot_be_measured_is_exit_4() -> None:
    with pytest.raises(MeasurementError) as caught:
        doctor(calibrate=True, device="mps")
    assert caught.value.exit_code == 4


def test_calibration_refuses_a_device_by_name() -> None:
    with pytest.raises(UsageError, match="no device 'gpu'"):
        doctor(calibrate=True, device="gpu")
