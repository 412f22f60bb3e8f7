"""Traces rewritten as text: what no change asks for is the same to the last digit, and strings are left alone."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from reports import REAL, real

from loraprof.errors import InputError
from loraprof.store.kineto import feed
from loraprof.store.kineto.rewrite import Change, rewrite, runtime_category

TRAPS = [
    '{"ph":"X","cat":"cuda_runtime","name":"cudaLaunchKernel","pid":1,"tid":1,"ts":4483781115872.905,"dur":1.000}',
    '{"ph":"X","name":"\\"cat\\": \\"cuda_runtime\\"","cat":"cpu_op","pid":1,"tid":1,"ts":1,"dur":1}',
    '{"ph":"X","cat":"cpu_op","name":"cuda_runtime","pid":1,"tid":1,"ts":1,"dur":1,"args":{"cat":"cuda_runtime"}}',
    '{"name":"x},{\\"y","args":{"cat":"cuda_driver","n":12345678901234567890},"cat":"cuda_driver","ph":"X","ts":2,"dur":1}',
    '{"ph":"X","cat" : "hip_runtime","name":"größe","pid":1,"tid":1,"ts":1,"dur":1}',
    '{"ph":"i","s":"t","name":"no category","pid":"","tid":"","ts":3}',
]


def write(path: Path, *events: str, tail: str = "") -> Path:
    path.write_text('{"schemaVersion": 1, "traceEvents": [' + ", \n".join(events) + "]" + tail + "}")
    return path


def rewritten(path: Path, *changes: Change, **more: Any) -> Any:
    out = io.BytesIO()
    rewrite(path, out, changes, **more)
    return json.loads(out.getvalue(), parse_float=str)


def events_of(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    document = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data, parse_float=str)
    events: list[dict[str, Any]] = document["traceEvents"] if isinstance(document, dict) else document
    return events


def test_only_the_category_of_api_calls_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", *TRAPS)
    expected = events_of(path)
    for i in (0, 3, 4):
        expected[i]["cat"] = "runtime"
    got = rewritten(path, runtime_category)["traceEvents"]
    assert got == expected
    assert got[0]["ts"] == "4483781115872.905"
    assert got[2]["args"] == {"cat": "cuda_runtime"}


@pytest.mark.parametrize("size", [64, 200, 1000])
def test_pieces_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(feed, "PIECE_BYTES", size)
    path = write(tmp_path / "x.json", *TRAPS * 20)
    assert rewritten(path) == json.loads(path.read_text(), parse_float=str)
    cats = [e.get("cat") for e in rewritten(path, runtime_category)["traceEvents"]]
    assert cats == ["runtime", "cpu_op", "cpu_op", "runtime", "runtime", None] * 20


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(REAL.glob("*.json.gz")), ids=lambda p: p.name.split(".")[0])
def test_real_traces_keep_every_event(path: Path) -> None:
    expected = events_of(path)
    got = rewritten(path, runtime_category)["traceEvents"]
    changed = [(a, b) for a, b in zip(expected, got, strict=True) if a != b]
    assert {a["cat"] for a, _ in changed} <= {"cuda_runtime", "cuda_driver", "Runtime"}
    assert all({**a, "cat": "runtime"} == b for a, b in changed)
    assert len(changed) == sum(a.get("cat") in ("cuda_runtime", "cuda_driver", "Runtime") for a in expected)


def test_the_traces_are_beside_this_checkout() -> None:
    real("a100_resnet_ddp_train")


def test_values_extra_events_and_arrays(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", TRAPS[0], tail=', "traceName": "/home/me/x.json", "host_name": "me-1"')

    def choose(key: str, text: bytes) -> bytes | None:
        return {"traceName": b"null", "host_name": None}.get(key, text)

    got = rewritten(path, choose=choose, extra=[b'{"a":1}', b'{"b":2}'])
    assert {k: v for k, v in got.items() if k != "traceEvents"} == {"schemaVersion": 1, "traceName": None}
    assert got["traceEvents"][1:] == [{"a": 1}, {"b": 2}]
    assert rewritten(write(tmp_path / "x.json"), extra=[b'{"a":1}'])["traceEvents"] == [{"a": 1}]
    bare = tmp_path / "bare.json"
    bare.write_text(f"\ufeff[{TRAPS[0]}, {TRAPS[5]}]")
    assert rewritten(bare) == {"traceEvents": events_of(write(tmp_path / "x.json", TRAPS[0], TRAPS[5]))}


def test_what_is_not_strict_json_becomes_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"traceEvents":[{"ph":"X","name":"a\x01\xff","ts":1,"args":{"v":NaN}}]}')
    assert rewritten(path)["traceEvents"] == [{"ph": "X", "name": "a \ufffd", "ts": 1, "args": {"v": "NaN"}}]


@pytest.mark.parametrize("text", ["", "{}", '{"traceEvents":[{"ph":"X"', '{"a":1}', "nonsense"])
def test_not_a_trace(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="x\\.json"):
        rewritten(tmp_path / "x.json")
