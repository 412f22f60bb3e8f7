"""What is something worth in a step, and how is that known? Unprofiled ns with their range and basis."""

from dataclasses import dataclass, replace

from loraprof.model.report import GainBasis


@dataclass(frozen=True, slots=True)
class Assumed:
    """What a remedy takes away of a cause, as a range of shares that comes from elsewhere; ``source`` says from
    where."""

    low: float
    likely: float
    high: float
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.likely < self.high:
            raise ValueError(f"an assumed range needs a width: {self}")


@dataclass(frozen=True, slots=True)
class Worth:
    """Unprofiled ns of one step, and how they are known. ``bounded``: ``low`` and ``high`` already hold the error of
    the estimate, not its inputs' spread alone."""

    ns: float
    low: float
    high: float
    basis: GainBasis = "model"
    source: str | None = None
    bounded: bool = False

    def times(self, factor: float) -> "Worth":
        """A share that this recording gives."""
        return replace(self, ns=self.ns * factor, low=self.low * factor, high=self.high * factor)

    def share(self, part: Assumed) -> "Worth":
        """A share that it does not."""
        ends = self.ns * part.likely, self.low * part.low, self.high * part.high
        return Worth(*ends, basis="assumed", source=part.source)

    def plus(self, more: "Worth") -> "Worth":
        return replace(self, ns=self.ns + more.ns, low=self.low + more.low, high=self.high + more.high)

    def between(self, low: "Worth", high: "Worth") -> "Worth":
        """With the ends of two others."""
        return replace(self, low=min(self.low, low.low), high=max(self.high, high.high))

    @property
    def at_most(self) -> "Worth":
        """Where something else may take the place of what goes."""
        return replace(self, low=0.0)
