"""What would a change give that answers no finding? By the name ``loraprof fix`` calls it: its effect, which may be a
loss or nothing, or one line that says why the recording does not tell.

    fused       what stays of the optimizer's work are the bytes of one pass over gradients, parameters and states, at
                the rate that the recorded ops reach (at best the calibrated one), and one launch; on a CPU also the
                least op of C++ per tensor
    foreach     on a CPU the same ops, called from C++ instead of Python
    autocast    fp32 products at the ratio of the rates by the shapes that were calibrated in both dtypes, less the
                casts of what they read: of all operands in forward, of the activations' gradients again in backward;
                on a CPU each of them is issued. The least has half of what the rates promise: the products of a step
                reached less than those of the calibration
    workers     the time in which the step waits for its batch, as H4 says it

An interval is never narrower than that of the timed steps.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Final

import numpy as np
from msgspec.structs import replace

from loraprof import units
from loraprof.analysis.step.records import Record
from loraprof.diagnosis.case import ERROR, Case, spread_ns
from loraprof.diagnosis.findings.comparability import ISSUING_NS
from loraprof.diagnosis.findings.host import prepared_ahead
from loraprof.diagnosis.rows import element_bytes, like
from loraprof.diagnosis.select import of_rows, roles, worth
from loraprof.diagnosis.worth import Worth, gained
from loraprof.model.finding import Gain
from loraprof.model.vocabulary import ROLE

PASSES: Final[Mapping[str, int]] = {"AdamW": 7, "Adam": 7, "Adagrad": 5, "SGD": 3}  # tensors read and written
HALF: Final = "bfloat16"
CAST_BYTES: Final = 6  # read in fp32, written in a half
LEFT: Final[Mapping[str, int]] = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}

SEEN: Final = 0.5  # of what the rates promise, at least
ISSUING: Final = (
    "measured elsewhere: an eager op takes 15 to 40 us to issue on a CPU, and products save half of what rates promise "
    "or more"
)

Expected = Gain | str


def expected(case: Case) -> dict[str, Expected]:
    """Of each change that is known here."""
    unprofiled = case.timing.unprofiled
    if unprofiled is None or not case.timed:
        return dict.fromkeys(_EFFECTS, "no step was timed without the profiler")
    step_ns, spread = unprofiled.median_ns, spread_ns(unprofiled)
    found = {arm: effect(case) for arm, effect in _EFFECTS.items()}
    return {arm: w if isinstance(w, str) else gained(step_ns, w.give_or_take(spread)) for arm, w in found.items()}


def _bounded(ns: float, low: float, high: float) -> Worth:
    return Worth(ns, min(ns, low), max(ns, high), bounded=True)


def _fused_optimizer(case: Case) -> Worth | str:
    spent, passes = worth(case, roles("optimizer")), _passes(case)
    if spent is None or passes is None:
        return "the recording does not say which optimizer runs"
    trained = [p for p in case.recording.parameters if p.trainable] if case.recording else []
    stays = passes * sum(prod(p.shape) * element_bytes(p.dtype) for p in trained)
    moved = sum(k.min_bytes for k in case.kernels if k.role == "optimizer" and k.min_bytes)
    stream = case.rates.stream_bytes_per_s if case.rates else None
    if case.analysis.on_gpu:
        return _fewer_launches(case, min(stays / moved, 1.0) if moved else 1.0)
    if not moved or not stream:
        return "the bytes of the optimizer's ops are not known"
    each = len(trained) * _op_ns(case)
    least, most = (min(spent.ns, each + ns) for ns in (stays / stream * 1e9, spent.ns * min(stays / moved, 1.0)))
    return _bounded(spent.ns - (least + most) / 2, (spent.ns - most) * (1 - ERROR), spent.high)


def _fewer_launches(case: Case, stays: float) -> Worth | str:
    """The optimizer's records that follow each other are one launch, and take a part of their time."""
    step = case.replay
    if step is None or step.sigma is None:
        return "the launches could not be replayed"
    own = step.record_role == ROLE["optimizer"]
    whole = np.ones(len(own))
    now = step.edited_ns(whole, whole, None, 1.0)
    ns, launches = (now - step.edited_ns(np.where(own, left, 1.0), whole, own, 1.0) for left in (stays, 1.0))
    return _bounded(ns, (1 - ERROR) * launches, (1 + ERROR) * ns)


def _foreach_optimizer(case: Case) -> Worth | str:
    spent, calibration = worth(case, roles("optimizer")), case.recording.calibration if case.recording else None
    if case.analysis.on_gpu:
        return "torch takes foreach by itself on a GPU"
    if spent is None or calibration is None or not calibration.host_ns or not calibration.op_ns:
        return "what calling an op from Python costs was not calibrated"
    ops = sum(1 for r in case.records if r.role == "optimizer")
    ns = min(ops * max(calibration.host_ns - calibration.op_ns, 0.0), spent.ns)
    return _bounded(ns, 0.0, max((1 + ERROR) * ns, 0.0))


def _passes(case: Case) -> int | None:
    name = ((case.workload.optimizer if case.workload else None) or "").partition("(")[0]
    return PASSES.get(name)


def _op_ns(case: Case) -> int:
    calibration = case.recording.calibration if case.recording else None
    return (calibration.op_ns if calibration else None) or 0


def _autocast(case: Case) -> Worth | str:
    products = [r for r in case.records if r.gemm_type == "float"]
    if not products:
        return "no product of this step is known to run in fp32"
    ratio = _half_over_single(case, products)
    if ratio is None:
        return f"no product was calibrated in {HALF}: a device may run it at a third or at many times the rate of fp32"
    spent = worth(case, of_rows(case, like(case, products)), waiting=False)
    if spent is None or case.rates is None:
        return "the products' share of the step is not known"
    casts = _cast(products)
    moving = sum(case.rates.copy_ns(CAST_BYTES * n) or 0.0 for n in casts)
    issued = [len(casts) * ns for ns in (ISSUING_NS if not case.analysis.on_gpu else (0, 0))]
    saved = spent.ns * (1 - ratio)
    least = min(SEEN * saved, spent.ns * (1 - (1 + ERROR) * ratio)) - (1 + ERROR) * moving - issued[1]
    likely, most = saved - moving - issued[0], spent.ns * (1 - (1 - ERROR) * ratio)
    return replace(_bounded(likely, least, most), basis="assumed", source=ISSUING)


def _half_over_single(case: Case, products: list[Record]) -> float | None:
    """Time of all products in half precision over that in fp32, by the shapes that were calibrated in both."""
    rates = case.rates
    known = {(g.m, g.n, g.k, g.dtype) for g in rates.calibration.gemm} if rates else set()
    if rates is None or not any((*shape, "float32") in known for *shape, dtype in known if dtype == HALF):
        return None
    sizes = [size for size in map(_sizes, products) if size]
    half, single = (sum(rates.gemm_ns(*size, dtype) or 0.0 for size in sizes) for dtype in (HALF, "float32"))
    return half / single if single else None


def _operands(product: Record) -> list[tuple[int, ...]]:
    """Shapes of left and right."""
    at = LEFT.get(product.op)
    found = [d for d in product.dims[at : at + 2] if isinstance(d, tuple)] if at is not None else []
    return [d for d in found if len(d) > 1 and all(isinstance(x, int) for x in d)]


def _sizes(product: Record) -> tuple[int, int, int] | None:
    """m, n, k; of a batch of products all rows together."""
    both = _operands(product)
    return (prod(both[0][:-1]), both[1][-1], both[0][-1]) if len(both) == 2 else None


def _cast(products: list[Record]) -> list[int]:
    """Elements of each cast: both operands in forward, the gradient of each left one in backward."""
    sizes = [[prod(d) for d in _operands(r)] for r in products if r.phase == "forward"]
    return [n for own in sizes for n in (*own, *own[:1])]


def _loader_workers(case: Case) -> Worth | str:
    saved = prepared_ahead(case)
    return "how long the step waits for its batch is not known" if saved is None else saved


def _compiled_blocks(case: Case) -> str:
    if case.compiled:
        return "the step is compiled already"
    if case.analysis.on_gpu:
        return f"which of {units.count(len(case.busy.rows))} kernels a compiler joins is known once it has compiled"
    return "eager kernels are vectorised on a CPU too: 0.85x to 1.25x was measured, whatever the recording says"


_EFFECTS: Final[Mapping[str, Callable[[Case], Worth | str]]] = {
    "fused-optimizer": _fused_optimizer,
    "foreach-optimizer": _foreach_optimizer,
    "autocast": _autocast,
    "loader-workers": _loader_workers,
    "compile-blocks": _compiled_blocks,
}
