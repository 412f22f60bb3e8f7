"""``loraprof explain [ID]``: a finding's cause, signature, remedy, formula and sources."""

from typing import Annotated

import typer


def explain(id: Annotated[str | None, typer.Argument(help="L2, H1, …; without one, all are listed.")] = None) -> None:
    """Explain a finding."""
    from rich.console import Console

    from loraprof.diagnosis.catalogue import entries, entry
    from loraprof.report.explain import render_explain, render_list

    if id is None:
        render_list(entries(), Console())
    else:
        render_explain(entry(id), Console())
