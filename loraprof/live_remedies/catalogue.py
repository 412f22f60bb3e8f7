"""All remedies that can be applied to a running program, by name. One line each."""

from typing import Final

from loraprof.errors import UsageError
from loraprof.live_remedies import adapter, bucketing, data, loss, model, optimizer, packing, training
from loraprof.live_remedies.remedy import LiveRemedy
from loraprof.store.specs import did_you_mean

REMEDIES: Final[dict[str, LiveRemedy]] = {
    remedy.name: remedy
    for remedy in (
        adapter.FUSED,
        adapter.SHARED,
        adapter.HALF,
        model.COMPILE,
        model.GRAPHS,
        optimizer.FUSED,
        optimizer.FOREACH,
        optimizer.SET_TO_NONE,
        model.SDPA,
        model.NO_MASK,
        loss.CHUNKED,
        model.NO_CHECKPOINTING,
        model.NON_REENTRANT,
        data.PAD_TO_LONGEST,
        packing.PACKED,
        bucketing.BUCKETS,
        data.CACHED,
        data.LOADER_WORKERS,
        model.AUTOCAST,
        optimizer.TF32,
        training.NO_DROPOUT,
        training.QUERY_VALUE_ONLY,
        training.UPPER_LAYERS,
        training.UPPER_WHOLE,
        training.PACA,
        training.FULL,
    )
}


def is_remedy(arm: str) -> bool:
    """The name of a remedy, or several joined by a plus sign."""
    return all(part in REMEDIES for part in arm.split("+"))


def remedy_named(name: str) -> LiveRemedy:
    """Raises UsageError that names the closest."""
    if name not in REMEDIES:
        raise UsageError(f"no remedy {name!r}", did_you_mean(name, REMEDIES))
    return REMEDIES[name]
