"""A change that may help, as one object: of what kind, in which words, where it fits, and what it is worth."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from string import Template
from typing import Any, Final

from msgspec import Struct

from loraprof.diagnosis.case import NOTHING, Case, gain
from loraprof.diagnosis.stack import Stack, stacks
from loraprof.diagnosis.worth import Assumed, Worth
from loraprof.model.finding import RemedyKind, RemedyReport
from loraprof.model.recording import Workload

Values = Mapping[str, Any]
Saved = Callable[[Case, Values], Worth | None]
COMPARED: Final = ("lora-fused", "lora-bf16", "lora-nodropout", "lora-qv", "full")  # arms of ``loraprof compare``
ORDER: Final[tuple[RemedyKind, ...]] = ("same_training", "numerics", "data", "hardware", "other_training")


class Remedy(Struct, frozen=True, kw_only=True):
    """``text`` by what the script is built on; ``$name`` in it is a value of the rule's test. A remedy without words
    for this script, or that does not fit it, is not printed. ``arm``: what ``loraprof fix`` or
    ``loraprof compare`` calls the change.

    ``offered``: whether ``loraprof fix`` can make it in this program; the words stand without it.

    ``saved``: what the change takes off the step, from this recording; None: what the rule's test saw goes as a whole.
    ``assumed``: only a part of that goes, in a range that is not of this recording.
    """

    kind: RemedyKind
    text: Mapping[Stack, str]
    arm: str | None = None
    offered: Callable[[Case], bool] | None = None
    fits: Callable[[Case, Values], bool] | None = None
    saved: Saved | None = None
    assumed: Assumed | None = None

    def suits(self, case: Case, values: Values) -> bool:
        """Whether there are words for this script, and the change fits it."""
        return self._stack(case) is not None and (self.fits is None or self.fits(case, values))

    def report(self, case: Case, values: Values, whole: Worth | None) -> RemedyReport:
        """``whole``: what the cause costs. Of a remedy that suits."""
        stack = self._stack(case)
        assert stack is not None
        saved = self.worth(case, values, whole)
        return RemedyReport(
            kind=self.kind,
            stack=stack,
            text=Template(self.text[stack]).substitute(values),
            arm=self.arm if self.offered is None or self.offered(case) else None,
            gain=gain(case, saved) if saved is not None else None,
        )

    def pays(self, case: Case, values: Values, whole: Worth | None) -> bool:
        """False where what it saves is known and next to nothing, however steady the steps are; what a cause costs that
        the profiled steps do not show is not known."""
        saved, unprofiled = self.worth(case, values, whole), case.timing.unprofiled
        if saved is None or unprofiled is None or (self.saved is None and saved.ns <= 0):
            return True
        return saved.ns >= NOTHING * unprofiled.median_ns

    def _stack(self, case: Case) -> Stack | None:
        return next((s for s in stacks(case) if s in self.text), None)

    def worth(self, case: Case, values: Values, whole: Worth | None) -> Worth | None:
        """What the change takes off the step, of a cause that costs ``whole``; None unknown."""
        saved = self.saved(case, values) if self.saved else whole
        return saved.share(self.assumed) if saved is not None and self.assumed is not None else saved


def unknown(case: Case, values: Values) -> None:
    """The ``saved`` of a remedy whose gain no recording tells."""


def in_order(remedies: Sequence[RemedyReport]) -> list[RemedyReport]:
    """Those that keep the training as it is first; of a kind by what they gain."""
    return sorted(remedies, key=lambda r: (ORDER.index(r.kind), -r.gain_ns))


def compare_command(case: Case, arms: Sequence[str]) -> str | None:
    """What to type to measure these arms against this one; None where it would be refused.

    A script has no arms but the full one, for adapters that PEFT can bypass, in one process and without a gradient
    scaler.
    """
    w = case.workload
    if w is None or case.recording is None:
        return None
    if w.kind != "builtin":
        several = case.recording.environment.world_size > 1
        scaled = any(p.dtype == "float16" for p in case.recording.parameters)
        quantised = any("int" in p.dtype for p in case.recording.parameters)
        if list(arms) != ["full"] or not case.peft or several or scaled or quantised:
            return None
    return f"loraprof compare --arms lora,{','.join(arms)} {target(case)}"


def target(case: Case) -> str:
    """The workload or script as it is typed."""
    return (case.workload and typed(case.workload)) or "SCRIPT"


def typed(work: Workload) -> str | None:
    """Quoted as a shell needs it; None where it is not known."""
    if work.kind == "builtin" or not work.argv:
        return work.name if work.kind == "builtin" else None
    return f"{'' if work.argv[0].endswith('.py') else '-m '}{shlex.join(work.argv)}"
