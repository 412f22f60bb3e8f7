"""What dynamo counts over the same steps without and with loraprof attached: ``python dynamo_counts.py WAY…``.

Prints JSON, per way without and with: counts at the end of the recording and a few steps later. One of the profiled
steps sees another batch, so it compiles.
"""

import json
import sys

import torch._dynamo.utils
from scripts.compiled import TOKENS, main

from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session

PLAN = Plan(skip=2, timed=2, warmup=2, steps=3)
CHANGED = PLAN.total(False) - 2  # the second profiled step


def counts() -> dict[str, int]:
    counters = torch._dynamo.utils.counters
    return {
        "frames": counters["frames"]["total"],
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "continuations": sum(counters["resumes"].values()),
    }


def run(way: str, attached: bool) -> list[dict[str, int]]:
    """Counts at the end of the recording, and a few steps later."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    session = Session(PLAN, lambda: None)
    if attached:
        session.install()
    step = main(way, "eager")
    for i in range(PLAN.total(False)):
        step(TOKENS - 1 if i == CHANGED else TOKENS)
    assert session.done == attached
    out = [counts()]
    step(TOKENS)
    session.remove()
    for _ in range(3):
        step(TOKENS)
        step(TOKENS - 1)
    return [*out, counts()]


print(json.dumps({way: [run(way, False), run(way, True)] for way in sys.argv[1:]}))
