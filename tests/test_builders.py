"""The builders say what they were told: the worked example as tables, and the same through JSON."""

from pathlib import Path

import numpy as np
from builders import call, comm, copy, document_of, json_of, kernel, note, op, trace_of, write

HOST = [
    op("aten::mm", 3500, 6500),
    call("cudaStreamSynchronize", 4500, 6000),
    note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 6500, 7500),
    op("aten::stack", 7000, 7600, sequence=4),
]
DEVICE = [
    kernel(1000, 3000, (0, 500)),
    comm(13500, 16000, (9700, 10200), stream=20),
    copy(16500, 17000, (16200, 16400)),
    kernel(21000, 22000),
]


def test_tables_are_sorted_and_joined_by_correlation() -> None:
    trace = trace_of(HOST, DEVICE)
    assert trace.device.start.tolist() == [1000, 13500, 16500, 21000]
    assert trace.device.stream.tolist() == [7, 20, 7, 7]
    assert np.all(np.diff(trace.host.start) >= 0)
    assert len(trace.host) == len(HOST) + 3  # the last kernel has no launch call
    pairs = zip(trace.host.correlation.tolist(), trace.host.start.tolist(), strict=True)
    launches = {c: s for c, s in pairs if c >= 0}
    assert [launches.get(c) for c in trace.device.correlation.tolist()] == [0, 9700, 16200, None]
    assert [trace.names[i] for i in trace.host.name[trace.host.sequence == 4]] == ["aten::stack"]


def test_json_holds_exact_times_and_equal_bytes(tmp_path: Path) -> None:
    far = 4483781115872905000 // 1000
    document = json_of([op("aten::mm", far, far + 1)], [kernel(far + 3, far + 9, (far, far + 1))])
    first, second = (write(tmp_path / f"{i}.json.gz", document) for i in range(2))
    assert first.read_bytes() == second.read_bytes()
    events = document_of(first)["traceEvents"]
    assert sorted(int(e["ts"] * 1000) for e in events) == [far, far, far + 3]
    assert sorted(int(e["dur"] * 1000) for e in events) == [1, 1, 6]
