"""Reading what is damaged: broken events are counted, odd ones kept, files that are no trace refused in one line."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from kineto_events import MINIMAL, event, host_rows, read, read_events

from loraprof.errors import InputError
from loraprof.model.trace import Faults, Shapes
from loraprof.store.kineto.read import read_trace


def test_metadata_of_the_wrong_type_is_unknown() -> None:
    values = {"deviceProperties": {"id": 0}, "distributedInfo": [1], "baseTimeNanoseconds": "7", "host_name": None}
    trace = read(json.dumps(values | {"traceEvents": [event("cpu_op")]}).encode())
    assert (trace.gpus, trace.rank, trace.world_size, trace.base_ns) == ((), None, None, None)


def test_duplicates_count_once_and_are_noted() -> None:
    first, second = event("cpu_op"), event("kernel", args={"correlation": 1, "stream": 7})
    trace = read_events(first, second, first, second, second)
    assert (len(trace.host), len(trace.device), trace.faults.duplicates) == (1, 1, 3)
    assert trace.notes == ("3 events are exact copies of another and were counted once",)


def test_missing_times_are_left_out_and_counted() -> None:
    bare = event("cpu_op")
    del bare["ts"]
    trace = read_events(bare, event("cpu_op", ts=None), event("cpu_op", "kept"))
    assert [name for _, name, _, _ in host_rows(trace)] == ["kept"]
    assert trace.faults == Faults(missing_ts=2)
    assert trace.notes == ("2 events have no time and were left out",)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b'"nan"', b"1e300", b"true", b"[]", b'"soon"'])
@pytest.mark.parametrize("key", [b"ts", b"dur"])
def test_times_that_are_no_number(key: bytes, value: bytes) -> None:
    good = b'{"ph":"X","cat":"cpu_op","name":"kept","pid":1,"tid":1,"ts":1.5,"dur":1}'
    other = b"dur" if key == b"ts" else b"ts"
    bad = b'{"ph":"X","cat":"cpu_op","name":"bad","pid":1,"tid":1,"%b":%b,"%b":2}' % (key, value, other)
    trace = read(b"[" + bad + b"," + good + b"]")
    assert host_rows(trace) == [("OP", "kept", 1500, 2500)]
    assert trace.faults == Faults(not_finite=1)


def test_negative_and_huge_durations() -> None:
    trace = read_events(
        event("cpu_op", dur=-1), event("kernel", dur=-1), event("cpu_op", ts=4e15, dur=4e15), event("cpu_op", "kept")
    )
    assert [name for _, name, _, _ in host_rows(trace)] == ["kept"]
    assert trace.faults == Faults(negative_durations=2, not_finite=1)


def test_device_records_without_start_or_duration_are_an_error_marker() -> None:
    marked = [event("kernel", ts=0), event("kernel", dur=0), event("gpu_memcpy", ts=0, dur=0)]
    trace = read_events(*marked, event("cpu_op", dur=5.5))
    assert (len(trace.device), trace.faults) == (0, Faults(zero_timestamps=3))
    whole = read_events(*marked, event("cpu_op"))  # in whole microseconds a short record lasts none
    assert (len(whole.device), whole.faults) == (1, Faults(zero_timestamps=2))
    assert read_events(event("cpu_op", ts=0, dur=0)).faults == Faults()


def test_negative_start_of_host_records_is_kept() -> None:
    assert read_events(event("cpu_op", ts=-2)).host.start.tolist() == [-2000]


def test_unknown_categories_are_named_with_their_number() -> None:
    trace = read_events(event("cpu_op"), event("xpu_kernel"), event("xpu_kernel"), event("mtia"), event(""))
    assert trace.faults.unknown_categories == 4
    assert trace.notes == ("events of unknown categories were left out: (none) (1), mtia (1), xpu_kernel (2)",)
    with pytest.raises(InputError, match="no profiler events; categories found: xpu_kernel"):
        read_events(event("xpu_kernel"))


def test_fields_of_odd_types_cost_no_event() -> None:
    odd = [
        event("kernel", 5, args={"stream": "seven", "correlation": "12", "grid": "4", "block": [1, None]}),  # type: ignore[arg-type]
        event("cpu_op", None, args={"Input Dims": "no", "Sequence number": 1e30}),  # type: ignore[arg-type]
        event("cpu_op", ts=1, args=[1, 2]),
        event("cpu_op", ts=2, args=None),
        event("cpu_op", pid=[1], tid={}),
    ]
    trace = read_events(*odd, 5, None, "x", {"ph": "X"}, {"ph": 1, "cat": "cpu_op"})  # type: ignore[arg-type]
    assert (len(trace.host), len(trace.device)) == (4, 1)
    device = trace.device
    assert trace.names[device.name[0]] == "5"
    assert (device.stream[0], device.correlation[0], device.blocks[0], device.threads[0]) == (-1, 12, -1, -1)


def test_shapes_may_hold_anything() -> None:
    odd = {"Input Dims": [[2.5, {"a": [1]}, None, "N"], 7], "Input type": {"a": 1}, "Concrete Inputs": [1, None]}
    trace = read_events(event("cpu_op", args=odd), event("cpu_op", ts=9, args={"Input Dims": {}}))
    assert trace.shapes == (Shapes((("2.5", "{'a': [1]}", "None", "N"), ()), (), (), ("1", "None")),)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"hello", "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b"null", "not JSON"),
        (b"{}", "without traceEvents"),
        (b'{"traceEvents": 3}', "without traceEvents"),
        (b'{"a": [1, 2', "truncated"),
        (b'{"traceEvents": []}', "no profiler events"),
        (b"[]", "no profiler events"),
        (b"[1, 2, 3]", "no profiler events"),
        (MINIMAL[:-40], "truncated"),
        (MINIMAL[:900], "truncated"),
        (MINIMAL + b"x", "text after the end"),
        (MINIMAL.replace(b"aten::mm", b'aten::"mm"'), "invalid JSON"),
        (b"[" * 200_000, "t.json"),
        (gzip.compress(MINIMAL)[:-9], "truncated"),
        (b"\x1f\x8b", "t.json"),
    ],
)
def test_unreadable_files(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        read(data)
    assert caught.value.message.startswith("t.json: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_damage_ends_in_a_trace_or_an_input_error() -> None:
    """Bytes flipped, cut out, doubled: nothing but InputError may escape, and what is read stays well-formed."""
    rng = random.Random(4)
    outcomes: Counter[str] = Counter()
    pieces = [*(bytes([byte]) for byte in b'"{}[],:-\\\x00\xff'), b"null", b"1e999", b"NaN", b"tru"]
    for _ in range(4000):
        data = bytearray(MINIMAL)
        for _ in range(rng.randrange(1, 4)):
            at, length = rng.randrange(len(data)), rng.randrange(0, 12)
            data[at : at + length] = rng.choice([*pieces, bytes(data[at : at + 2 * length])])
        try:
            trace = read(bytes(data))
        except InputError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert np.all(trace.host.end >= trace.host.start)
            assert np.all(trace.device.end > trace.device.start)
            assert np.all(trace.host.name < len(trace.names))
    assert min(outcomes["read"], outcomes["refused"]) > 200


def test_a_link_in_a_circle_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "rank0.trace.json"
    place.symlink_to(place.name)
    with pytest.raises(InputError, match=r"rank0\.trace\.json: cannot be read, Too many levels of symbolic links"):
        read_trace(place)
