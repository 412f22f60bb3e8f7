"""A change that may help, as one object: of what kind, in which words, and which arm makes it in process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loraprof.diagnosis.case import Case
from loraprof.model.report import Gain, RemedyKind, RemedyReport

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """``text`` is made of the case and of what the rule's test hands over. ``arm``: see ``loraprof compare``."""

    kind: RemedyKind
    text: Callable[[Case, Values], str]
    arm: str | None = None

    def report(self, case: Case, values: Values, gain: Gain | None) -> RemedyReport:
        return RemedyReport(kind=self.kind, stack="plain", text=self.text(case, values), arm=self.arm, gain=gain)


LARGER_BATCH = "a micro-batch twice as large (per_device_train_batch_size)"


def words(text: str) -> Callable[[Case, Values], str]:
    """The same in every case."""
    return lambda case, values: text


def check(case: Case, arm: str) -> str:
    """The command that measures what the remedy ``arm`` gains; scripts have no arms but the full one."""
    w = case.workload
    if w is None or (w.kind != "builtin" and arm != "full"):
        return ""
    target = w.name if w.kind == "builtin" else " ".join(w.argv)
    return f"; loraprof compare --arms lora,{arm} {target} measures it"


def compile_call(case: Case, options: str = "") -> str:
    """What to type to compile this model; PEFT's adapters are put on it first."""
    return f"torch.compile({'get_peft_model(model, config)' if case.peft else 'model'}{options})"


def compiling(case: Case, before: str = "", after: str = "") -> str:
    """The advice to compile this model, between words that only go with it; none where something is compiled."""
    return "" if case.compiled else f"{before}{compile_call(case)}{after}"


def without_dropout(case: Case, joint: str = "") -> str:
    """The advice to drop dropout, after ``joint``, where an adapter has any."""
    if not any(site.dropout for site in case.sites):
        return ""
    return joint + ("lora_dropout=0.0" if case.peft else "no dropout before A")
