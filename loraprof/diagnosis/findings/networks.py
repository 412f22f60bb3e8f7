"""F findings: does the step run networks that are not trained, or sample from the one that is?"""

import numpy as np

from loraprof.analysis.attribution.networks import SAMPLED
from loraprof.analysis.partition.ledger import Ledger
from loraprof.analysis.step.networks import rows_of
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.remedies import networks as remedies
from loraprof.diagnosis.rule import NETWORKS, Rule, Seen, evidence
from loraprof.diagnosis.select import both, gain_of, phase, roles, scaled, total_ns, worth
from loraprof.model.trace import Bool
from loraprof.model.vocabulary import ADAPTER_ROLES

SHARE = 0.10  # of the step
READING = 0.9  # of the time of a network whose outputs are read from a cache instead: its least gain


def frozen_networks(case: Case) -> Seen | None:
    """F1: networks without trained parameters run in every step."""
    who = case.analysis.who
    frozen = [i for i, one in enumerate(who.networks) if not one.trained]
    if not frozen or len(frozen) == len(who.networks):
        return None

    def select(ledger: Ledger) -> Bool:
        found: Bool = np.any([rows_of(case.analysis, ledger, i) for i in frozen], axis=0)
        return found

    spent = total_ns(case, select)
    if spent < SHARE * case.wall_ns:
        return None
    first = max(frozen, key=lambda i: int(case.ledger.ns[rows_of(case.analysis, case.ledger, i)].sum()))
    saved = scaled(worth(case, select), 1.0, READING, 1.0)
    return Seen(
        evidence=[
            evidence("networks without trained parameters", len(frozen), "networks"),
            evidence("the longest of them", who.networks[first].name, ""),
            evidence("their time, idle included", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
        ],
        gain=gain_of(case, saved),
        spent_ns=spent,
        remedies=(remedies.CACHE, remedies.CHEAPER),
        values={"name": who.networks[first].name},
    )


def rollout(case: Case) -> Seen | None:
    """F2: the step samples from the network it trains."""
    spent = total_ns(case, phase("generate"))
    if spent < SHARE * case.wall_ns:
        return None
    adapters = both(phase("generate"), roles(*ADAPTER_ROLES))
    return Seen(
        evidence=[
            evidence("sampling, idle included", spent, "ns"),
            evidence("of the step", spent / case.wall_ns, "share"),
            evidence("of it in adapters", total_ns(case, adapters), "ns"),
        ],
        gain=gain_of(case, worth(case, adapters)),
        spent_ns=spent,
        remedies=(remedies.MERGE, remedies.SAMPLER),
    )


NETWORK_RULES = (
    Rule(
        id="F1",
        family=NETWORKS,
        test=frozen_networks,
        remedies=(remedies.CACHE, remedies.CHEAPER),
        thresholds={"share": SHARE},
    ),
    Rule(
        id="F2",
        family=NETWORKS,
        test=rollout,
        remedies=(remedies.MERGE, remedies.SAMPLER),
        thresholds={"share": SHARE, "calls": SAMPLED},
    ),
)
