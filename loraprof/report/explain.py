"""What does a finding mean, and what helps? A catalogue entry, or the list of all, on a terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from loraprof import units
from loraprof.diagnosis.catalogue import Entry
from loraprof.diagnosis.glossary import Term
from loraprof.diagnosis.rule import Rule
from loraprof.report.terminal.render import fact_lines, page_width, print_lines, wrapped
from loraprof.report.terminal.text import DIM

_EVIDENCE = {
    "measured": "measured elsewhere, in a public source",
    "asserted": "asserted by a maintainer or a document",
    "derived": "derived from the cost model",
    "unverified": "plausible, not verified",
}


def render_explain(entry: Entry, console: Console) -> None:
    """Cause, signature, remedy, formula, gain and sources of one finding."""
    print_lines(_entry_lines(entry, page_width(console)), console)


def render_list(rules: Sequence[Rule], console: Console) -> None:
    """Every id with its title, by family."""
    print_lines(_list_lines(rules, page_width(console)), console)


def render_term(term: Term, console: Console) -> None:
    """A word of the glossary."""
    width = page_width(console)
    print_lines(iter([*wrapped(", ".join(term.words), width, "bold"), *wrapped(term.text, width)]), console)


def _entry_lines(entry: Entry, width: int) -> Iterator[Text]:
    yield from wrapped(f"{entry.id}  {entry.title}", width, "bold")
    yield Text()
    facts = [
        ("cause", entry.cause),
        ("signature", entry.signature),
        ("remedy", entry.remedy),
        ("formula", entry.formula or ""),
        ("seen", entry.gain),
        ("evidence", _EVIDENCE[entry.evidence]),
        ("sources", ", ".join(entry.sources)),
    ]
    for label, text in facts:
        if text:
            yield from fact_lines([(label.ljust(9), text)], width)


def _list_lines(rules: Sequence[Rule], width: int) -> Iterator[Text]:
    yield from wrapped(f"{units.count(len(rules))} known causes; loraprof explain ID tells more", width, "bold")
    for family in dict.fromkeys(rule.family for rule in rules):
        yield Text()
        yield Text(family.title, DIM)
        for rule in rules:
            if rule.family is family:
                yield Text(f"  {rule.id:<5}{rule.entry.title}")
