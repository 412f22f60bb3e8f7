"""Kernels of CUDA graphs: whose they are, and that one launch with many records counts as one."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import Device, Document, Host, call, json_of, kernel, marker, note, op, step
from reports import REAL, assert_conserved, report_of

from loraprof.analysis.attribution import graph_launches
from loraprof.analysis.attribution.compiled_graphs import Placed
from loraprof.model.compilation import Compilation, CompiledCall, CompiledGraph, FusedOp
from loraprof.model.recording import DeviceInfo, Environment, ModuleInfo, Recording, Workload
from loraprof.model.report import Report
from loraprof.model.trace import NONE
from loraprof.model.vocabulary import LOSS

US = 1000
MODULES = [
    ModuleInfo(id=0, path="", cls="Model"),
    ModuleInfo(id=1, path="fc", cls="Linear", in_features=8, out_features=8),
    ModuleInfo(id=2, path="norm", cls="LayerNorm"),
    ModuleInfo(id=3, path="act", cls="GELU"),
]
NAMES = ("gemm", "norm", "gelu", "gemm")
ROLES = ["base.linear", "norm", "activation", "base.linear"]


def recording(**changes: object) -> Recording:
    made = Recording(
        created="2026-01-01T00:00:00Z",
        environment=Environment(loraprof="0", python="3.11", torch="2.13.0", platform="x"),
        device=DeviceInfo(kind="cuda", name="Synthetic GPU"),
        workload=Workload(name="x", kind="script", argv=["x.py"]),
        modules=MODULES,
    )
    return msgspec.structs.replace(made, **changes)


def eager(index: int, at: int) -> tuple[list[Host], list[Device]]:
    """A step of 200 us that runs fc, norm, act and fc again, each with a launch of its own."""
    host, device = [step(index, at, at + 200 * US), marker("m0", at + US, at + 190 * US)], []
    for i, (name, module) in enumerate(zip(NAMES, (1, 2, 3, 1), strict=True)):
        begin = at + (10 + 40 * i) * US
        host += [marker(f"m{module}", begin, begin + 20 * US), op("aten::x", begin + US, begin + 15 * US)]
        device.append(kernel(begin + 12 * US, begin + 30 * US, launch=(begin + 2 * US, begin + 8 * US), name=name))
    return host, device


def graphed(index: int, at: int, correlation: int, names: tuple[str, ...] = NAMES) -> tuple[list[Host], list[Device]]:
    """The same step as one graph launch."""
    host = [step(index, at, at + 200 * US), marker("m0", at + US, at + 190 * US)]
    host.append(call("cudaGraphLaunch", at + 10 * US, at + 30 * US, correlation=correlation))
    starts = [at + (25 + 20 * i) * US for i in range(len(names))]
    device = [
        kernel(s, s + 19 * US, name=name, correlation=correlation, graph_node=correlation * 100 + i)
        for i, (s, name) in enumerate(zip(starts, names, strict=True))
    ]
    return host, device


def trace(*steps: tuple[list[Host], list[Device]]) -> Document:
    return json_of([h for host, _ in steps for h in host], [d for _, device in steps for d in device])


def roles(report: Report, which: str) -> dict[str, int]:
    found = next(s for s in report.steps if s.name == which)
    return {p.role: p.ns for p in found.partition if p.kind == "busy"}


def told(report: Report) -> str:
    return " | ".join(report.closure.notes)


def test_order_of_a_step_without_graphs() -> None:
    document = trace(eager(0, 0), graphed(1, 300 * US, 900), graphed(2, 600 * US, 901))
    report = report_of(document, recording())
    assert_conserved(report)
    for which in ("ProfilerStep#1", "ProfilerStep#2"):
        assert roles(report, which) == {"base.linear": 38 * US, "norm": 19 * US, "activation": 19 * US}
    assert "8 kernels of CUDA graphs were attributed by their order in a step without graphs, inferred" in told(report)
    assert "each graph counts" not in told(report)
    launches = {s.name: s.launches.count for s in report.steps if s.launches}
    assert launches == {"ProfilerStep#0": 4, "ProfilerStep#1": 1, "ProfilerStep#2": 1}


def test_names_that_differ_in_number_stay_with_the_graph() -> None:
    names = ("gemm", "norm", "gemm", "gemm", "other")
    report = report_of(trace(eager(0, 0), graphed(1, 300 * US, 900, names)), recording())
    assert roles(report, "ProfilerStep#1")["norm"] == 19 * US
    assert "base.linear" not in roles(report, "ProfilerStep#1")
    assert "1 kernels of CUDA graphs were attributed by their order" in told(report)
    assert "4 kernels of 1 graph launches have no module of their own" in told(report)


def test_without_an_eager_step_the_graph_counts_as_a_whole() -> None:
    report = report_of(trace(graphed(0, 0, 900), graphed(1, 300 * US, 901)), recording())
    assert_conserved(report)
    assert "8 kernels of 2 graph launches have no module of their own" in told(report)
    assert "attributed" not in told(report)


def test_named_graph_nodes_come_before_order() -> None:
    names = {90000 + i: path for i, path in enumerate(("norm", "norm", "act", "nowhere"))}
    report = report_of(trace(eager(0, 0), graphed(1, 300 * US, 900)), recording(graph_nodes=names))
    assert roles(report, "ProfilerStep#1") == {"norm": 38 * US, "activation": 19 * US, "base.linear": 19 * US}
    assert "3 kernels of CUDA graphs were attributed by their graph nodes' names" in told(report)
    assert "1 kernels of CUDA graphs were attributed by their order" in told(report)


@pytest.mark.parametrize("split", [False, True])
def test_a_captured_compiled_graph_replays_its_calls(split: bool) -> None:
    """triton, two products, triton: the products lie between the fused kernels (one of them takes two kernels)."""
    calls = [
        CompiledCall("triton_per_fused_norm_0", [FusedOp(2, "aten::native_layer_norm", 1, 5)]),
        CompiledCall("extern_kernels.mm", [FusedOp(1, "aten::mm", 2, 1)]),
        CompiledCall("extern_kernels.mm", [FusedOp(1, "aten::mm", 3, 1)]),
        CompiledCall("triton_poi_fused_gelu_1", [FusedOp(3, "aten::gelu", 4, 2)]),
    ]
    graph = CompiledGraph(region="0/0", backward=False, root=0, calls=calls)
    products = ("cutlass", "splitk_reduce", "cutlass") if split else ("cutlass", "cutlass")
    names = ("triton_per_fused_norm_0", *products, "triton_poi_fused_gelu_1")
    host, device = graphed(0, 0, 900, names)
    host += [
        note("Torch-Compiled Region: 0/0", 5 * US, 40 * US),
        op("CompiledFunction", 6 * US, 39 * US),
        note("## Call CompiledFxGraph None ##", 7 * US, 38 * US),
    ]
    report = report_of(trace((host, device)), recording(compilation=Compilation(graphs=[graph])))
    assert roles(report, "ProfilerStep#0") == {
        "norm": 19 * US, "activation": 19 * US, "base.linear": 19 * US * len(products)
    }  # fmt: skip
    assert "by the order of the compiled graph's calls, inferred" in told(report)
    assert_conserved(report)


def test_idle_inside_a_graph_is_the_devices() -> None:
    """The first kernel waits for its launch call; the others were queued with it."""
    host, device = graphed(0, 0, 900)
    device = [replace(d, start=d.start + 10 * US * i, end=d.end + 10 * US * i) for i, d in enumerate(device)]
    found = report_of(trace((host, device))).steps[0]
    causes = {p.cause: p.ns for p in found.partition if p.kind == "idle" and p.ns}
    assert causes["launch_api"] == 15 * US  # the first kernel starts before the call returns
    assert causes["turnaround"] + causes.get("queued", 0) == 3 * 11 * US
    assert "launch_latency" not in causes


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of shared traces is not here")
@pytest.mark.parametrize(
    ("name", "kernels", "launches", "calls"),
    [("mi300_vllm_decode_full_hipgraph", 421, 1, 14), ("mi300_vllm_piecewise_hipgraph", 361, 25, 87)],
)
def test_public_hip_graphs(name: str, kernels: int, launches: int, calls: int) -> None:
    report = report_of((REAL / f"{name}.json.gz").read_bytes())
    assert f"{kernels} kernels of {launches} graph launches have no module of their own" in told(report)
    assert report.steps[0].launches is not None
    assert report.steps[0].launches.count == calls
    assert (report.closure.launches_without_kernel, report.closure.kernels_without_launch) == (0, 0)
    assert_conserved(report)


def test_kernels_of_a_graph_that_generated_code_launched() -> None:
    """Of the calls of rows 1 and 2 of the host, the first inside a scope: its kernels by start, those placed already
    aside; what the compiler does not know stays."""
    host, device = range(3), SimpleNamespace(start=np.array([50, 10, 30, 20, 40]), name=np.arange(5))
    trace: Any = SimpleNamespace(host=host, device=device, names=[f"k{i}" for i in range(5)])
    links: Any = SimpleNamespace(launch=np.array([1, 1, 1, 1, 2]))
    asked = list[Any]()

    def place_kernels(*given: Any) -> list[Placed | None]:
        asked.append(given)
        return [Placed(4, 7, False), None, Placed(LOSS, 8, False)]

    graphs = SimpleNamespace(place_kernels=place_kernels)
    tree = SimpleNamespace(nearest=lambda _: np.array([0, 0, NONE]))
    found: Any = SimpleNamespace(
        compiled=SimpleNamespace(scopes={0: "scope"}, graphs=graphs), tree=tree, paths=("a", "b", LOSS), phase=[0, 3, 0]
    )
    left = np.array([True, True, False, True, True])
    made = dict(graph_launches._by_calls(trace, links, found, left))
    assert asked == [("scope", ["k1", "k3", "k0"])]
    assert made == {1: (4, 3, 7), 0: (2, 3, 8)}
    found.compiled = None
    assert dict(graph_launches._by_calls(trace, links, found, left)) == {}


def test_a_launch_as_a_step_ends_is_not_of_it() -> None:
    """Steps from 0 to 10 and from 100 to 200: launches at 5, at 10 and, of a graph, at 150."""
    none = np.zeros(3, np.int64)

    class Device(SimpleNamespace):
        def __len__(self) -> int:
            return 3

    device = Device(device=none, name=none, start=np.array([6, 11, 160]))
    trace: Any = SimpleNamespace(device=device, host=SimpleNamespace(start=np.array([5, 10, 150])))
    columns: Any = SimpleNamespace(module=[7, 8, 9], phase=[1, 2, 3], role=[4, 5, 6])
    links: Any = SimpleNamespace(launch=np.arange(3))
    marks: Any = SimpleNamespace(start=(0, 100), end=(10, 200))
    graph = np.arange(3) == 2
    assert dict(graph_launches._by_order(trace, links, columns, marks, graph, graph)) == {2: (7, 1, 4)}
