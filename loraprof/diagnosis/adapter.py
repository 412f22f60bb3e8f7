"""L findings: what the adapter path itself costs."""

from loraprof.diagnosis.case import Case, evidence, gain
from loraprof.model.report import Finding


def dropout(case: Case) -> Finding | None:
    """L4: dropout inside the adapter streams a mask and a copy of the full activation, both ways."""
    probability = max((s.dropout for s in case.sites), default=0.0)
    rows = [
        k
        for k in case.kernels
        if k.role == "adapter.elementwise" and k.op and ("dropout" in k.op or "bernoulli" in k.op)
    ]
    spent = sum(k.total_ns for k in rows)
    if probability <= 0 or not spent:
        return None
    saved = spent * case.scale
    return Finding(
        id="L4",
        severity="major" if spent > 0.05 * case.wall_ns else "minor",
        title="Adapter dropout streams the full activation",
        evidence=[
            evidence("dropout probability", probability),
            evidence("dropout ops in the adapter", sum(k.count for k in rows), "ops"),
            evidence("their busy time", spent, "ns"),
        ],
        remedy="LoraConfig(lora_dropout=0.0); loraprof compare --arms lora,lora-nodropout shows the gain",
        gain=gain(case, saved, 0.8 * saved, 1.5 * saved),
        see=["axolotl-ai-cloud/axolotl#2324"],
    )


ADAPTER = (dropout,)
