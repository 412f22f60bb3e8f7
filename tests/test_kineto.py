"""Reading a trace: exact times, every layout, the same tables for any order of events."""

import gzip
import json
import random
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import Document, kernel, note, op, overhead, text_of, us
from builders import json_of as document_of_records
from kineto_events import MINIMAL, event, host_rows, read, read_events

from loraprof.model.trace import Collective, DeviceFacts, Faults, Shapes, Trace
from loraprof.model.vocabulary import DeviceKind, HostKind
from loraprof.store.kineto import feed


def content(trace: Trace) -> dict[str, Any]:
    """Everything a Trace says, comparable with ==."""
    out: dict[str, Any] = {}
    for table in ("host", "device"):
        columns = getattr(trace, table)
        out |= {f"{table}.{name}": getattr(columns, name).tolist() for name in type(columns).__struct_fields__}
    return out | {name: getattr(trace, name) for name in Trace.__struct_fields__ if name not in ("host", "device")}


def test_minimal_trace() -> None:
    trace = read(MINIMAL)
    assert host_rows(trace) == [
        ("ANNOTATION", "ProfilerStep#0", 1_000_000, 1_090_000),
        ("OP", "aten::mm", 1_010_000, 1_022_000),
        ("RUNTIME", "cudaLaunchKernel", 1_015_000, 1_020_000),
    ]
    host, device = trace.host, trace.device
    assert host.correlation.tolist() == [-1, -1, 7]
    assert (host.sequence.tolist(), host.fwd_thread.tolist()) == ([-1, 0, -1], [-1, 0, -1])
    assert host.shapes.tolist() == [-1, 0, -1]
    assert trace.shapes == (Shapes(((512, 256), (256, 16)), ("c10::BFloat16",) * 2),)
    assert trace.threads == (("1", "1"),)
    assert (device.start.tolist(), device.end.tolist()) == ([1_021_500], [1_025_750])
    assert (device.device.tolist(), device.stream.tolist(), device.correlation.tolist()) == ([0], [7], [7])
    assert (device.blocks.tolist(), device.threads.tolist(), device.bytes.tolist()) == ([4], [128], [-1])
    assert trace.gpus == (DeviceFacts(0, "Synthetic GPU", None, 100, (9, 0)),)
    assert (trace.base_ns, trace.rank, trace.world_size, trace.rocm, trace.has_shapes) == (0, None, None, False, True)
    assert (trace.faults, trace.notes) == (Faults(), ())
    assert device.start[0] - host.start[2] == 6500  # launch latency
    assert host.end[2] - host.start[2] == 5000  # API time
    assert device.end[0] - device.start[0] == 4250  # kernel time


def test_times_are_exact_up_to_eight_trillion_us() -> None:
    rng = np.random.default_rng(1)
    start, dur = rng.integers(1, 8 * 10**15, 3000).tolist(), rng.integers(1, 10**12, 3000).tolist()
    texts = [f"{us(s)}" for s in start]
    lines = [
        f'{{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":{t},"dur":{us(d)},"args":{{"correlation":{i}}}}}'
        for i, (t, d) in enumerate(zip(texts, dur, strict=True))
    ]
    device = read(("[" + ",".join(lines) + "]").encode()).device
    order = device.correlation.tolist()
    assert device.start.tolist() == [int(Decimal(texts[i]) * 1000) for i in order]
    assert (device.end - device.start).tolist() == [dur[i] for i in order]
    assert device.start.tolist() == sorted(start)


def test_times_beyond_float_precision_are_read_from_their_text() -> None:
    ts = ["8796093022208.001", "1234567890123456.789", "4000000000000000.001"]
    found = read_events(*(event("kernel", ts=Decimal(t), dur=Decimal("0.001")) for t in ts)).device
    assert found.start.tolist() == sorted(int(Decimal(t) * 1000) for t in ts)
    assert (found.end - found.start).tolist() == [1, 1, 1]


def _layouts() -> dict[str, bytes]:
    document = json.loads(MINIMAL)
    events = document["traceEvents"]
    backwards = [dict(reversed(list(e.items()))) for e in events]
    packed = gzip.compress(MINIMAL[:700]) + gzip.compress(b"") + gzip.compress(MINIMAL[700:])
    return {
        "one line": json.dumps(document).encode(),
        "no blanks": json.dumps(document, separators=(",", ":")).encode(),
        "indented": json.dumps(document, indent=4).encode(),
        "tabs and CRLF": json.dumps(document, indent="\t").replace("\n", "\r\n").encode(),
        "byte order mark": b"\xef\xbb\xbf" + MINIMAL,
        "keys of events reversed": json.dumps(document | {"traceEvents": backwards}).encode(),
        "events before metadata": json.dumps(dict(reversed(list(document.items())))).encode(),
        "events in reverse": json.dumps(document | {"traceEvents": events[::-1]}).encode(),
        "gzip": gzip.compress(MINIMAL),
        "gzip members": packed,
    }


@pytest.mark.parametrize("layout", _layouts())
def test_layout_does_not_matter(layout: str) -> None:
    assert content(read(_layouts()[layout])) == content(read(MINIMAL))


@pytest.mark.parametrize("indent", [None, 2])
def test_bare_array(indent: int | None) -> None:
    found = content(read(json.dumps(json.loads(MINIMAL)["traceEvents"], indent=indent).encode()))
    assert found == content(read(MINIMAL)) | {"gpus": (), "base_ns": None}


def test_python_exporter() -> None:
    """Instants come as complete events without duration, the SM count under another key, times as floats."""
    document = json.loads(MINIMAL)
    gpu = document["deviceProperties"][0]
    gpu["maxThreadsPerMultiprocessor"] = gpu.pop("numSms")
    document["traceEvents"][-1] |= {"ph": "X", "dur": 0, "cat": "cpu_instant_event"}
    assert content(read(json.dumps(document).encode())) == content(read(MINIMAL))


def test_threads_per_sm_is_not_taken_for_the_sm_count() -> None:
    gpu = {"id": 0, "name": "A100", "maxThreadsPerMultiprocessor": 2048, "totalGlobalMem": 42}
    trace = read(json.dumps({"deviceProperties": [{}, 3, gpu], "traceEvents": [event("cpu_op")]}).encode())
    assert trace.gpus == (DeviceFacts(0, "A100", 42),)


def test_ranks_and_rocm() -> None:
    info = {"distributedInfo": {"backend": "nccl", "rank": 3, "world_size": 8}, "traceEvents": [event("cpu_op")]}
    trace = read(json.dumps(info).encode())
    assert (trace.rank, trace.world_size, trace.rocm) == (3, 8, False)
    assert read_events(event("cuda_runtime", "hipLaunchKernel")).rocm
    assert not read_events(event("cpu_op", "hipLaunchKernel")).rocm


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Operator", "cpu_op"),
        ("Runtime", "cuda_runtime"),
        ("runtime", "cuda_driver"),
        ("Kernel", "kernel"),
        ("Memcpy", "gpu_memcpy"),
        ("Memset", "gpu_memset"),
    ],
)
def test_legacy_categories(old: str, new: str) -> None:
    assert content(read_events(event(old))) == content(read_events(event(new)))


def test_only_the_category_makes_device_work() -> None:
    triton = event("cpu_op", "triton_poi", args={"stream": 7, "grid": [4, 1, 1], "correlation": 5, "device": 0})
    sync = event("cuda_sync", "Stream Sync", args={"stream": 7, "device": 0})
    trace = read_events(triton, sync, event("gpu_user_annotation", "ProfilerStep#0"), event("gpu_memset", "Memset"))
    assert host_rows(trace) == [("OP", "triton_poi", 10_000, 15_000)]
    assert trace.host.correlation.tolist() == [-1]
    assert trace.device.kind.tolist() == [DeviceKind.MEMSET]
    assert trace.notes == ()


def test_overhead_belongs_to_the_thread_of_its_id() -> None:
    records = [op("a", 0, 10, thread=5), op("b", 0, 10, thread=6), overhead("Command Buffer Full", 20, 30, thread=5)]
    trace = read(text_of(document_of_records(records)))
    assert trace.threads == (("1", "5"), ("1", "6"))
    mine = trace.host.kind == HostKind.OVERHEAD
    assert [trace.threads[t] for t in trace.host.thread[mine]] == [("1", "5")]


def test_overhead_prefers_the_main_process_and_else_keeps_its_own_thread() -> None:
    main = [event("cpu_op", pid=2, tid=5, ts=t) for t in (1, 2)]
    lost = event("overhead", pid=-1, tid=9)
    trace = read_events(*main, event("cpu_op", pid=1, tid=5), event("overhead", pid=-1, tid=5), lost)
    rows = zip(trace.host.kind.tolist(), (trace.threads[t] for t in trace.host.thread), strict=True)
    assert sorted(t for k, t in rows if k == HostKind.OVERHEAD) == [("-1", "9"), ("2", "5")]


def test_processes_and_threads_may_be_strings() -> None:
    trace = read_events(event("cpu_op", pid="Spans", tid="a"), event("cpu_op", pid=1, tid=2), event("cpu_op", pid=None))
    assert trace.threads == (("", "1"), ("1", "2"), ("Spans", "a"))


def test_nodes_of_one_graph_launch_are_no_duplicates() -> None:
    nodes = [event("kernel", args={"correlation": 1, "stream": 7, "graph node id": n}) for n in (1, 2)]
    trace = read_events(*nodes)
    assert (trace.device.graph_node.tolist(), trace.faults.duplicates) == ([1, 2], 0)


def test_several_launches_may_share_a_correlation() -> None:
    calls = [event("cuda_runtime", "cudaLaunchKernel", ts=t, args={"correlation": 3}) for t in (1, 9)]
    assert read_events(*calls).host.correlation.tolist() == [3, 3]


def test_shapes_of_lists_scalars_and_absent_inputs() -> None:
    args = {
        "Input Dims": [[2, 3], [], [[4], [5, 6]], "", None],
        "Input type": ["float", "Scalar", "TensorList", "", ""],
        "Input Strides": [[3, 1], [], [[1], [6, 1]], [], []],
        "Concrete Inputs": ["", "1.5", "", "", ""],
    }
    again = event("cpu_op", ts=20, args=json.loads(json.dumps(args)))
    trace = read_events(event("cpu_op", args=args), again, event("cpu_op", ts=30))
    assert trace.host.shapes.tolist() == [0, 0, -1]
    assert trace.shapes == (
        Shapes(
            ((2, 3), (), ((4,), (5, 6)), (), ()),
            ("float", "Scalar", "TensorList", "", ""),
            ((3, 1), (), ((1,), (6, 1)), (), ()),
            ("", "1.5", "", "", ""),
        ),
    )


def test_blanks_in_shapes_do_not_make_two_of_one() -> None:
    head = b'{"ph":"X","cat":"cpu_op","name":"a","pid":1,"tid":1,"dur":1,"ts":'
    trace = read(b"[" + head + b'1,"args":{"Input Dims":[[2,3]]}},' + head + b'2,"args":{"Input Dims": [ [2, 3] ]}}]')
    assert trace.shapes == (Shapes(((2, 3),), ()),)
    assert trace.host.shapes.tolist() == [0, 0]


def test_collectives() -> None:
    args = {
        "Collective name": "allreduce",
        "dtype": "Float",
        "In msg nelems": 1024,
        "Out msg nelems": 1024,
        "Group size": 8,
        "Process Group Name": "0",
        "Seq": 4,
        "stream": 20,
    }
    trace = read_events(event("kernel", args=args), event("kernel", ts=50))
    assert trace.collectives == (Collective("allreduce", "Float", 1024, 1024, 8, "0", 4),)
    assert trace.device.collective.tolist() == [0, -1]


def test_markers_are_told_from_ops() -> None:
    trace = read_events(event("cpu_op", "loraprof::m3"), event("cpu_op", "aten::mm", ts=11, dur=1))
    assert [kind for kind, *_ in host_rows(trace)] == ["MARKER", "OP"]
    assert read_events(event("user_annotation", "loraprof::m3")).host.kind.tolist() == [HostKind.ANNOTATION]


def _many(rng: random.Random, count: int) -> list[Document]:
    """Random events with many ties, copies and faults."""
    cats = ["cpu_op", "cuda_runtime", "user_annotation", "kernel", "gpu_memcpy", "overhead", "python_function", "odd"]
    out = []
    for _ in range(count):
        args = {"correlation": rng.randrange(4), "stream": rng.randrange(3), "Sequence number": rng.randrange(3)}
        if rng.random() < 0.3:
            args["Input Dims"] = [[rng.randrange(3), 2]]  # type: ignore[assignment]
        place = {"pid": rng.choice([1, 2, -1]), "tid": rng.choice([1, 2, "s"])}
        time = {"ts": rng.choice([0, 1, 2.5, 7, None, float("nan")]), "dur": rng.choice([0, 1, 2, -1, 1e4])}
        out.append(event(rng.choice(cats), rng.choice("abc"), **place, **time, args=args))
    return out


def test_order_of_events_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    events = _many(rng, 1500)
    first = content(read(json.dumps(events).encode()))
    assert first["faults"].duplicates > 0
    monkeypatch.setattr(feed, "PIECE_BYTES", 1 << 12)
    for _ in range(5):
        rng.shuffle(events)
        assert content(read(json.dumps(events).encode())) == first


def test_tables_are_sorted_as_promised() -> None:
    trace = read(json.dumps(_many(random.Random(3), 2000)).encode())
    h, d = trace.host, trace.device
    host = list(zip(h.thread, h.start, -h.end, h.kind, h.name, strict=True))
    device = list(zip(d.start, d.device, d.stream, d.correlation, d.end, d.name, strict=True))
    assert host == sorted(host)
    assert device == sorted(device)
    assert list(trace.names) == sorted(set(trace.names))
    assert list(trace.threads) == sorted(set(trace.threads))
    used = Counter(h.name.tolist() + d.name.tolist())
    assert set(used) == set(range(len(trace.names)))


def test_pieces_of_a_stream_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [note("ProfilerStep#0", 0, 10**6)]
    records += [op(f'aten::"{i % 9}" }}, {{\\', i * 50, i * 50 + 40, sequence=i) for i in range(2000)]
    work = [kernel(i * 100 + 30, i * 100 + 90, (i * 100, i * 100 + 20)) for i in range(1000)]
    data = text_of(document_of_records(records, work))
    whole = content(read(data))
    monkeypatch.setattr(feed, "PIECE_BYTES", 1 << 11)
    assert content(read(data)) == whole == content(read(gzip.compress(data)))
    assert (len(whole["host.start"]), len(whole["device.start"])) == (3001, 1000)


def test_msgspec_and_json_agree_on_the_minimal_trace() -> None:
    """The hand-written document is what every JSON reader takes it for."""
    assert msgspec.json.decode(MINIMAL) == json.loads(MINIMAL)
