"""``loraprof workloads``: the built-in workloads with their size and default arms."""


def workloads() -> None:
    """List the built-in workloads."""
    from rich.console import Console
    from rich.table import Table

    from loraprof.store.specs import list_workloads

    table = Table("name", "what", "adapter", "rank", "batch × seq", "dtype", "arms", box=None, pad_edge=False)
    for spec in list_workloads():
        size = f"{spec.batch} × {spec.seq}"
        table.add_row(spec.name, spec.summary, spec.adapter, str(spec.rank), size, spec.dtype, ", ".join(spec.arms))
    Console().print(table)
