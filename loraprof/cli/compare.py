"""``loraprof compare``: arms of one workload or script, interleaved, or recordings against the first of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec.structs import replace

from loraprof.cli.light import light, load_arrays
from loraprof.cli.posix import needs_posix
from loraprof.cli.quantities import parse_bytes, parse_duration_ns
from loraprof.cli.target import TRACES, is_recording
from loraprof.cli.workload_options import workload_options
from loraprof.errors import InputError, MeasurementError, ThresholdError, UsageError
from loraprof.model.compare import Comparison
from loraprof.report.output import Format, clean_stdout, emit, refuse_existing, say, terminable

BUDGET: Final = "60s"


@workload_options
def compare(
    target: Annotated[
        list[str] | None, typer.Argument(help="A workload, SCRIPT.py and its arguments, or two recordings.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", help="The target is a module, as for python -m.")] = False,
    arms: Annotated[
        str | None, typer.Option(help="full,frozen,lora,… (`loraprof workloads`); the first is the base.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Time for the timing itself: 120s, 2m; 60s if left out.")] = None,
    quality: Annotated[int | None, typer.Option(min=1, help="Also train each arm so many steps, three seeds.")] = None,
    iso_memory: Annotated[str | None, typer.Option(help="80GiB: also each arm's largest batch within it.")] = None,
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
    from loraprof.comparison.ratios import failures, parse_threshold

    limit = parse_threshold(fail_on) if fail_on else None
    refuse_existing(output, force)
    words = list(target or ())
    own_options = {"--arms": arms, "-m": module, "--quality": quality, "--iso-memory": iso_memory, "--budget": budget}
    with clean_stdout(format is not Format.terminal and output is None):
        if any(map(is_recording, words[:1])):
            result = _recordings(
                words, [flag for flag, value in own_options.items() if value], overrides, allow_different
            )
        else:
            needs_posix()
            if allow_different:
                raise UsageError("--allow-different is for recordings, the arms of one command do the same work")
            budget_ns = parse_duration_ns(budget or BUDGET)
            extras = {"quality": quality, "iso-memory": parse_bytes(iso_memory) if iso_memory else None}
            with terminable():
                result = _arms(words, module, arms, overrides, budget_ns, extras, lambda text: say(text, quiet))
    missed = failures(result, limit) if limit is not None else None
    emit(replace(result, missed=missed), format, output, force)
    if output is not None:
        say(f"wrote {output}", quiet)
    if not result.ratios:
        reasons = "; ".join(f"{name} is {arm.status}: {arm.reason}" for name, arm in result.arms.items() if arm.reason)
        raise MeasurementError(f"there is nothing to compare: {reasons}", None)
    if missed:
        raise ThresholdError(f"--fail-on {fail_on}: {missed}", None)
    return 0


def _recordings(words: list[str], flags: list[str], overrides: dict[str, Any], allow_different: bool) -> Comparison:
    foreign = [word for word in words if not is_recording(word)] + flags + [f"--{name}" for name in overrides]
    if foreign:
        what = f"only recordings are compared with a recording, and nothing is run: {foreign[0]} does not fit"
        raise UsageError(what, "loraprof compare BASE.loraprof NEW.loraprof")
    with light():
        load_arrays()
        from loraprof.comparison.recordings import compare as compare_recordings

        return compare_recordings(*words, allow_different=allow_different)


def _arms(
    words: list[str],
    module: bool,
    arms: str | None,
    overrides: dict[str, Any],
    budget_ns: int,
    extras: dict[str, int | None],
    progress: Callable[[str], None],
) -> Comparison:
    from loraprof.store.specs import default_workload, load_workload, workload_names

    script = module or (bool(words) and words[0] not in workload_names())
    if script:
        if words and words[0].endswith(TRACES):
            raise InputError(f"{words[0]}: a trace has no unprofiled step times", "compare NAME.loraprof recordings")
        if alien := [name for name, value in {**extras, **overrides}.items() if value is not None]:
            raise UsageError(f"--{alien[0]} is for built-in workloads; {words[0] if words else ''} is a script", None)
    elif len(words) > 1:
        raise UsageError(f"{words[0]} is a built-in workload and takes no arguments: {words[1]}", None)
    from loraprof.capture.device.kinds import default_device
    from loraprof.runs.compare.arms import arm_names, compare_builtin, compare_script
    from loraprof.runs.compare.extras import Extras
    from loraprof.workloads.apply import SCRIPT_ARMS

    if script:
        return compare_script(words, module, arm_names(arms, SCRIPT_ARMS, True), budget_ns, progress)
    name = words[0] if words else default_workload(default_device().type)
    spec = load_workload(name, overrides)
    prices = Extras(extras["quality"], extras["iso-memory"])
    return compare_builtin(spec, arm_names(arms, spec.arms, False), overrides, budget_ns, prices, progress)
