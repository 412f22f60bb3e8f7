"""The second opinion against the worked example of the method."""

from builders import call, comm, copy, json_of, kernel, note, op, step
from naive import partition

# Integers in ns, turnaround floor 600, window [1000, 22000). Step 0 ends where record 0 does, at 1000.
SHIFT = 10_000


def at(a: int, b: int) -> tuple[int, int]:
    return a + SHIFT, b + SHIFT


HOST = [
    step(0, *at(-3000, -100)),
    step(1, *at(-50, 22100)),
    op("aten::mm", *at(3500, 6500)),
    call("cudaStreamSynchronize", *at(4500, 6000), correlation=90),
    note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", *at(6500, 7500)),
    op("aten::stack", *at(7000, 7600)),
]
DEVICE = [
    kernel(*at(-1500, 1000), at(-2900, -2500)),
    kernel(*at(1000, 3000), at(0, 500)),
    kernel(*at(3000, 4000), at(600, 1100)),
    kernel(*at(10000, 12000), at(8000, 8500)),
    kernel(*at(12900, 15000), at(9000, 9600)),
    comm(*at(13500, 16000), at(9700, 10200), stream=20),
    copy(*at(16500, 17000), at(16200, 16400)),
    kernel(*at(21000, 22000), at(10300, 10800)),
]
RESULT = {
    "compute": 8100, "comm": 1000, "copy": 500, ("compute", "comm"): 1500, "sync": 1500, "data": 1000,
    "framework": 1100, "python": 600, "launch_api": 700, "launch_latency": 1600, "turnaround": 1200, "queued": 3700,
}  # fmt: skip


def test_worked_example() -> None:
    result = +partition(json_of(HOST, DEVICE), 600)["ProfilerStep#1"]
    assert result == RESULT
    assert sum(ns for key, ns in result.items() if isinstance(key, str)) == 21000
