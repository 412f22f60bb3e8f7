"""B13: which attention kernel ran, why not the faster one, and what that one would take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import op, trace_of
from handmade import case
from msgspec.structs import replace
from provoke import facts, found, made, synthetic
from recorded import profiled
from torch.profiler import ProfilerActivity, profile

import loraprof
from loraprof.analysis.trace.call_tree import tree_of
from loraprof.capture.device.attention_cost import attention_costs
from loraprof.capture.passes.attention import ATTENTION, AttentionWatch, Inputs, changes, mask_use
from loraprof.diagnosis.findings.attention import UNTIMED, _fixes, _from_trace, _reasons, _saved, _shares, _why
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import AttentionCall
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import PHASE

F = torch.nn.functional


def watched(*calls: dict[str, object], shape: tuple[int, ...] = (2, 4, 32, 16)) -> list[AttentionCall]:
    """As the counted step would note these calls."""
    watch = AttentionWatch(lambda: (3, "forward", -1))
    q = torch.randn(shape, requires_grad=True)
    watch.open()
    try:
        for call in calls:
            F.scaled_dot_product_attention(q, q, q, **call)  # type: ignore[arg-type]
    finally:
        watch.close()
    assert F.scaled_dot_product_attention is ATTENTION
    return watch.calls()


def test_what_a_mask_masks() -> None:
    true = torch.ones(8, 8, dtype=torch.bool)
    hidden = torch.zeros(8, 8).masked_fill(~true.tril(), float("-inf"))
    padded = true.clone()
    padded[:, 6:] = False
    assert mask_use(None, 8, 8) == "none"
    assert mask_use(true, 8, 8) == mask_use(torch.zeros(2, 1, 8, 8), 8, 8) == mask_use(true[:1], 8, 8) == "all true"
    assert mask_use(true.tril(), 8, 8) == mask_use(hidden[None, None], 8, 8) == "causal"
    assert mask_use(padded, 8, 8) == mask_use(torch.rand(8, 8), 8, 8) == mask_use(true[:4].tril(), 4, 8) == "needed"


def test_dropout_costs_the_kernel_and_a_mask_does_not_on_a_cpu() -> None:
    plain, masked, dropped = watched(
        {"is_causal": True}, {"attn_mask": torch.ones(32, 32, dtype=torch.bool)}, {"dropout_p": 0.1}
    )
    assert (plain.backend, plain.faster, plain.module) == ("flash", None, 3)
    assert (masked.backend, masked.mask, masked.faster) == ("flash", "all true", None)
    assert (dropped.backend, dropped.faster, dropped.obstacles) == ("math", "flash", ["dropout"])


def test_layers_with_equal_calls_are_counted_once() -> None:
    (call,) = watched({"is_causal": True}, {"is_causal": True})
    assert call.count == 2


def test_two_obstacles_are_told_together() -> None:
    (call,) = watched({"dropout_p": 0.1, "attn_mask": torch.zeros(32, 32, requires_grad=True)})
    assert call.obstacles == ["mask", "dropout"]
    assert call.mask == "all true"


def test_a_multihead_attention_module_is_watched_too() -> None:
    watch = AttentionWatch(lambda: (0, "forward", -1))
    layer, x = torch.nn.MultiheadAttention(16, 2, dropout=0.1), torch.randn(8, 2, 16, requires_grad=True)
    watch.open()
    layer(x, x, x, need_weights=False)
    watch.close()
    assert [c.obstacles for c in watch.calls()] == [["dropout"]]


def test_head_sizes_are_padded_to_what_all_three_share() -> None:
    q, v = torch.randn(1, 2, 8, 20), torch.randn(1, 2, 8, 12)
    ((obstacles, other),) = changes(Inputs(q, q, v), "none")
    assert obstacles == ("head size",)
    assert other.query.shape[-1] == other.value.shape[-1] == 24


def test_both_kernels_are_timed_alone_where_one_was_lost() -> None:
    lost, kept = watched({"dropout_p": 0.1}, {})
    timed, untouched = attention_costs([lost, kept], torch.device("cpu"))
    assert timed.ran_ns is not None
    assert timed.faster_ns is not None
    assert untouched == kept


@pytest.mark.slow
def test_attention_with_dropout_is_found_through_the_command_line() -> None:
    path = profiled("attends.py", "dropout")
    finding = found(path)["B13"]
    seen = facts(finding)
    assert seen["attention calls in forward with a slower kernel"] == seen["of all"] == 2
    assert (seen["the kernel that ran"], seen["what could run"], seen["in its way"]) == ("math", "flash", "dropout 0.1")
    assert "dropout" in finding.remedy
    assert finding.remedies[0].kind == "other_training"
    assert finding.gain is not None
    assert finding.gain.basis == "model"
    assert "B3" not in found(path)  # it says less about the same time


@pytest.mark.slow
@pytest.mark.parametrize("what", ["plain", "causal-mask"])
def test_attention_with_its_fast_kernel_is_no_cause(what: str) -> None:
    assert "B13" not in found(profiled("attends.py", what))


def test_a_trace_alone_shows_kernel_and_arguments(tmp_path: Path) -> None:
    def trace(dropout: float) -> Path:
        q = torch.randn(2, 4, 64, 32, requires_grad=True)
        path = tmp_path / f"{dropout}.json"
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as p:
            F.scaled_dot_product_attention(q, q, q, dropout_p=dropout).sum().backward()
        p.export_chrome_trace(str(path))
        return path

    some, none = ({f.id: f for f in loraprof.diagnose(trace(p)).findings} for p in (0.1, 0.0))
    seen = facts(some["B13"])
    assert (seen["the kernel that ran"], seen["in its way"]) == ("math", "dropout 0.1")
    assert "B13" not in none


def noted(**fields: object) -> AttentionCall:
    """One call of the counted step, of a layer with 32 heads of 128."""
    shape = (1, 32, 4096, 128)
    known: dict[str, object] = {"module": 4, "query": shape, "key": shape, "value": shape, "dtype": "bfloat16"}
    return AttentionCall(**{**known, "mask": "none", **fields})  # type: ignore[arg-type]


def test_calls_of_a_slower_kernel_count_by_their_time() -> None:
    """2 x 100 us that could be 40, 300 us that could be 180: 48 % of their time."""
    run = synthetic("bandwidth-v1")
    first, second = (m.id for m in run.recording.modules if m.path.endswith(".attn"))
    masked = {"mask": "all true", "backend": "efficient", "obstacles": ["mask"], "count": 2, "ran_ns": 100_000}
    dropped = {"dropout": 0.1, "backend": "math", "obstacles": ["dropout"], "ran_ns": 300_000}
    slow = [
        noted(module=first, faster="flash", faster_ns=40_000, **masked),
        noted(module=second, faster="flash", faster_ns=180_000, **dropped),
    ]
    path = made(run, attention=[*slow, noted(module=second, backend="flash", count=3)])
    finding, step = found(path)["B13"], loraprof.diagnose(path).step()
    assert step is not None
    assert step.ns(role="attention") == pytest.approx(0.012 * step.wall_ns, rel=0.02)  # above one in a hundred
    seen, spent = facts(finding), step.ns(role="attention")
    assert (seen["attention calls in forward with a slower kernel"], seen["of all"]) == (3, 6)
    assert (seen["the kernel that ran"], seen["what could run"], seen["in its way"]) == ("math", "flash", "dropout 0.1")
    assert seen["their time"] == spent
    assert seen["faster alone, measured after the step"] == pytest.approx(0.48)
    assert finding.gain is not None
    assert finding.gain.ns == pytest.approx(0.48 * spent, abs=1)
    assert [remedy.text for remedy in finding.remedies] == ["dropout_p=0.0 in attention"]
    assert "B13" not in found(made(run, attention=slow[:1]))  # one layer of two: 0.6 % of the step


def test_untimed_calls_are_said_to_gain_what_others_measured() -> None:
    run = synthetic("bandwidth-v1")
    owners = [m.id for m in run.recording.modules if m.path.endswith(".attn")]
    calls = [noted(module=i, mask="causal", backend="math", faster="flash", obstacles=["mask"]) for i in owners]
    finding = found(made(run, attention=calls))["B13"]
    assert facts(finding)["faster alone, measured after the step"] is None
    assert finding.gain is not None
    assert finding.gain.ns == pytest.approx(0.5 * facts(finding)["their time"], abs=1)


@pytest.mark.parametrize(
    ("fields", "reason", "fix"),
    [
        ({"mask": "all true", "obstacles": ["mask"]}, "a mask that masks nothing", "NO_MASK"),
        ({"mask": "causal", "obstacles": ["mask"]}, "a mask that is only causal", "NO_MASK"),
        ({"mask": "needed", "obstacles": ["mask"]}, "a mask", "VARIABLE_LENGTH"),
        ({"dropout": 0.25, "obstacles": ["dropout"]}, "dropout 0.25", "NO_ATTENTION_DROPOUT"),
        ({"obstacles": ["layout"]}, "a last dimension that is not contiguous", "CONTIGUOUS_HEADS"),
        ({"dtype": "float32", "obstacles": ["dtype"]}, "float32", "HALF_ATTENTION"),
        ({"query": (1, 2, 8, 20), "value": (1, 2, 8, 20), "obstacles": ["head size"]}, "head size 20", "PADDED_HEADS"),
        (
            {"query": (1, 2, 8, 20), "value": (1, 2, 8, 12), "obstacles": ["head size"]},
            "head size 20 with values of 12",
            "PADDED_HEADS",
        ),
    ],
)
def test_every_obstacle_has_words_and_a_remedy(fields: dict[str, object], reason: str, fix: str) -> None:
    call = noted(**fields)
    assert (_reasons(call), _fixes(call)) == ([reason], [fix])


def given(head: int = 128, dtype: str = "c10::BFloat16", mask: bool = False, dropout: str = "0.") -> Shapes:
    """What a trace holds of one call: query, key, value, mask, dropout."""
    tensor = (1, 32, 4096, head)
    dims = (tensor, tensor, tensor, (4096, 4096) if mask else (), ())
    return Shapes(dims, (dtype,) * 3, concrete=("", "", "", "", dropout))


@pytest.mark.parametrize(
    ("call", "on_gpu", "on_cpu"),
    [
        (given(), (), ()),
        (given(mask=True), ("a mask",), ()),
        (given(dropout="0.1"), (), ("dropout 0.1",)),
        (given(dropout="not a number"), (), ()),
        (given(dtype="float"), ("float32",), ()),
        (given(head=256), (), ()),
        (given(head=264), ("head size 264",), ("head size 264",)),
        (given(head=100), ("head size 100",), ("head size 100",)),
        (Shapes((), (), concrete=()), (), ()),
        (Shapes(given(mask=True).dims[:4], ("c10::Half",), concrete=("",) * 4), ("a mask",), ()),
        (Shapes(given().dims[:3], ("c10::Half",), concrete=("",) * 4), (), ()),
    ],
)
def test_what_flash_attention_refuses(call: Shapes, on_gpu: tuple[str, ...], on_cpu: tuple[str, ...]) -> None:
    assert (_why(call, on_gpu=True), _why(call, on_gpu=False)) == (on_gpu, on_cpu)


def test_the_ends_of_what_single_calls_save_bound_the_whole() -> None:
    whole = Worth(100.0, 90.0, 120.0)
    assert _saved(whole, (0.3, 0.2, 0.4)) == Worth(30.0, 18.0, 48.0)
    assert _saved(whole, None) == whole.share(UNTIMED)
    assert (UNTIMED.low, UNTIMED.likely, UNTIMED.high) == (0.2, 0.5, 0.8)  # 24 % of a whole step in the source
    assert _saved(None, (0.3, 0.2, 0.4)) is None
    assert _shares([(2, 100, 40), (1, 300, 180)]) == (0.48, 0.4, 0.6)
    assert _shares([(1, 100, 150)]) == (0.0, 0.0, 0.0)


KERNELS = {"math": "_attention_math", "efficient": "_efficient_attention", "flash": "_flash_attention"}


@pytest.mark.parametrize(
    ("kernel", "on_gpu", "lost"),
    [
        ("math", False, (2, 3, "flash", ("dropout 0.1",), ("NO_ATTENTION_DROPOUT",))),
        ("math", True, (2, 3, None, (), ("NO_MASK",))),
        ("efficient", False, (1, 3, "flash", ("dropout 0.1",), ("NO_ATTENTION_DROPOUT",))),
        ("efficient", True, None),
        ("flash", False, None),
    ],
)
def test_kernels_that_calls_of_forward_led_to(kernel: str, on_gpu: bool, lost: tuple[Any, ...] | None) -> None:
    """From 100 to 900: a call with dropout, one of unknown arguments, one that ran flash attention; one again, one
    without a kernel, and a kernel that no such call ran."""
    top = "aten::scaled_dot_product_attention"
    ran, flash = (f"aten::_scaled_dot_product{KERNELS[name]}" for name in (kernel, "flash"))
    rows = [
        one
        for at, name in ((50, ran), (100, ran), (200, ran), (300, flash), (400, ran), (900, ran))
        for one in (op(top, at, at + 9), op(name, at + 1, at + 5))
    ]
    trace = trace_of([*rows, op(top, 500, 509), op(ran, 600, 605)])
    host = trace.host
    dropout = Shapes(((2, 4, 64, 32),) * 3, ("c10::Half",) * 3, concrete=("", "", "", "", "0.1"))
    shapes = np.where(host.start == 200, -1, 0)
    phase = np.where(host.start // 100 == 4, PHASE["recompute"], PHASE["forward"])
    trace = replace(trace, host=replace(host, shapes=shapes), shapes=(dropout,))
    given = case(ledger=SimpleNamespace(window=SimpleNamespace(noted_start=100, end=900)), on_gpu=on_gpu)
    given.analysis.trace = trace
    given.analysis.attribution = SimpleNamespace(phase=phase, tree=tree_of(trace))
    found = _from_trace(given)
    told = found and (found.count, found.of, found.faster, found.reasons, found.fixes)
    assert told == lost
    assert found is None or found.ran == kernel
