"""What lies is refused at the door: exit code 5 and the field's path, whatever kind of file it stands in."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from recordings import NVML, trace_bytes, write_recording

from loraprof.cli.app import run
from loraprof.errors import InputError
from loraprof.store.brackets import Brackets, TooDeep, check_depth
from loraprof.store.recordings import load_source

GOOD = Path(__file__).parents[1] / "profiles" / "recordings" / "h100-sxm" / "minimind-26m.loraprof"
RECORDING, SAMPLED = ((GOOD / name).read_bytes() for name in ("recording.json", "nvml.json"))
Change = Callable[[Any], object]


def put(*path: str | int, value: object) -> Change:
    """A document in which one value is another."""

    def change(document: Any) -> object:
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return document

    return change


def cut(table: str, keep: int) -> Change:
    return lambda document: document | {table: document[table][:keep]}


RECORDINGS: dict[str, tuple[Change, str]] = {
    "a copy of no length": (put("calibration", "copy", 0, "ns", value=0), "$.calibration.copy[0].ns"),
    "a copy of nothing": (put("calibration", "copy", 0, "bytes", value=0), "$.calibration.copy[0].bytes"),
    "a product of no length": (put("calibration", "gemm", 0, "ns", value=0), "$.calibration.gemm[0].ns"),
    "a product of no size": (put("calibration", "gemm", 0, "k", value=0), "$.calibration.gemm[0].k"),
    "a step of 200 digits": (put("timing", "samples_ns", 0, value=10**200), "$.timing.samples_ns[0]"),
    "a step of no length": (put("timing", "samples_ns", 0, value=0), "$.timing.samples_ns[0]"),
    "more ranks than exist": (put("environment", "world_size", value=3 * 10**8), "$.environment.world_size"),
    "a rank beyond the last": (put("environment", "rank", value=1), "$.environment.rank"),
    "a missing rank beyond the last": (put("missing_ranks", value=[7]), "$.missing_ranks[0]"),
    "no modules": (cut("modules", 0), "$.parameters[0].module"),
    "fewer modules": (cut("modules", 3), ".module` is "),
    "fewer sites": (cut("sites", 1), ".site` is "),
    "modules out of order": (put("modules", 1, "id", value=5), "$.modules[1].id"),
    "a module before the first": (put("parameters", 0, "module", value=-1), "$.parameters[0].module"),
    "an op of no module": (put("counted", 0, "module", value=10**6), "$.counted[0].module"),
    "an adapter's op of no module": (
        put("adapter_ops", value=[[10**6, "x", [[0, "adapter.up"]]]]),
        "$.adapter_ops[0].mod",
    ),
    "an adapter's op of no site": (put("adapter_ops", value=[[0, "x", [None, [10**6, "adapter.up"]]]]), "[0].labels"),
    "a dense op of no site": (put("dense_ops", value=[[0, "x", [[10**6, "adapter.up"]]]]), "$.dense_ops[0].labels"),
    "a layer of no width": (put("sites", 0, "in_features", value=0), "$.sites[0].in_features"),
    "yesterday": (put("created", value="yesterday"), "$.created"),
    "a day that no calendar has": (put("created", value="2026-02-31T00:00:00Z"), "$.created"),
    "a negative size": (put("parameters", 0, "shape", value=[-1, 8]), "$.parameters[0].shape"),
    "a dropout of more than all": (put("sites", 0, "dropout", value=7.5), "$.sites[0].dropout"),
}
NVMLS: dict[str, tuple[Change, str]] = {
    "an energy of 400 digits": (put("energy_mj", value=10**400), "$.energy_mj"),
    "a loop of no length": (put("loop_ns", value=0), "$.loop_ns"),
    "no steps": (put("steps", value=0), "$.steps"),
    "samples out of order": (lambda d: d | {"samples": d["samples"][::-1]}, "$.samples[1].monotonic_ns"),
}


def refused(folder: Path, name: str, content: bytes) -> str:
    place = write_recording(folder / "a.loraprof", nvml=NVML)
    (place / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_source(place)
    assert str(caught.value).startswith(str(place / name))
    return str(caught.value)


def test_the_good_one_passes(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "a.loraprof", nvml=NVML)
    (place / "recording.json").write_bytes(RECORDING)
    (place / "nvml.json").write_bytes(SAMPLED)
    assert load_source(place).nvml is not None


@pytest.mark.parametrize("case", RECORDINGS)
def test_a_recording_that_lies(case: str, tmp_path: Path) -> None:
    change, field = RECORDINGS[case]
    assert field in refused(tmp_path, "recording.json", json.dumps(change(json.loads(RECORDING))).encode())


@pytest.mark.parametrize("case", NVMLS)
def test_samples_that_lie(case: str, tmp_path: Path) -> None:
    change, field = NVMLS[case]
    assert field in refused(tmp_path, "nvml.json", json.dumps(change(json.loads(SAMPLED))).encode())


@pytest.mark.parametrize("name", ["recording.json", "nvml.json"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"schema":"loraprof.recording/1","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested deeper than 64"),
        (b'{"schema":"loraprof.recording/1","x":' + b'{"a":' * 30_000 + b"1" + b"}" * 30_001, "nested deeper than 64"),
        (RECORDING.replace(b'"minimind', b'"\xa4minimind', 1), "not UTF-8 at byte "),
        (b'{"schema":"loraprof.recording/1","x":"\xa4"}', "not UTF-8 at byte 38"),
        (b'{"schema":"loraprof.recording/1","x":' + b"1" * 5000 + b"}", ""),
    ],
    ids=["lists", "objects", "latin-1", "latin-1 unread", "digits"],
)
def test_text_that_is_no_json_a_program_wrote(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    assert why in refused(tmp_path, name, content)


OP = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 10, "dur": 5}
STEP = OP | {"cat": "user_annotation", "name": "ProfilerStep#0"}
TRACES: dict[str, list[dict[str, Any]]] = {
    "a marker of 20 digits": [OP | {"name": "loraprof::m" + "9" * 20}],
    "a marker of a digit that is no number": [OP | {"name": "loraprof::m²"}],
    "a gradient of 20 digits": [OP | {"name": "loraprof::g" + "9" * 20}],
    "bytes of 400 digits": [OP | {"args": {"Input Dims": [[1]], "kernel_num_gb": 10**400}}],
    "FLOPs of 400 digits": [OP | {"args": {"Input Dims": [[1]], "kernel_num_gb": 1, "kernel_flop": 10**400}}],
    "sizes of 400 digits": [OP | {"args": {"Input Dims": [[10**400, 2], [2, 10**400]], "Input type": ["float"] * 2}}],
    "many large sizes": [OP | {"args": {"Input Dims": [[2**50] * 40], "Input type": ["float"]}}],
    "nested sizes": [OP | {"args": {"Input Dims": [[[[[[2]]]]]], "Input type": ["float"]}}],
    "an empty step": [STEP | {"dur": 0}, OP],
    "an empty step before its work": [STEP | {"ts": -998990.0, "dur": 0}, OP],
}


@pytest.mark.parametrize("form", ["terminal", "json", "html", "markdown", "github"])
@pytest.mark.parametrize("case", TRACES)
def test_a_trace_that_lies_is_read_without_it(
    case: str, form: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TRACES[case]))
    assert run(["report", str(tmp_path / "t.json"), "--format", form]) == 0
    assert capfdbinary.readouterr().out


def test_times_too_far_apart_to_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = [OP | {"ts": -4e15}, OP | {"ts": 4e15}]
    (tmp_path / "t.json").write_text(json.dumps(far))
    assert run(["report", str(tmp_path / "t.json")]) == 5
    assert "146 years" in capsys.readouterr().err


BOMBS: dict[str, Callable[[], bytes]] = {
    "top value": lambda: b'{"a":%b}' % (b"[" * 4_000_000 + b"]" * 4_000_000),
    "behind the events": lambda: b'{"traceEvents":%b,"a":%b}' % (b"[]", b"[" * 4_000_000),
    "in an event": lambda: b'[{"ph":"X","args":%b}]' % (b'{"a":' * 2_000_000),
    "flat lists": lambda: b'{"a":[%b]}' % b",".join([b"[]"] * 2_000_000),
    "lists for events": lambda: b"[%b]" % b",".join([b"[]"] * 2_000_000),
    "objects for events": lambda: b"[%b]" % b",".join([b"{}"] * 2_000_000),
    "numbers for events": lambda: b"[%b]" % b",".join([b"1"] * 3_000_000),
    "keys": lambda: b"{%b}" % b",".join(b'"%d":1' % i for i in range(500_000)),
    "braces": lambda: b"[" + b"{" * 6_000_000,
    "backslashes": lambda: b'{"a":"%b"}' % (b"\\\\" * 3_000_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_is_no_trace_is_known_early(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.json").write_bytes(BOMBS[case]())
    assert run(["report", str(tmp_path / "t.json")]) == 5
    assert "Traceback" not in capsys.readouterr().err


def reference(text: bytes) -> list[tuple[int, int]]:
    """The scanner as one would write it."""
    found, depth, inside, i = [], 0, False, 0
    while i < len(text):
        byte = text[i : i + 1]
        if inside and byte == b"\\":
            i += 1
        elif byte == b'"':
            inside = not inside
        elif not inside and byte in b"[]{}":
            depth += 1 if byte in b"[{" else -1
            found.append((i, depth))
        i += 1
    return found


def rows(chunks: Iterable[tuple[Any, Any]]) -> list[tuple[int, int]]:
    return [(int(p), int(d)) for places, depths in chunks for p, d in zip(places, depths, strict=True)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 18])
def test_brackets_are_those_outside_strings(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraprof.store.brackets._FIRST_BYTES", size)
    monkeypatch.setattr("loraprof.store.brackets._CHUNK_BYTES", size)
    text = rb'[{"a\\":"]\"[","b\\\"}":[{}, "\\\\", []]},"\\"]' * 2
    found = [
        (int(p), int(d)) for places, depths in Brackets().levels(text, 0) for p, d in zip(places, depths, strict=True)
    ]
    assert found == reference(text)


def test_a_scan_goes_on_where_it_stopped() -> None:
    text = rb'[{"a\\\"]":"]"},[]]'
    for at in range(len(text)):
        scan = Brackets()
        parts = [*scan.levels(text[:at], 0), *((p + at, d) for p, d in scan.levels(text[at:], 0))]
        assert [(int(p), int(d)) for places, depths in parts for p, d in zip(places, depths, strict=True)] == reference(
            text
        )


def test_64_levels_are_enough() -> None:
    check_depth(b"[" * 64 + b"]" * 64)
    with pytest.raises(TooDeep, match="deeper than 64"):
        check_depth(b"[" * 65)


def test_a_sound_trace_with_deep_metadata(tmp_path: Path) -> None:
    deep = json.loads(trace_bytes()) | {"notes": json.loads("[" * 60 + "]" * 60)}
    (tmp_path / "t.json").write_bytes(msgspec.json.encode(deep))
    assert run(["report", str(tmp_path / "t.json"), "--format", "json", "-o", str(tmp_path / "out")]) == 0
