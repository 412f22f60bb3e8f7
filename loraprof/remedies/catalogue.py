"""All remedies that can be applied to a running program, by name. One line each."""

from typing import Final

from loraprof.errors import UsageError
from loraprof.remedies import adapter, data, loss, model, optimizer
from loraprof.remedies.remedy import LiveRemedy
from loraprof.store.specs import did_you_mean

REMEDIES: Final[dict[str, LiveRemedy]] = {
    remedy.name: remedy
    for remedy in (
        adapter.FUSED,
        adapter.HALF,
        model.COMPILE,
        optimizer.FUSED,
        optimizer.FOREACH,
        optimizer.SET_TO_NONE,
        model.SDPA,
        model.NO_MASK,
        loss.CHUNKED,
        model.NO_CHECKPOINTING,
        model.NON_REENTRANT,
        data.PAD_TO_LONGEST,
        data.CACHED,
        data.LOADER_WORKERS,
        model.AUTOCAST,
        optimizer.TF32,
        adapter.NO_DROPOUT,
        adapter.QUERY_VALUE_ONLY,
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
