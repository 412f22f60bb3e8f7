"""The counting pass against the rules on the profiled step: work per module and phase of real models.

The pass sees live tensors at the dispatcher, the rules only the shapes that the profiler recorded. FLOPs and the number
of matrix products agree exactly, bytes within 2 % per module, but for what a trace cannot say or a rule knows better.
"""

from collections import Counter

import pytest
from recorded import recorded

import loraprof
from loraprof.model.recording import Recording
from loraprof.model.report import Report
from loraprof.store.recordings import load_source

pytestmark = pytest.mark.slow

CAT = "the element type of a tensor list is not recorded"
DIFFERENT = {
    "aten::cat": CAT,
    "aten::stack": CAT,
    "aten::nll_loss_forward": "one log-probability per token is read",
    "aten::nll_loss_backward": "the gradient needs no log-probabilities",
    "aten::convolution_backward": "an input gradient that nobody wants reads no weight",
    "aten::max_pool2d_with_indices_backward": "the gradient needs the indices, not the input",
}
Key = tuple[str, str]  # module path, phase


def both(name: str, *overrides: str) -> tuple[Report, Recording]:
    place = recorded(name, *overrides)
    recording = load_source(place).recording
    assert recording is not None
    return loraprof.diagnose(place), recording


def place_of(path: str, phase: str) -> Key:
    """The pass knows no loss, clipping or optimizer: only ops that run in a container or in no module at all."""
    if path in ("<optimizer>", "<grad_clip>", "-"):
        return "update", "update"
    return ("<loss>" if path in ("<loss>", "<model>", "base_model.model", "CrossEntropyLoss") else path), phase


def counted(recording: Recording, what: str) -> Counter[Key]:
    """``what``: "flops", "products" or "min_bytes"."""
    paths = {m.id: m.path or "<model>" for m in recording.modules}
    out: Counter[Key] = Counter()
    for c in recording.counted:
        key = place_of(paths.get(c.module, "-"), c.phase)
        out[key] += (c.count if c.flops else 0) if what == "products" else getattr(c, what)
        if what == "min_bytes" and c.op in DIFFERENT:
            out[key] -= c.min_bytes
    return +out


def profiled(report: Report, what: str) -> Counter[Key]:
    out: Counter[Key] = Counter()
    for k in report.kernels:
        key = place_of(k.module or "-", k.phase)
        out[key] += (k.count if k.flops else 0) if what == "products" else getattr(k, what) or 0
        if what == "min_bytes" and k.op in DIFFERENT:
            out[key] -= k.min_bytes or 0
    return +out


CASES = [
    ("tiny-llama-cpu",),
    ("tiny-llama-cpu", "checkpointing=reentrant"),
    ("tiny-llama-cpu", "dtype=bfloat16", "dropout=0.1"),
    ("gpt2-xl",),
    ("roberta-base",),
    ("opt-125m",),
    ("minimind-26m",),
    ("resnet18",),
]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_flops_and_products_are_equal_per_module(case: tuple[str, ...]) -> None:
    report, recording = both(*case)
    for what in ("flops", "products"):
        assert profiled(report, what) == counted(recording, what)
    by_role: Counter[str] = Counter()
    for k in report.kernels:
        by_role[k.role] += k.flops or 0
    assert sum(by_role.values()) == sum(c.flops for c in recording.counted)
    assert by_role["adapter.down"] > 0
    assert by_role["adapter.up"] > 0
    assert by_role["adapter.elementwise"] == by_role["norm"] == 0


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_bytes_are_within_two_percent_per_module(case: tuple[str, ...]) -> None:
    report, recording = both(*case)
    found, expected = profiled(report, "min_bytes"), counted(recording, "min_bytes")
    wrong = {
        key: (found[key], expected[key])
        for key in found | expected
        if abs(found[key] - expected[key]) > 0.02 * expected[key] + 64  # scalars
    }
    assert wrong == {}
    assert report.traffic is not None
    assert sum(t.min_bytes for t in report.traffic) == sum(k.min_bytes or 0 for k in report.kernels)


def test_what_differs_is_a_small_part() -> None:
    _, recording = both("tiny-llama-cpu")
    everything = sum(c.min_bytes for c in recording.counted)
    assert 0 < sum(c.min_bytes for c in recording.counted if c.op in DIFFERENT) < 0.02 * everything
