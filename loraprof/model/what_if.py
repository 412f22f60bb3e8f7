"""What sets of changes would give together."""

from msgspec import Struct

from loraprof.model.finding import GainBasis, RemedyKind


class Choice(Struct, frozen=True):
    """A change of the finding ``id``; ``apart`` says why it is not combined with others, None where it is."""

    id: str
    title: str
    kind: RemedyKind
    text: str
    apart: str | None


class Outcome(Struct, frozen=True):
    """The step with a set of changes, ns, and how much faster it is, at least and at most."""

    step_ns: int
    speedup: float
    low: float
    high: float
    basis: GainBasis | None


class WhatIf(Struct, frozen=True):
    """``outcomes[m]``: with the changes whose bits ``m`` has, bit i for ``choices[i]``; ``alone`` are combined with
    none, and their outcomes their own."""

    choices: list[Choice]
    outcomes: list[Outcome]
    alone: list[tuple[Choice, Outcome]]
