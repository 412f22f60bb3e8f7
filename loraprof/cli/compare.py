"""``loraprof compare``: arms of one workload or script, interleaved, or recordings against the first of them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from loraprof.analysis.comparison import failures, parse_threshold
from loraprof.cli.output import Format, emit, refuse_existing, say
from loraprof.cli.target import RECORDING
from loraprof.cli.workload_options import workload_options
from loraprof.errors import ThresholdError, UsageError


@workload_options
def compare(
    target: Annotated[
        list[str] | None, typer.Argument(help="A workload, SCRIPT.py and its arguments, or two recordings.")
    ] = None,
    fail_on: Annotated[str | None, typer.Option(help="'slower>3%': exit 3 where surely missed.")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare recordings of different workloads.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How to write the comparison.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the comparison and errors.")] = False,
    *,
    overrides: dict[str, Any],
) -> int:
    """Compare arms, or recordings."""
    limit = parse_threshold(fail_on) if fail_on else None
    refuse_existing(output, force)
    paths = [Path(word) for word in target or () if word.endswith(RECORDING)]
    if not paths:
        raise UsageError("name two recordings", "loraprof compare BASE.loraprof NEW.loraprof")
    foreign = [word for word in target or () if not word.endswith(RECORDING)] + [f"--{name}" for name in overrides]
    if foreign:
        raise UsageError(f"recordings are compared as they are, {foreign[0]} does not fit", None)
    from loraprof.diagnosis.recorded import compare_recordings

    result = compare_recordings(paths, allow_different)
    missed = failures(result, limit) if limit is not None else None
    emit(replace(result, missed=missed), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)
    if missed:
        raise ThresholdError(f"--fail-on {fail_on}: {missed}", None)
    return 0
