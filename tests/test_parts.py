"""Several processes read one file: the trace is that of one process, whatever happens to them."""

import gzip
import io
import os
from pathlib import Path

import msgspec
import pytest
from kineto_events import MINIMAL

from loraprof.errors import InputError
from loraprof.model.trace import Trace
from loraprof.store.kineto import parts, read
from loraprof.store.kineto.contents import Contents
from loraprof.store.kineto.feed import PIECE_BYTES

ALONE = 2
EVENTS = 7 * PIECE_BYTES // 300
HEAD, TAIL = MINIMAL.split(b"\n  {", 1)[0], b'],"traceName": "large.json"}'
OP = (
    '{"ph":"X","cat":"cpu_op","name":"aten::op%d","pid":1,"tid":%d,"ts":%d.125,"dur":%d.5,"args":{"External id":%d,'
    '"Sequence number":%d,"Fwd thread id":0,"Input Dims":[[%d,8],[]],"Input type":["float",""],"Concrete Inputs":["",'
    '"1"],"Input Strides":[[8,1],[]],"Filler":"' + "." * 60 + '"}}'
)
KERNEL = (
    '{"ph":"X","cat":"kernel","name":"k%d","pid":0,"tid":7,"ts":%d,"dur":1.25,"args":{"device":0,"stream":7,'
    '"correlation":%d,"grid":[%d,1,1],"block":[128,1,1],"Collective name":"%s","Filler":"' + "." * 120 + '"}}'
)


def large(last: bytes = b"") -> bytes:
    """Names, shapes and collectives come up at different places: no two processes meet them in one order."""
    host = (OP % (i // 99 % 9, i % 5, i, i % 3 - 1, i, i, i // 77 % 50) for i in range(EVENTS))
    device = (KERNEL % (i % 7, i, i, i // 500 + 1, "ab"[i % 2]) for i in range(0, EVENTS, 8))
    strange = '{"ph":"X","cat":"npu_kernel","name":"n","ts":1,"dur":1,"args":{"stream":1}}'
    return HEAD + ",\n  ".join((*host, strange, *device)).encode() + last + TAIL


def stored(path: Path, text: bytes) -> Path:
    path.write_bytes(gzip.compress(text, 1))
    return path


def alone(text: bytes) -> Trace:
    return read.read_stream(io.BytesIO(text), "t")


def everything(trace: Trace) -> bytes:
    """All that a trace says, columns with their types."""
    return msgspec.json.encode(trace, enc_hook=lambda column: (str(column.dtype), column.tolist()))


@pytest.fixture(scope="module")
def text() -> bytes:
    return large()


@pytest.fixture(scope="module")
def file(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("parts") / "large.json.gz", text)


@pytest.fixture(scope="module")
def expected(text: bytes) -> bytes:
    return everything(alone(text))


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the parts made a whole, for every file that is read."""
    found: list[bool] = []

    def watched(path: Path, stream: io.BufferedReader) -> Contents | None:
        contents = parts.in_parts(path, stream)
        found.append(contents is not None)
        return contents

    monkeypatch.setattr(read, "in_parts", watched)
    return found


def together(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(parts, "_processes", lambda stream: processes)
    monkeypatch.setattr(parts, "ALONE", ALONE)


@pytest.mark.parametrize("processes", [2, 3])
def test_the_trace_of_all_parts_is_that_of_one_process(
    processes: int, file: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, outcomes: list[bool]
) -> None:
    together(monkeypatch, processes)
    assert everything(read.read_trace(file)) == expected
    assert outcomes == [True]


def test_every_piece_is_decoded_by_one_process() -> None:
    piece = b'[{"ph":"X","cat":"cpu_op","ts":1}]'
    parted = [map(parts.every(3, index, ALONE), [piece] * 100) for index in range(3)]
    taken = [[number for number, batches in enumerate(part) if batches] for part in parted]
    assert sorted(number for part in taken for number in part) == list(range(100))
    assert taken[0][:ALONE] == list(range(ALONE))


@pytest.mark.parametrize("damage", ["cut", "letters"])
def test_damage_is_told_as_by_one_process(
    damage: str, text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcomes: list[bool]
) -> None:
    damaged = {"cut": text[:-40], "letters": text[:-2000] + b'{"ph": Q}' + text[-2000:]}[damage]
    place = stored(tmp_path / "t", damaged)
    with pytest.raises(InputError) as by_one:
        read.read_trace(place)
    together(monkeypatch, 2)
    with pytest.raises(InputError) as by_two:
        read.read_trace(place)
    assert str(by_two.value) == str(by_one.value)
    assert outcomes == [False, False]


def test_a_process_that_dies_costs_time_alone(
    file: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, outcomes: list[bool]
) -> None:
    together(monkeypatch, 2)
    monkeypatch.setattr(parts, "bound", lambda words: ["false"])
    assert everything(read.read_trace(file)) == expected
    assert outcomes == [False]


def test_a_file_that_changes_meanwhile_is_read_again(
    file: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, outcomes: list[bool]
) -> None:
    together(monkeypatch, 2)
    monkeypatch.setattr(parts, "_identity", lambda stream: (0,))
    assert everything(read.read_trace(file)) == expected
    assert outcomes == [False]


def test_a_small_file_or_a_stream_is_read_by_one(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = stored(tmp_path / "small.json.gz", MINIMAL)
    with small.open("rb") as stream:
        assert parts.in_parts(small, stream) is None
        assert stream.tell() == 0
    assert parts._processes(io.BytesIO(b"")) == 1
    monkeypatch.setattr(parts, "LARGE_BYTES", 1)
    with file.open("rb") as stream:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        assert parts._processes(stream) == min(cores, parts.MOST)
        monkeypatch.setattr(parts, "_is_worker", lambda: True)
        assert parts._processes(stream) == 1
