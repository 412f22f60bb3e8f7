"""``loraprof workloads``: the built-in workloads with their size and default arms."""


def workloads() -> None:
    """List the built-in workloads."""
    from rich.console import Console
    from rich.table import Table

    from loraprof.store.specs import list_workloads

    table = Table(box=None, pad_edge=False)
    for title in ("name", "batch × seq", "dtype", "arms"):  # to be copied: never cut
        table.add_column(title, no_wrap=True)
    table.add_column("what", overflow="fold")
    for spec in list_workloads():
        table.add_row(spec.name, f"{spec.batch} × {spec.seq}", spec.dtype, ",".join(spec.arms), spec.summary)
    Console(highlight=False).print(table)
