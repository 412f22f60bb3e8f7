"""Whose option is it? loraprof's options come before the target, the script's after it (decided by the target).

After a built-in workload's name or a recording loraprof's own options may follow too, since neither takes any.
"""

from typing import Any

from typer.core import TyperCommand

from loraprof.store.specs import workload_names

RECORDING = ".loraprof"
TRACES = (".json", ".json.gz")
COMMAND = "--command"  # said by ``--`` as well


def is_recording(word: str) -> bool:
    """By its name; a shell completes a directory with a slash."""
    return word.rstrip("/").endswith(RECORDING)


class TargetCommand(TyperCommand):
    """Reads what follows a workload or a recording as loraprof's options; leaves a script's arguments alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        target = self.make_parser(ctx).parse_args(list(args))[0].get("target")
        if target and (target[0] in workload_names() or is_recording(target[0])):
            ctx.allow_interspersed_args = True
        return super().parse_args(ctx, args)


class ProfileCommand(TargetCommand):
    """What follows ``--`` is a command of its own, with everything that belongs to it."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        target = self.make_parser(ctx).parse_args(list(args))[0].get("target") or ()
        dashes = len(args) - len(target) - 1
        if target and dashes >= 0 and args[dashes] == "--":
            args = [*args[:dashes], COMMAND, *args[dashes:]]
        return super().parse_args(ctx, args)
