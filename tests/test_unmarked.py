"""Traces without modules: adapters by the shapes and the order of products, roles by names, order and numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from builders import Document, call, json_of, kernel, note, op, step, text_of

import loraprof
from loraprof.cli.app import run
from loraprof.model.report import Report, Step

T, K, N, R = 512, 256, 256, 16
Call = tuple[Any, ...]  # op, shapes, and the sequence number where there is one
GAP = 10_000
KERNEL = 4000


def linear(inner: int, outer: int, rows: int = T) -> Call:
    return "aten::linear", [[rows, inner], [outer, inner], []]


def add(width: int = N, rows: int = T) -> Call:
    return "aten::add", [[rows, width], [rows, width], []]


BASE, DOWN, UP, SUM = linear(K, N), linear(K, R), linear(R, N), add()
SCALE: Call = "aten::mul", [[T, N], []]
LORA = [BASE, DOWN, UP, SCALE, SUM]


def document(calls: Iterable[Call], on_gpu: bool = True, extra: Iterable[Any] = ()) -> Document:
    """One step of ops, each with a kernel of its own."""
    made, device, at = [], [], 1000
    rows = [*calls]
    for name, _, *sequence in rows:
        made.append(op(name, at, at + 8000, 1, *sequence))
        device.append(kernel(at + 3000, at + 3000 + KERNEL, (at + 1000, at + 2000), name=name))
        at += GAP
    whole = json_of([step(0, 0, at), *made, *extra], device if on_gpu else [])
    ops = [e for e in whole["traceEvents"] if e["cat"] == "cpu_op"]
    for event, (_, dims, *_) in zip(ops, rows, strict=False):
        event["args"] |= {"Input Dims": dims, "Input type": ["c10::BFloat16" if d else "Scalar" for d in dims]}
    return whole


def diagnosed(tmp_path: Path, whole: Document) -> tuple[Report, Step]:
    path = tmp_path / "t.json"
    path.write_bytes(text_of(whole))
    report = loraprof.diagnose(path)
    reported = report.step()
    assert reported is not None
    return report, reported


def counts(reported: Step) -> dict[str, int]:
    """Kernels by role."""
    out: dict[str, int] = {}
    for part in reported.partition:
        if part.kind == "busy":
            out[part.role] = out.get(part.role, 0) + part.events
    return out


@pytest.mark.parametrize(
    "layer",
    [
        LORA,
        [BASE, ("aten::dropout", [[T, K], [], []]), DOWN, UP, SCALE, SUM],
        [BASE, ("aten::to", [[T, K], []]), DOWN, UP, SCALE, SUM],
        [DOWN, UP, SCALE, BASE, SUM],
        [("aten::mm", [[T, K], [K, N]]), ("aten::mm", [[T, K], [K, R]]), ("aten::mm", [[T, R], [R, N]]), SCALE, SUM],
        [
            ("aten::conv2d", [[8, 3, 8, 8], [N, 3, 7, 7], []]),
            ("aten::conv2d", [[8, 3, 8, 8], [R, 3, 7, 7], []]),
            ("aten::conv2d", [[8, R, 4, 4], [N, R, 1, 1], []]),
            ("aten::add", [[8, N, 4, 4], [8, N, 4, 4], []]),
        ],
        [
            ("aten::conv2d", [[8, K, 8, 8], [N, K, 3, 3], []]),
            ("aten::conv2d", [[8, K, 8, 8], [R, K, 3, 3], []]),
            ("aten::conv2d", [[8, R, 8, 8], [N, R, 1, 1], []]),
            ("aten::add", [[8, N, 8, 8], [8, N, 8, 8], []]),
        ],
        [("aten::matmul", [[2, T // 2, K], [K, N]]), DOWN, UP, SCALE, ("aten::add_", [[2, T // 2, N], [2, T // 2, N]])],
    ],
    ids=["plain", "dropout", "cast", "base last", "mm", "stem", "convolution", "matmul"],
)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_narrow_pair_beside_a_product_and_their_sum(layer: list[Call], on_gpu: bool, tmp_path: Path) -> None:
    report, reported = diagnosed(tmp_path, document(layer * 3, on_gpu))
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank, report.adapter.dtype) == (3, R, "bfloat16")
    assert [(site.how, site.rank, site.kind) for site in report.adapter.sites] == [("shapes", R, "lora")] * 3
    found = counts(reported)
    assert (found["base.linear"], found["adapter.down"], found["adapter.up"]) == (3, 3, 3)
    assert found["adapter.elementwise"] == 3 * (len(layer) - 3)
    assert any("3 adapted layers found by shapes" in line for line in report.closure.notes)


def test_a_sum_inside_the_product(tmp_path: Path) -> None:
    """addmm_ adds the pair to what the base gave, inside a Python function that is no op itself."""
    inside = [
        ("aten::mm", [[T, K], [K, N]]),
        ("aten::mm", [[T, K], [K, R]]),
        ("aten::addmm_", [[T, N], [T, R], [R, N], [], []]),
    ]
    whole = document(inside, extra=[op("LoRA_W", 500, 1000 + len(inside) * GAP)])
    report, reported = diagnosed(tmp_path, whole)
    assert report.adapter is not None
    assert report.adapter.modules == 1
    assert counts(reported) == {"base.linear": 1, "adapter.down": 1, "adapter.up": 1}


def test_pairs_on_one_base_are_one_layer(tmp_path: Path) -> None:
    report, _ = diagnosed(tmp_path, document([BASE, DOWN, UP, SCALE, SUM, linear(K, 8), linear(8, N), SCALE, SUM]))
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (1, R + 8)


def test_dora_sums_a_change_of_the_weight_first(tmp_path: Path) -> None:
    change = [("aten::linear", [[K, K], [R, K], []]), ("aten::linear", [[K, R], [N, R], []])]
    merged = [*change, add(K, N), ("aten::linalg_norm", [[N, K], [], [], [], []]), ("aten::div", [[N], [N]])]
    report, reported = diagnosed(tmp_path, document([BASE, *merged, DOWN, UP, SCALE, SUM] * 3))
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (3, R)
    assert counts(reported)["adapter.up"] == 3


def test_a_base_that_looks_like_the_start_of_a_chain(tmp_path: Path) -> None:
    """A narrow base, as of keys with few heads, before a product that would widen it again."""
    narrow = linear(K, 64)
    report, reported = diagnosed(tmp_path, document([narrow, linear(64, K), linear(K, 8), linear(8, 64), add(64)]))
    assert report.adapter is not None
    assert [(site.rank, site.path) for site in report.adapter.sites] == [(8, f"adapted layer 0 ({K} to 64)")]
    assert counts(reported)["base.linear"] == 2


def test_passes_of_one_model_have_the_same_layers(tmp_path: Path) -> None:
    """Two micro-batches: a backward node lies between them."""
    node = ("autograd::engine::evaluate_function: AddBackward0", [])  # type: ignore[var-annotated]
    report, reported = diagnosed(tmp_path, document([*LORA * 2, node, *LORA * 2, node]))
    assert report.adapter is not None
    assert report.adapter.modules == 2
    assert counts(reported)["adapter.down"] == 4


@pytest.mark.parametrize("numbered", [True, False])
def test_a_checkpoint_runs_forward_work_again(numbered: bool, tmp_path: Path) -> None:
    """Inside a node, ops that get numbers of their own are forward work; the gradient's own get none."""
    node = op("autograd::engine::evaluate_function: CheckpointFunctionBackward", 500, 1000 + GAP * len(LORA))
    calls = [(*c, i) if numbered else c for i, c in enumerate(LORA)]
    report, reported = diagnosed(tmp_path, document(calls, extra=[node]))
    found = reported.ns(kind="busy", phase="recompute"), reported.ns(kind="busy", phase="backward")
    assert found == ((5 * KERNEL, 0) if numbered else (0, 5 * KERNEL))
    assert (report.adapter is not None) == numbered


RELU: Call = "aten::relu", [[T, R]]
NORM: Call = "aten::layer_norm", [[T, N], [], [N], [N], [], []]


@pytest.mark.parametrize(
    "calls",
    [
        [BASE, linear(K, K // 2), linear(K // 2, N), SUM],
        [BASE, DOWN, UP, SCALE],
        [BASE, DOWN, UP, SCALE, add(N, T // 2)],
        [linear(K, 2 * N), DOWN, UP, SUM],
        [linear(K, 64), RELU, linear(64, R), RELU, linear(R, 64), RELU, linear(64, K)],
        [BASE, DOWN, RELU, UP, SUM],
        [BASE, SUM, NORM, DOWN, UP, SUM],
        [BASE, SUM, DOWN, UP, SUM],
        [DOWN, UP, SUM],
        [BASE, DOWN, UP, BASE, BASE, SUM],
    ],
    ids=[
        "wide",
        "no sum",
        "another sum",
        "another base",
        "autoencoder",
        "bottleneck",
        "next layer",
        "after the sum",
        "no base",
        "late",
    ],
)
def test_what_is_no_adapter(calls: list[Call], tmp_path: Path) -> None:
    report, reported = diagnosed(tmp_path, document(calls))
    assert report.adapter is None
    assert not {role for role in counts(reported) if role.startswith("adapter")}


def frame(name: str, first: int, last: int, inset: int) -> Any:
    """A module's frame around the ops ``first`` to ``last``."""
    return note(f"nn.Module: {name}", 1000 + GAP * first - inset, 1000 + GAP * last + 8000 + inset)


def with_frames(calls: list[Call], frames: list[Any]) -> Document:
    whole = document(calls, extra=frames)
    for event in whole["traceEvents"]:
        if event["name"].startswith("nn.Module"):
            event["cat"] = "python_function"
    return whole


def test_a_frame_that_holds_base_pair_and_sum(tmp_path: Path) -> None:
    """PEFT's: the wrapper calls a base, A and B, and adds; dropout is the adapter's by its frame."""
    calls = [BASE, ("aten::native_dropout", [[T, K], [], []]), DOWN, UP, SUM]
    inner = ["Linear_1", "Dropout_0", "Linear_2", "Linear_3"]
    frames = [frame("Linear_0", 0, 4, 900), *(frame(name, i, i, 500) for i, name in enumerate(inner))]
    report, reported = diagnosed(tmp_path, with_frames(calls, frames))
    assert report.adapter is not None
    assert [(site.path, site.how, site.rank) for site in report.adapter.sites] == [("Linear_0", "observed", R)]
    assert counts(reported) == {"base.linear": 1, "adapter.elementwise": 2, "adapter.down": 1, "adapter.up": 1}


def test_frames_without_shapes(tmp_path: Path) -> None:
    """A linear layer that calls linear layers wraps them; one model of linears in another class does not."""
    calls = [("aten::linear", []), ("aten::linear", []), ("aten::linear", []), ("aten::add", [])]  # type: ignore[var-annotated]
    for name, found in (("Linear_0", 1), ("MLP_0", 0)):
        frames = [frame(name, 0, 3, 900), *(frame(f"Linear_{i + 1}", i, i, 500) for i in range(3))]
        report, reported = diagnosed(tmp_path, with_frames(calls, frames))
        assert counts(reported).get("adapter.down", 0) == found
        assert [site.rank for site in report.adapter.sites] == [None] if report.adapter else not found


def test_a_frame_that_issues_the_base_itself(tmp_path: Path) -> None:
    mm = [("aten::mm", [[T, K], [K, N]]), ("aten::mm", [[T, K], [K, R]]), ("aten::mm", [[T, R], [R, N]]), SUM]
    frames = [frame("LoRALinear_0", 0, 3, 900), frame("Linear_1", 1, 1, 500), frame("Linear_2", 2, 2, 500)]
    report, reported = diagnosed(tmp_path, with_frames(mm, frames))
    assert report.adapter is not None
    assert counts(reported) == {"base.linear": 1, "adapter.elementwise": 1, "adapter.down": 1, "adapter.up": 1}


@pytest.mark.parametrize(
    "inner", [[("Linear_1", 0, 0), ("LowRank_2", 1, 3)], [("QKV_1", 0, 3)], [("LoRALinearLayer_1", 1, 3)]]
)
def test_a_frame_that_issues_both_of_a_pair(inner: list[tuple[str, int, int]], tmp_path: Path) -> None:
    frames = [frame("Adapted_0", 0, 4, 900), *(frame(*where, 500) for where in inner)]
    report, reported = diagnosed(tmp_path, with_frames(LORA, frames))
    assert report.adapter is not None
    assert (report.adapter.modules, report.adapter.rank) == (1, R)
    assert counts(reported) == {"base.linear": 1, "adapter.down": 1, "adapter.up": 1, "adapter.elementwise": 2}


def test_pairs_beside_their_base_in_a_larger_frame(tmp_path: Path) -> None:
    """An attention with its own A and B for two linears: no frame holds one layer, shapes decide."""
    calls = [BASE, DOWN, UP, SUM, BASE, DOWN, UP, SUM]
    frames = [frame("Attention_0", 0, 7, 900), *(frame(f"Linear_{i}", i, i, 500) for i in (0, 1, 2, 4, 5, 6))]
    report, reported = diagnosed(tmp_path, with_frames(calls, frames))
    assert report.adapter is not None
    assert [site.how for site in report.adapter.sites] == ["shapes", "shapes"]
    assert counts(reported) == {"base.linear": 2, "adapter.elementwise": 2, "adapter.down": 2, "adapter.up": 2}


@pytest.mark.parametrize("calls", [[BASE, DOWN, UP, RELU], [BASE, DOWN, RELU, UP, SUM]])
def test_a_narrow_middle_in_a_frame_is_no_adapter(calls: list[Call], tmp_path: Path) -> None:
    frames = [frame("Autoencoder_0", 0, 3, 900), *(frame(f"Linear_{i}", i, i, 500) for i in range(3))]
    report, _ = diagnosed(tmp_path, with_frames(calls, frames))
    assert report.adapter is None


IMAGE = [8, 16, 32, 32]
VISION: list[Call] = [
    ("aten::conv2d", [IMAGE, [16, 16, 3, 3], []], 0),
    ("aten::batch_norm", [IMAGE, [16], [16], [16], [16], [], [], [], []], 1),
    ("aten::relu_", [IMAGE], 2),
    ("aten::max_pool2d", [IMAGE, [], [], [], [], []], 3),
    ("aten::linear", [[8, 4096], [10, 4096], [10]], 4),
    ("aten::cross_entropy_loss", [[8, 10], [8], [], [], [], []], 5),
]


@pytest.mark.parametrize("numbered", [True, False])
def test_ops_that_name_their_role(numbered: bool, tmp_path: Path) -> None:
    """Backward by sequence numbers, else by the node's own name; the update where no annotation says optimizer."""
    nodes = ["NllLoss", "Addmm", "MaxPool2DWithIndices", "Relu", "NativeBatchNorm", "Convolution"]
    prefix = "autograd::engine::evaluate_function: "
    backward = [(f"{prefix}{name}Backward0", [], 5 - i, 1) for i, name in enumerate(nodes)]  # type: ignore[var-annotated]
    calls = [(c if numbered else c[:2]) for c in (*VISION, *backward)]
    _, reported = diagnosed(tmp_path, document([*calls, ("aten::_fused_adamw_", [])]))
    roles = ["base.linear", "norm", "activation", "pooling", "loss", "head", "optimizer"]
    forward, back = ({r: reported.ns(kind="busy", role=r, phase=p) for r in roles} for p in ("forward", "backward"))  # type: ignore[arg-type]
    assert forward == dict.fromkeys(roles[:-1], KERNEL) | {"optimizer": 0}
    last = (
        {} if numbered else {"head": 0, "base.linear": 2 * KERNEL}
    )  # a product's name does not say that it is the last
    assert back == dict.fromkeys(roles[:-1], KERNEL) | {"optimizer": 0} | last
    assert reported.ns(kind="busy", role="optimizer", phase="optimizer") == KERNEL


def test_norms_rotation_and_activations_of_several_ops(tmp_path: Path) -> None:
    heads = [2, 4, 64, 32]
    column = [T, 1]
    norm = ["aten::to", "aten::pow", "aten::mean", "aten::add", "aten::rsqrt", "aten::mul", "aten::to", "aten::mul"]
    dims = [[[T, K]], [[T, K], []], [[T, K], []], [column, []], [column], [[T, K], column], [[T, K]], [[K], [T, K]]]
    rotation = [("aten::mul", [heads, [1, 1, 64, 32]]), ("aten::neg", [heads]), ("aten::cat", [[heads, heads], []])]
    core = ("aten::scaled_dot_product_attention", [heads, heads, heads, [], [], [], [], []])
    wide = [T, 4 * K]
    gelu = [("aten::mul", [wide, []]), ("aten::add", [wide, wide, []]), ("aten::tanh", [wide])]
    begin, reshape = ("aten::embedding", [[1000, K], [T]]), ("aten::reshape", [heads])
    calls = [
        begin, *zip(norm, dims, strict=True), BASE, ("aten::view", [[T, N]]), BASE, *rotation, core, reshape,
        BASE, SUM, linear(K, 4 * K), *gelu, linear(4 * K, K), SUM,
    ]  # fmt: skip
    _, reported = diagnosed(tmp_path, document(calls))
    assert counts(reported) == {
        "embedding": 1, "norm": 8, "base.linear": 5, "position": 3, "attention": 3, "residual": 2, "activation": 3,
    }  # fmt: skip


def test_attention_written_as_products(tmp_path: Path) -> None:
    q, k = [8, 64, 32], [8, 32, 64]
    calls = [
        BASE, ("aten::bmm", [q, k]), ("aten::div", [[8, 64, 64], []]), ("aten::softmax", [[8, 64, 64], [], []]),
        ("aten::bmm", [[8, 64, 64], q]), ("aten::transpose", [q, [], []]), BASE,
    ]  # fmt: skip
    _, reported = diagnosed(tmp_path, document(calls))
    assert counts(reported) == {"base.linear": 2, "attention": 5}


def test_the_page_says_how_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange, page = ("my::op", []), "record with_stack=True, record_shapes=True"  # type: ignore[var-annotated]
    for calls, said in (([BASE, strange, strange], True), ([BASE] * 40 + [strange], False)):
        report, _ = diagnosed(tmp_path, document(calls))
        assert any("no known role" in line and "with_stack=True" in line for line in report.closure.notes) == said
        assert run(["report", str(tmp_path / "t.json")]) == 0
        assert (page in " ".join(capsys.readouterr().out.split())) == said


def test_work_that_loads_data_is_no_forward_work(tmp_path: Path) -> None:
    loading = note("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 0, GAP)
    _, reported = diagnosed(tmp_path, document([("aten::embedding", [[9, 9], [9]]), BASE], extra=[loading]))
    assert reported.ns(kind="busy", phase="forward") == KERNEL
    assert call("cudaLaunchKernel", 0, 1).name not in counts(reported)
