"""B6: what the head, its logits and the loss cost, and what a fused or a shorter one would."""

import re
from math import prod

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import base as remedies
from loraprof.diagnosis.rows import kineto_bytes
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import roles, worth
from loraprof.diagnosis.worth import Worth
from loraprof.model.recording import ModuleInfo

HEAD_SHARE = 0.10  # of busy time
LABELLED = 0.95  # from which on it does not matter that the others are skipped


def head_and_loss(case: Case) -> Seen | None:
    """B6: logits of tokens times vocabulary."""
    spent = case.step.ns(kind="busy", role="head") + case.step.ns(kind="busy", role="loss")
    if not case.busy_ns or spent < HEAD_SHARE * case.busy_ns or not case.sites:
        return None
    vocabulary, labelled = vocabulary_of(case), _labelled(case)
    if not has_logits(case, vocabulary):
        return None
    skipped, fused = labelled < LABELLED, _fused_loss(case, vocabulary)
    wide = [
        r
        for r in case.records
        if r.role in ("head", "loss")
        and "float" in r.types
        and any(isinstance(d, tuple) and vocabulary in d for d in r.dims)
    ]
    return Seen(
        evidence=[
            evidence("time of head and loss", spent, "ns"),
            evidence("of busy time", spent / case.busy_ns, "share"),
            evidence("vocabulary", vocabulary, "tokens"),
            evidence("float32 ops on logits", len(wide) if vocabulary else None, "ops"),
            *[evidence("tokens with a label, of all", labelled, "share")] * skipped,
        ],
        saved=_labelled_only(case, labelled, fused) if skipped else fused,
        values={"skipped": skipped},
    )


def has_logits(case: Case, vocabulary: int | None) -> bool:
    """Whether the loss is one over a vocabulary, as far as modules, weights and shapes are known."""
    if case.recording is None:
        return True
    if vocabulary is None:
        return bool(_vocabularies(case.recording.modules))
    shapes = [dims for r in case.records if r.role in ("head", "loss") for dims in r.dims if isinstance(dims, tuple)]
    return not shapes or any(vocabulary in dims for dims in shapes)


def _labelled(case: Case) -> float:
    """Share of the tokens that have a part in the loss; 1 where that is not known."""
    w = case.workload
    if w is None or not w.tokens_per_step or w.labelled_tokens_per_step is None:
        return 1.0
    return w.labelled_tokens_per_step / w.tokens_per_step


def _labelled_only(case: Case, labelled: float, fused: Worth | None) -> Worth | None:
    """Head and loss of the tokens without a label, and what a fused loss saves of the others."""
    spent = worth(case, roles("head", "loss"), waiting=False)
    if spent is None:
        return None
    skipped = spent.times(1 - labelled)
    return skipped.plus(fused.times(labelled)) if fused else skipped


def _fused_loss(case: Case, vocabulary: int | None) -> Worth | None:
    """What of the loss's bytes goes where it reads the logits once and writes their gradient once."""
    logits = [
        (prod(d), element)
        for r in case.records
        if r.role == "loss"
        for d, element in zip(r.dims, map(kineto_bytes, r.types), strict=False)
        if isinstance(d, tuple) and vocabulary in d and element
    ]
    moved = sum(k.min_bytes for k in case.kernels if k.role == "loss" and k.min_bytes)
    spent = worth(case, roles("loss"), waiting=False)
    if not logits or not moved or spent is None:
        return None
    elements = max(count for count, _ in logits)
    once = elements * min(element for count, element in logits if count == elements)
    return spent.times(max(1 - 2 * once * case.micro_batches / moved, 0.0)).at_most  # read, and written as the gradient


def vocabulary_of(case: Case) -> int | None:
    """Rows of the largest embedding or language-model head."""
    if case.recording is None:
        return None
    owners = _vocabularies(case.recording.modules)
    rows = [p.shape[0] for p in case.recording.parameters if len(p.shape) == 2 and p.module in owners]
    return max(rows, default=None)


def _vocabularies(modules: list[ModuleInfo]) -> set[int]:
    """Modules that hold one."""
    return {m.id for m in modules if m.cls == "Embedding" or re.search(r"(^|\.)(lm_head|embed_out)(\.|$)", m.path)}


HEAD_AND_LOSS = Rule(
    "B6", BASE, head_and_loss, (remedies.FUSED_LOSS, remedies.LABELLED_ONLY), thresholds={"share": HEAD_SHARE}
)
