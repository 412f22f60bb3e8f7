"""The worked example of the exact split, and its CPU counterpart, by hand."""

from collections import Counter

import pytest
from builders import call, comm, copy, kernel, note, op, step, trace_of

from loraprof.analysis.analyse import analyse
from loraprof.analysis.attribution.attribute import attribute
from loraprof.analysis.partition.gpu import device_work, split
from loraprof.analysis.partition.host_state import states_of
from loraprof.analysis.trace.launch_links import link
from loraprof.analysis.trace.step_windows import Window
from loraprof.model.vocabulary import Class


def test_worked_example() -> None:
    trace = trace_of(
        host=[
            op("aten::op", 3500, 6500),
            call("cudaStreamSynchronize", 4500, 6000),
            note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 6500, 7500),
            op("aten::op", 7000, 7600),
        ],
        device=[
            kernel(1000, 3000, launch=(0, 500)),
            kernel(3000, 4000, launch=(600, 1100)),
            kernel(10000, 12000, launch=(8000, 8500)),
            kernel(12900, 15000, launch=(9000, 9600)),
            comm(13500, 16000, launch=(9700, 10200), stream=20),
            copy(16500, 17000, launch=(16200, 16400)),
            kernel(21000, 22000, launch=(10300, 10800)),
        ],
    )
    links, attribution = link(trace), attribute(trace)
    work = device_work(trace, links, attribution, trace.device.device == 0)
    window = Window("w", 1000, 22000, 1000, 22000, 0)
    ledger = split(trace, work, window, states_of(trace, links, 0), 600)
    got: Counter[str] = Counter()
    for part in ledger.parts():
        got[part.class_ or part.cause or ""] += part.ns
    assert got == {
        "compute": 8100,
        "comm": 1000,
        "copy": 500,
        "sync": 1500,
        "data": 1000,
        "framework": 1100,
        "python": 600,
        "launch_api": 700,
        "launch_latency": 1600,
        "turnaround": 1200,
        "queued": 3700,
    }
    assert [(o.over, o.under, o.ns) for o in ledger.overlap] == [("compute", "comm", 1500)]


def test_cpu_step_by_hand() -> None:
    """Innermost op owns; the loader's ops are data; a collective that ends in a gap was waited for."""
    trace = trace_of(
        host=[
            note("ProfilerStep#0", 0, 1000),
            note("enumerate(DataLoader)#x", 0, 100),
            op("aten::stack", 20, 60),
            op("aten::linear", 150, 400),
            op("aten::addmm", 200, 350),
            note("gloo:all_reduce", 380, 700, thread=2),
            op("aten::add", 800, 900),
        ]
    )
    analysis = analyse(trace)
    step = analysis.steps[0]
    assert step.wall_ns == 1000
    assert step.ns(kind="busy") == 350
    assert step.ns(cause="data") == 100
    assert step.ns(cause="sync", role="comm") == 300
    assert step.ns(cause="python") == 50 + 100 + 100


def test_compiling_is_python_whatever_op_needed_it() -> None:
    """A backward pass that is compiled when it first runs: the op around it works only before and after."""
    trace = trace_of(
        host=[
            note("ProfilerStep#0", 0, 1000),
            op("CompiledFunctionBackward", 100, 900),
            note("compile_fx (dynamo_timed)", 200, 700),
            note("inductor_compile (dynamo_timed)", 300, 600),
            op("aten::mm", 400, 500),  # tried while tuning
            op("aten::mm", 800, 850),
        ]
    )
    step = analyse(trace).steps[0]
    assert step.ns(kind="busy") == 100 + 200
    assert step.ns(cause="python") == 100 + 500 + 100


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "comm"),
        ("void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(...)", "comm"),
        ("void one_shot_all_reduce_kernel<float, 16>(...)", "comm"),
        ("void vllm::cross_device_reduce_2stage<half, 8>(...)", "comm"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>(...)", "compute"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int>(...)", "compute"),
    ],
)
def test_collectives_of_every_library_are_communication(name: str, cls: Class) -> None:
    trace = trace_of([step(0, 0, 900)], [kernel(1000, 3000, launch=(100, 200), name=name)])
    assert analyse(trace).steps[0].ns(kind="busy", class_=cls) == 2000
