"""N4 and N5: weights over PCIe, hidden or not, and memory that spills."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import copy, json_of, kernel, op, step, write
from provoke import facts, found, made, synthetic
from test_findings_power import sampled

from loraprof.model.recording import Memory

LAYERS, WEIGHT = 4, 8_000_000


def swapping(path: Path, *, hidden: bool = False, back: bool = False, nbytes: int = WEIGHT) -> Path:
    """Each layer's weight comes (20 us of 100), and may leave again; then its products run (40 us)."""
    host, device = [step(0, 0, 100_000 * LAYERS)], []
    for i in range(LAYERS):
        at = 100_000 * i
        host += [op("aten::copy_", at + 2_000, at + 9_000), op("aten::mm", at + 10_000, at + 19_000)]
        came = at + 50_000 if hidden else at + 10_000
        device.append(copy(came, came + 20_000, launch=(at + 3_000, at + 6_000), stream=9, bytes=nbytes,
                           name="Memcpy HtoD (Pinned -> Device)"))  # fmt: skip
        device.append(kernel(at + 35_000, at + 75_000, launch=(at + 12_000, at + 15_000)))
        if back:
            host.append(op("aten::copy_", at + 20_000, at + 29_000))
            device.append(copy(at + 80_000, at + 95_000, launch=(at + 22_000, at + 25_000), stream=9, bytes=nbytes,
                               name="Memcpy DtoH (Device -> Pinned)"))  # fmt: skip
    document = json.loads(json.dumps(json_of(host, device), default=float))
    for i in range(LAYERS):
        frame: dict[str, Any] = {"ph": "X", "cat": "python_function", "pid": 1, "tid": 1}
        args = {"Python id": i}
        document["traceEvents"].append(
            {**frame, "ts": 100.0 * i + 1, "dur": 98.0, "name": f"nn.Module: Block_{i}", "args": args}
        )
    return write(path, document)


def test_weights_that_come_in_every_forward(tmp_path: Path) -> None:
    finding = found(swapping(tmp_path / "exposed.json"))["N4"]
    seen = facts(finding)
    assert seen["copies of weights to the device"] == LAYERS
    assert seen["their bytes"] == LAYERS * WEIGHT
    assert seen["copies of weights back to the host"] == 0
    assert seen["time of these copies"] == LAYERS * 20_000
    assert seen["of it hidden behind computation"] == 0
    assert seen["computation that could hide the rest"] == LAYERS * 40_000
    assert "pinned memory" in finding.remedy
    assert "N3" not in found(swapping(tmp_path / "exposed.json"))


def test_weights_that_go_back_are_needless(tmp_path: Path) -> None:
    finding = found(swapping(tmp_path / "back.json", back=True))["N4"]
    assert facts(finding)["copies of weights back to the host"] == LAYERS
    assert any("do not change" in r.text for r in finding.remedies)


def test_copies_behind_computation_cost_nothing_more(tmp_path: Path) -> None:
    finding = found(swapping(tmp_path / "hidden.json", hidden=True))["N4"]
    assert facts(finding)["of it hidden behind computation"] == LAYERS * 20_000
    assert not any("second stream" in r.text for r in finding.remedies)


def test_small_copies_are_no_weights(tmp_path: Path) -> None:
    assert "N4" not in found(swapping(tmp_path / "small.json", nbytes=999_999))
    assert "N4" in found(swapping(tmp_path / "large.json", nbytes=1_000_000))


def test_memory_that_spills_draws_little_power() -> None:
    run = synthetic("bandwidth-v1")
    full = Memory(reserved_bytes=98, total_bytes=100, allocator_retries=0)
    windows = msgspec.structs.replace(run.recording.environment, platform="Windows-11-10.0.22631")
    finding = found(made(run, sampled([0] * 20, power=245_000), memory=full, environment=windows))["N5"]
    assert facts(finding)["power draw, of the limit"] == pytest.approx(0.35)
    assert any("Sysmem" in r.text for r in finding.remedies)
    assert finding.gain is not None
    assert finding.gain.basis == "assumed"
    linux = found(made(run, sampled([0] * 20, power=245_000), memory=full))["N5"]
    assert not any("Sysmem" in r.text for r in linux.remedies)
    assert "N5" not in found(made(run, sampled([0] * 20, power=600_000), memory=full))
    roomy = Memory(reserved_bytes=60, total_bytes=100, allocator_retries=0)
    assert "N5" not in found(made(run, sampled([0] * 20, power=245_000), memory=roomy))
