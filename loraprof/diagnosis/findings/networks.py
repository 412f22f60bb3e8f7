"""B findings about what runs beside the passes that train: an encoder, a reference model, a rollout."""

from loraprof.analysis.attribution.networks import SAMPLED
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies.base import CACHED, MERGED, SAMPLER
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import both, modules, phase, roles, total_ns, worth
from loraprof.model.vocabulary import ADAPTER_ROLES

NETWORK_SHARE = 0.10  # B11, B12: of the step


def frozen_network(case: Case) -> Seen | None:
    """B11: a network without trainable parameters runs in every step, beside one that trains."""
    if case.recording is None:
        return None
    table = case.recording.modules
    trained = {table[p.module].root for p in case.recording.parameters if p.trainable}
    frozen = {table[p.module].root for p in case.recording.parameters} - trained
    if not trained or not frozen:
        return None
    select = modules(case, lambda m: m.root in frozen)
    spent = total_ns(case, select)
    if spent < NETWORK_SHARE * case.wall_ns:
        return None
    each = {root: total_ns(case, modules(case, lambda m, root=root: m.root == root)) for root in sorted(frozen)}  # type: ignore[misc]
    largest = max(each, key=lambda root: each[root])
    network = next(m for m in table if m.root == largest)
    return Seen(
        evidence=[
            evidence("networks without a trainable parameter", len(frozen), "modules"),
            evidence("largest of them", network.path or network.cls, ""),
            evidence("their time", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
        ],
        saved=worth(case, select),
        spent_ns=spent,
        values={"network": network.path or network.cls},
    )


def rollout(case: Case) -> Seen | None:
    """B12: the step samples from the network that it trains."""
    spent = total_ns(case, phase("generate"))
    if not spent or spent < NETWORK_SHARE * case.wall_ns:
        return None
    adapters = both(phase("generate"), roles(*ADAPTER_ROLES))
    return Seen(
        evidence=[
            evidence("sampling, idle included", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
            evidence("of it in adapters", total_ns(case, adapters), "ns"),
        ],
        saved=worth(case, adapters),
        spent_ns=spent,
        remedies=(MERGED, SAMPLER),
    )


NETWORKS = (
    Rule("B11", BASE, frozen_network, (CACHED,), thresholds={"share": NETWORK_SHARE}),
    Rule("B12", BASE, rollout, (MERGED, SAMPLER), thresholds={"share": NETWORK_SHARE, "calls": SAMPLED}),
)
