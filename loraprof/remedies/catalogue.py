"""All remedies that can be applied to a running program, by name. One line each."""

from typing import Final

from loraprof.errors import UsageError
from loraprof.remedies import adapter, data, model, optimizer
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


def remedy_named(name: str) -> LiveRemedy:
    """Raises UsageError that names the closest."""
    if name not in REMEDIES:
        raise UsageError(f"no remedy {name!r}", did_you_mean(name, REMEDIES))
    return REMEDIES[name]
