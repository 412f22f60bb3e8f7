"""A change of a running program, as one object: does it fit here, make it, take it back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loraprof.live_remedies.program import Program
from loraprof.model.finding import RemedyKind

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRemedy:
    """``fits`` gives the reason why it cannot be applied here, None where it can; nothing is changed by asking.

    ``apply`` changes the program between two of its steps and returns what takes the change back. ``text`` is what to
    write in the program where no finding has words for its stack. ``findings`` are the causes it answers.
    ``early`` takes effect before the program starts and returns its undo. ``reorders``: its steps see other samples
    than the unchanged program's. ``lasting``: two steps are too few to tell whether it fits; it harms nothing where it
    does not.
    """

    name: str
    kind: RemedyKind
    text: str
    fits: Callable[[Program], str | None]
    apply: Callable[[Program], Undo]
    findings: tuple[str, ...] = ()
    early: Callable[[], Undo] | None = None
    lasting: bool = False
    reorders: bool = False


def nothing() -> None:
    """The undo of a change that was none."""


def swap(owner: Any, name: str, value: Any) -> Undo:
    """Sets an attribute of an instance, or of a class; the undo restores what it held itself, else takes it off; a
    property is set back."""
    missing = object()
    computed = isinstance(getattr(type(owner), name, None), property)
    before = getattr(owner, name) if computed else vars(owner).get(name, missing)
    setattr(owner, name, value)

    def undo() -> None:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


def all_of(undos: list[Undo]) -> Undo:
    """Takes changes back in the opposite order."""

    def undo() -> None:
        for one in reversed(undos):
            one()

    return undo
