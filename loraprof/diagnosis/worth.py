"""What is something worth in a step, and how is that known? Unprofiled ns with their range and basis."""

from msgspec import Struct
from msgspec.structs import replace

from loraprof.analysis.step.unprofiled import Floats
from loraprof.model.finding import Gain, GainBasis
from loraprof.model.trace import Bool


class Assumed(Struct, frozen=True):
    """What a remedy takes away of a cause, as a range of shares that comes from elsewhere; ``source`` says from
    where."""

    low: float
    likely: float
    high: float
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.likely < self.high:
            raise ValueError(f"an assumed range needs a width: {self}")


class Taken(Struct, frozen=True, eq=False):
    """What goes of the reported step, as shares per ledger entry: ``time`` of the entry's own, and ``launch`` of the
    idle time in front of a busy one."""

    time: Floats
    launch: Floats

    def times(self, factor: float) -> "Taken":
        return Taken(self.time * factor, self.launch * factor)

    def plus(self, more: "Taken") -> "Taken":
        return Taken(self.time + more.time, self.launch + more.launch)


class HostEdit(Struct, frozen=True, eq=False):
    """What changes of the replayed launches: flagged records that follow each other are ``merged`` into one, and the
    host takes a ``share`` of its time."""

    merged: Bool | None = None
    share: float = 1.0


Edit = Taken | HostEdit


class Worth(Struct, frozen=True):
    """Unprofiled ns of one step, and how they are known. ``edit``: the change to the step that gives ``ns``, where one
    does. ``bounded``: ``low`` and ``high`` already hold the error of the estimate, not its inputs' spread alone."""

    ns: float
    low: float
    high: float
    basis: GainBasis = "model"
    source: str | None = None
    edit: Edit | None = None
    bounded: bool = False

    def times(self, factor: float) -> "Worth":
        """A share that this recording gives."""
        edit = self.edit.times(factor) if isinstance(self.edit, Taken) else None
        return replace(self, ns=self.ns * factor, low=self.low * factor, high=self.high * factor, edit=edit)

    def share(self, part: Assumed) -> "Worth":
        """A share that it does not."""
        scaled = self.times(part.likely)
        return replace(scaled, low=self.low * part.low, high=self.high * part.high, basis="assumed", source=part.source)

    def plus(self, more: "Worth") -> "Worth":
        one, two = self.edit, more.edit
        edit = one.plus(two) if isinstance(one, Taken) and isinstance(two, Taken) else None
        return replace(self, ns=self.ns + more.ns, low=self.low + more.low, high=self.high + more.high, edit=edit)

    def between(self, low: "Worth", high: "Worth") -> "Worth":
        """With the ends of two others."""
        return replace(self, low=min(self.low, low.low), high=max(self.high, high.high))

    def give_or_take(self, ns: float) -> "Worth":
        """With a range of at least ``ns`` to either side."""
        return replace(self, low=min(self.low, self.ns - ns), high=max(self.high, self.ns + ns))

    @property
    def at_most(self) -> "Worth":
        """Where something else may take the place of what goes."""
        return replace(self, low=0.0)


def gained(step_ns: int, saved: Worth) -> Gain:
    """The speed-up of a step of ``step_ns`` by what is saved (a loss where negative); none goes beyond 20."""

    def speedup(ns: float) -> float:
        return step_ns / max(step_ns - min(ns, 0.95 * step_ns), 1.0)

    return Gain(
        ns=round(saved.ns),
        speedup=speedup(saved.ns),
        low=speedup(saved.low),
        high=speedup(saved.high),
        basis=saved.basis,
        source=saved.source,
    )
