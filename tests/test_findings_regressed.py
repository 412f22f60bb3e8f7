"""B14: an op that is slow where its neighbours are fast, and the versions that are known for it."""

import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace
from provoke import facts, found
from recorded import profiled

from loraprof.diagnosis.findings import regressed
from loraprof.model.recording import DeviceInfo, Environment
from loraprof.model.regression import Regression, version
from loraprof.store.regressions import load_regressions

H100 = DeviceInfo(kind="cuda", name="NVIDIA H100 80GB HBM3")


def environment(torch: str, **packages: str) -> Environment:
    named = {name.replace("_", "-"): v for name, v in packages.items()}
    return Environment(loraprof="0", python="3.11", torch=torch, platform="Linux", packages=named)


def sources(torch: str, device: DeviceInfo = H100, **packages: str) -> set[str]:
    return {r.source for r in load_regressions() if r.axes == 3 and r.holds(environment(torch, **packages), device)}


def test_versions_are_read_as_numbers() -> None:
    assert version("2.9.1+cu128") == (2, 9, 1)
    assert version("2.10.0.dev20260101") == (2, 10, 0)
    assert version("2.9") < version("2.10")


def test_a_regression_holds_for_its_versions_packages_and_devices() -> None:
    assert sources("2.8.0") == set()
    assert sources("2.9.0+cu128") == {"pytorch/pytorch#166122"}
    assert sources("2.9.1+cu128") == {"pytorch/pytorch#174051"}
    assert sources("2.9.1", nvidia_cudnn_cu12="9.10.2.21") == {"pytorch/pytorch#174051"}
    assert sources("2.9.1", nvidia_cudnn_cu12="9.15.1") == set()
    assert sources("2.10.0") == set()
    assert sources("2.9.0", DeviceInfo(kind="cpu", name="CPU")) == set()
    assert sources("2.10.0", DeviceInfo(kind="cuda", name="NVIDIA B200")) == {"huggingface/transformers#45750"}


def test_every_row_has_a_source_and_a_span() -> None:
    for row in load_regressions():
        first, mended = map(version, row.torch)
        assert first < mended
        assert 1 < row.slower[0] < row.slower[1]
        assert "#" in row.source


def test_the_wheel_holds_the_table() -> None:
    root = Path(__file__).parents[1]
    built = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "profiles/regressions.toml" in built["force-include"]


@pytest.mark.slow
def test_a_slow_convolution_is_found_through_the_command_line() -> None:
    finding = found(profiled("convolves.py", "slow"))["B14"]
    seen = facts(finding)
    assert seen["op"].endswith("in bfloat16")
    assert "conv" in seen["op"]
    assert seen["of its roof, at best"] < 0.05
    assert "known of this version" not in seen
    assert "base_model.model.embed" in finding.remedy
    assert finding.gain is not None
    assert finding.gain.basis == "model"


@pytest.mark.slow
def test_a_fast_convolution_is_no_cause() -> None:
    assert "B14" not in found(profiled("convolves.py", "fast"))


@pytest.mark.slow
def test_a_known_regression_is_named_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Regression(
        op="conv", axes=3, dtypes=("bfloat16",), devices=("cpu",), torch=("2.0.0", "9.0.0"), slower=(10, 20),
        source="pytorch/pytorch#1", mended="torch 9", patch="a linear",
    )  # fmt: skip
    path = profiled("convolves.py", "slow")
    monkeypatch.setattr(regressed, "load_regressions", lambda: (known,))
    finding = found(path)["B14"]
    assert facts(finding)["known of this version"].startswith("pytorch/pytorch#1, torch ")
    assert [r.text for r in finding.remedies] == ["torch 9", "a linear"]
    monkeypatch.setattr(regressed, "load_regressions", lambda: (replace(known, dtypes=("float16",)),))
    assert "known of this version" not in facts(found(path)["B14"])
