"""G findings: do these numbers mean what they seem to mean?"""

import re

import numpy as np

from loraprof import units
from loraprof.analysis.attribution.roles import HEAD, REPEATED
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.busy import mixed_ns
from loraprof.diagnosis.case import LONG_NS, Case
from loraprof.diagnosis.remedies import comparability as remedies
from loraprof.diagnosis.remedy import target
from loraprof.diagnosis.rule import ADAPTER, COMPARABILITY, Rule, Seen, evidence
from loraprof.diagnosis.select import both, idle, roles, total_ns, worth
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import ModuleInfo, ParameterInfo
from loraprof.model.trace import Bool
from loraprof.model.vocabulary import PHASE

LAYER = re.compile(r"\d+")  # in a path
PASSES = [PHASE["forward"], PHASE["backward"], PHASE["recompute"]]
TOKENS_APART = 0.01  # G1: tokens per step of two runs
COLD = 1.5  # G3: first step over the median
LOADING = 0.05  # G3: loading code, of the step
NOISE = 0.50  # G3: interval of the median over the median
PADDING = 0.80  # G4: real tokens of all tokens
ISSUING_NS = (15_000, 40_000)  # G4: of an eager op on a CPU, likely and at most: Python, dispatch, autograd's node
SLOWER = (1.1, 1.5)  # G4: what is left, over its share of the tokens, likely and at most
FREE_BACKWARD = 0.5  # G5: backward over forward
OPTIMIZER_SHARE = 0.25  # G2: of the full step
BOUND = 0.90  # G6: speed-up over the ideal one


def optimizer_decides(case: Case) -> Seen | None:
    """G2: most of what LoRA saves here is the optimizer's work."""
    predicted = case.counterfactual
    if predicted is None or not predicted.full_ns:
        return None
    optimizer = (predicted.savings.optimizer_ns or 0) + (predicted.savings.grad_clip_ns or 0)
    if optimizer <= OPTIMIZER_SHARE * predicted.full_ns:
        return None
    now = case.timing.unprofiled.median_ns if case.timing.unprofiled else None
    without = (
        (predicted.full_ns - optimizer) / (now - predicted.trained_ns) if now and now > predicted.trained_ns else None
    )
    return Seen(
        evidence=[
            evidence("optimizer and clipping of full fine-tuning, predicted", optimizer, "ns"),
            evidence("of its step", optimizer / predicted.full_ns, "share"),
            evidence("speed-up over full fine-tuning, whole step", predicted.full_ns / now if now else None, "ratio"),
            evidence("the same without optimizer and clipping", without, "ratio"),
            evidence("tokens per optimizer step", case.timing.tokens_per_step, "tokens"),
        ],
        severity="info",
    )


def cold_timing(case: Case) -> Seen | None:
    """G3: the first steps were slower than the rest, so a mean over all of them is not the speed of training.

    The first window of a trace that begins in the midst of training also holds work that was queued before: it is
    left out.
    """
    timing = case.recording.timing if case.recording else None
    queued = bool(case.analysis.links.orphans)
    samples = list(timing.samples_ns) if timing else [s.wall_ns for s in case.analysis.steps][queued:]
    median = sorted(samples)[(len(samples) - 1) // 2] if len(samples) > 2 else 0
    if not median or samples[0] <= COLD * median or samples[0] <= max(samples[1:]):
        return _noisy(case) or _loading(case)
    return Seen(
        evidence=[
            evidence("first step that was timed" if timing else "first step of the trace", samples[0], "ns"),
            evidence("median step", median, "ns"),
            evidence("steps dropped before", timing.dropped if timing else None, "steps"),
        ],
        remedies=(remedies.WARM_UP if timing else remedies.LATER,),
        values={"skip": 2 * timing.dropped + 3 if timing else None, "target": target(case)},
    )


def _noisy(case: Case) -> Seen | None:
    """Steps that repeat so badly that no difference between arms can be told from them, or that others slowed."""
    u, t = case.timing.unprofiled, case.timing
    if u is None or not (u.high_ns - u.low_ns > NOISE * u.median_ns or t.crowded):
        return None
    return Seen(
        evidence=[
            evidence("median step, unprofiled", u.median_ns, "ns"),
            evidence("its interval from", u.low_ns, "ns"),
            evidence("to", u.high_ns, "ns"),
            evidence("steps timed", u.steps, "steps"),
            *[evidence("processor time of the process over theirs", t.cores, "cores")] * bool(t.crowded),
        ],
        title="Other work slowed the timed steps" if t.crowded else "The steps repeat too badly for a comparison",
        remedies=(remedies.QUIET,),
        values={"timed": 5 * u.steps, "target": target(case)},
    )


def _loading(case: Case) -> Seen | None:
    """Launch calls that take so long while the device is idle load code: its kernels are used for the first time."""
    first_uses = idle("launch_api", above_ns=LONG_NS)
    spent, calls = total_ns(case, first_uses), int(first_uses(case.ledger).sum())
    if spent < LOADING * case.wall_ns:
        return None
    return Seen(
        evidence=[
            evidence(f"launch calls above {units.ns(LONG_NS)} on an idle device", calls, "count"),
            evidence("their time", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
        ],
        title="The step is cold: its kernels are used for the first time",
        remedies=(remedies.LOADED,),
        spent_ns=spent,
    )


def padding(case: Case) -> Seen | None:
    """G4: padded tokens take time and count for nothing."""
    w = case.workload
    if w is None or not w.tokens_per_step or w.real_tokens_per_step is None:
        return None
    share = w.real_tokens_per_step / w.tokens_per_step
    if share >= PADDING:
        return None
    longest = w.longest_tokens_per_step
    packed, known = _padded(case, share), longest is not None
    trimmed = _padded(case, longest / w.tokens_per_step) if longest is not None else None
    return Seen(
        evidence=[
            evidence("tokens per step", w.tokens_per_step, "tokens"),
            evidence("of them real", w.real_tokens_per_step, "tokens"),
            evidence("real tokens, of all", share, "share"),
            *[evidence("where each batch has the length of its longest row", longest, "tokens")] * known,
        ],
        saved=packed,
        values={
            "longest": trimmed if known or packed is None else packed.at_most,
            "bucketed": _bucketed(packed, trimmed),
        },
    )


def _bucketed(packed: Worth | None, trimmed: Worth | None) -> Worth | None:
    """Batches of like length have next to no padding: at most what packing saves, at least what shorter batches do."""
    if packed is None:
        return None
    return packed.between(trimmed, packed) if trimmed is not None else packed.at_most


def _padded(case: Case, computed: float) -> Worth | None:
    """What goes where only the share ``computed`` of the tokens is: of the passes' work all that grows with the tokens.

    (1 - computed) of the work, (1 - computed^2) of attention's, less what stays: on a CPU, issuing each op. Its time is
    not in the trace, so that the least gain has the largest such cost, and shorter products at a lower rate.
    """
    passes, attention = (worth(case, both(_passes, select), waiting=False) for select in (_busy, roles("attention")))
    unprofiled = case.timing.unprofiled
    if passes is None or attention is None or unprofiled is None:
        return None
    saved = passes.times(1 - computed).plus(attention.times(computed * (1 - computed)))
    issued = 0 if case.analysis.on_gpu else (1 - computed) * sum(1 for w in case.busy.work if w and w.min_bytes)
    step = unprofiled.median_ns
    left = ((step - saved.ns + issued * ns) * slower for ns, slower in zip(ISSUING_NS, SLOWER, strict=True))
    likely, low = (max(step - ns, 0.0) for ns in left)
    most = (1 - computed) * step + computed * (1 - computed) * attention.ns
    edit = saved.times(likely / saved.ns).edit if saved.ns else None
    return Worth(likely, low, max(likely, min(saved.high, most)), bounded=True, edit=edit)


def _busy(ledger: Ledger) -> Bool:
    return ledger.busy


def _passes(ledger: Ledger) -> Bool:
    return np.isin(ledger.phase, PASSES)


def not_training(case: Case) -> Seen | None:
    """G5: no gradient reaches the adapters, or base weights train with them."""
    if case.recording is None or not case.sites:
        return None
    table, parameters = case.recording.modules, case.recording.parameters
    names = {p.id: f"{table[p.module].path}.{p.name}".strip(".") for p in parameters}
    own = [p for p in parameters if p.trainable and p.part in ("down", "up")]
    adapted = {m.root for m in table if m.site is not None}  # a model beside the adapted one may train as a whole
    missing = set(case.workload.missing_gradients) if case.workload else set()
    starved = [p for p in own if names[p.id] in missing]
    adapters, mixed = {LAYER.sub("#", names[p.id]) for p in own}, _mixed(table, parameters)
    frozen_late = [
        p
        for p in parameters
        if p.trainable
        and len(p.shape) >= 2
        and (p.part == "base" or (p.part is None and table[p.module].in_features))
        and table[p.module].root in adapted
        and not HEAD.search(table[p.module].path)
        and "modules_to_save" not in table[p.module].path
        and (p.part == "base" or REPEATED.search(_above(table[p.module].path, mixed)))
        and LAYER.sub("#", names[p.id]) not in adapters  # a pair that is as wide as its layer
    ]
    if not starved and not frozen_late:
        return None
    forward, backward = (
        case.step.ns(phase="forward"),
        case.step.ns(phase="backward") + case.step.ns(phase="recompute"),
    )
    first = names[(starved or frozen_late)[0].id]
    return Seen(
        evidence=[
            evidence("adapter parameters", len(own), "tensors"),
            evidence("of them without a gradient after backward", len(starved), "tensors"),
            evidence("base weights that train", len(frozen_late), "tensors"),
            evidence("first of them", first, ""),
            evidence("backward over forward", backward / forward if forward else None, "ratio"),
        ],
        severity="blocker",
        title="The adapters are not training" if starved else "Base weights train with the adapters",
        remedies=(remedies.INPUT_GRADIENTS if starved else remedies.FREEZE,),
    )


def _mixed(table: list[ModuleInfo], parameters: list[ParameterInfo]) -> set[str]:
    """Paths of modules with frozen weights or adapters somewhere in them."""
    paths = {table[p.module].path for p in parameters if not p.trainable or p.part is not None}
    parts = [path.split(".") for path in paths]
    return {".".join(part[:i]) for part in parts for i in range(len(part) + 1)}


def _above(path: str, mixed: set[str]) -> str:
    """The innermost module around ``path`` that is not trained as a whole, as a decoder or a last block may be."""
    around = path.rpartition(".")[0]
    while around and around not in mixed:
        around = around.rpartition(".")[0]
    return around


def at_the_bound(case: Case) -> Seen | None:
    """G6: removing the adapters altogether would gain less than a tenth, whatever of fused kernels is theirs."""
    predicted, unprofiled = case.counterfactual, case.timing.unprofiled
    mixed = mixed_ns(case.analysis.attribution.compiled, case.ledger) * case.scale
    if predicted is None or unprofiled is None or predicted.frozen_ns - mixed < BOUND * unprofiled.median_ns:
        return None
    return Seen(
        evidence=[
            evidence("speed-up over full fine-tuning, predicted", predicted.full_ns / unprofiled.median_ns, "ratio"),
            evidence("ideal speed-up, adapters for free", predicted.full_ns / predicted.frozen_ns, "ratio"),
            evidence("this step without adapters, predicted", predicted.frozen_ns, "ns"),
        ],
        severity="info",
    )


DIFFERENT_ARMS = Rule("G1", COMPARABILITY, None, (remedies.ONE_COMMAND,), thresholds={"tokens": TOKENS_APART})
OPTIMIZER_DECIDES = Rule(
    "G2", COMPARABILITY, optimizer_decides, (remedies.STATE_TOKENS,), thresholds={"share": OPTIMIZER_SHARE}
)
COMPARABILITY_RULES = (
    DIFFERENT_ARMS,
    OPTIMIZER_DECIDES,
    Rule(
        "G3",
        COMPARABILITY,
        cold_timing,
        (remedies.WARM_UP, remedies.LATER, remedies.QUIET, remedies.LOADED),
        thresholds={"cold": COLD, "loading": LOADING, "long": LONG_NS, "noise": NOISE},
    ),
    Rule(
        "G4",
        COMPARABILITY,
        padding,
        (remedies.PACKING, remedies.TO_LONGEST, remedies.BUCKETS),
        thresholds={"real": PADDING},
    ),
    Rule(
        "G5",
        COMPARABILITY,
        not_training,
        (remedies.INPUT_GRADIENTS, remedies.FREEZE),
        thresholds={"backward": FREE_BACKWARD},
    ),
    Rule("G6", COMPARABILITY, at_the_bound, (remedies.NOTHING,), thresholds={"bound": BOUND}, bounds=ADAPTER),
)
