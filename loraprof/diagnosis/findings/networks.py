"""B findings about networks beside the one that trains: an encoder, a reference model, a reward model."""

from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies.base import CACHED
from loraprof.diagnosis.rule import BASE, Rule, Seen, evidence
from loraprof.diagnosis.select import modules, total_ns, worth

NETWORK_SHARE = 0.10  # B11: of the step


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


NETWORKS = (Rule(id="B11", family=BASE, test=frozen_network, remedies=(CACHED,), thresholds={"share": NETWORK_SHARE}),)
