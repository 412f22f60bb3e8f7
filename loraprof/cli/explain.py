"""``loraprof explain [ID | WORD]``: a finding, with remedy and sources, or a word of the pages."""

from typing import Annotated

import typer

from loraprof.cli.light import light, load_arrays


def explain(
    id: Annotated[
        str | None, typer.Argument(help="L2, H1, …, or a word of a page; without one, all are listed.")
    ] = None,
) -> None:
    """Explain a finding or a word."""
    with light():
        from rich.console import Console

        from loraprof.diagnosis.glossary import term
        from loraprof.report.explain import render_explain, render_list, render_term

        if (found := term(id or "")) is not None:
            render_term(found, Console())
            return
        load_arrays()
        from loraprof.diagnosis.judge import RULES, rule_named

        if id is None:
            render_list(list(RULES.values()), Console())
        else:
            render_explain(rule_named(id).entry, Console())
