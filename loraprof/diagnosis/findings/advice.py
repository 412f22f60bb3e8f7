"""W findings: is LoRA the right lever for speed here?"""

from loraprof.analysis.costmodel.speedup import crossover_hidden
from loraprof.analysis.costmodel.variants import detect_variant
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies.adapter import FULL, UPPER_LAYERS
from loraprof.diagnosis.rule import LEVER, Rule, Seen, evidence
from loraprof.diagnosis.worth import Worth


def wrong_lever(case: Case) -> Seen | None:
    """W1: full fine-tuning is predicted faster, with its whole interval: the adapters cost more than they save.

    Not where a part of full fine-tuning is left out of the prediction: the time of gradients that only it reduces.
    """
    predicted, unprofiled = case.counterfactual, case.timing.unprofiled
    exchanged = case.communication
    uncounted = (
        exchanged is not None
        and exchanged.saved_bytes != 0
        and predicted is not None
        and predicted.savings.comm_ns is None
    )
    if predicted is None or unprofiled is None or predicted.full.high >= unprofiled.median_ns or uncounted:
        return None
    saved = Worth(
        unprofiled.median_ns - predicted.full_ns,
        unprofiled.median_ns - predicted.full.high,
        unprofiled.median_ns - predicted.full.low,
    )
    widths = sorted(min(s.in_features, s.out_features) for s in case.sites)
    return Seen(
        evidence=[
            evidence("this step", unprofiled.median_ns, "ns"),
            evidence("full fine-tuning, predicted", predicted.full_ns, "ns"),
            evidence("at most", predicted.full.high, "ns"),
            evidence("added by the adapters", predicted.added_ns, "ns"),
            evidence("median width of the adapted layers", widths[len(widths) // 2] if widths else None, "features"),
            evidence("width from which adapters pay in forward and backward", _crossover(case), "features"),
        ],
        saved=saved,
        severity="major",
    )


def _crossover(case: Case) -> float | None:
    """d* of the variant that runs, from this device's own rates."""
    rates, site = case.rates, next(iter(case.sites), None)
    if rates is None or site is None or not case.gemm_flops_per_s or not rates.stream_bytes_per_s:
        return None
    autocast = case.workload.autocast if case.workload else None
    variant = detect_variant(site.dtype, site.base_dtype, autocast, site.dropout)
    width = 2 if site.base_dtype == "float32" else 1  # V1's bytes are those of a two-byte base
    rho = case.gemm_flops_per_s / rates.stream_bytes_per_s
    return width * crossover_hidden(variant, rho) if variant else None


ADVICE = (Rule("W1", LEVER, wrong_lever, (FULL, UPPER_LAYERS)),)
