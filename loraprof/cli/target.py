"""Whose option is it? loraprof's options come before the target, the script's after it (decided by the target).

After a built-in workload's name loraprof's own options may follow too, since a workload takes none.
"""

from typing import Any

from typer.core import TyperCommand

from loraprof.store.specs import workload_names


class TargetCommand(TyperCommand):
    """Moves what follows a built-in workload's name in front of it; leaves a script's arguments alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        _, left, _ = self.make_parser(ctx).parse_args(list(args))
        if left and left[0] in workload_names():
            front = args[: len(args) - len(left)]
            args = [*front, *left[1:], left[0]]
        return super().parse_args(ctx, args)
