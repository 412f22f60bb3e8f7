"""``loraprof profile``: runs a built-in workload or an unmodified script, records one step, prints the diagnosis."""

import datetime
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from loraprof.cli.output import Format, clean_stdout, refuse_existing, same_folder, say, show_recording
from loraprof.cli.workload_options import workload_options
from loraprof.errors import MeasurementError, UsageError
from loraprof.store.layout import RECORDING
from loraprof.store.places import Place, RemotePath, place_of

if TYPE_CHECKING:
    from loraprof.capture.launch import Launch
    from loraprof.capture.session import Session
    from loraprof.model.recording import Workload


@workload_options
def profile(
    target: Annotated[list[str] | None, typer.Argument(help="A workload, or SCRIPT.py and its arguments.")] = None,
    module: Annotated[bool, typer.Option("-m", help="The target is a module, as for python -m.")] = False,
    skip: Annotated[int, typer.Option(min=1, help="Optimizer steps that pass before anything is measured.")] = 3,
    timed: Annotated[int, typer.Option(min=1, help="Steps timed with nothing attached.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps recorded by the profiler.")] = 3,
    finish: Annotated[bool, typer.Option("--finish", help="Let the script go on afterwards.")] = False,
    record: Annotated[str | None, typer.Option(help="The recording's directory, NAME.loraprof; or a URL.")] = None,
    format: Annotated[Format, typer.Option(help="How to write the report.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the report to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the report and errors.")] = False,
    arm: Annotated[str | None, typer.Option(help="lora, full, frozen, …; also for scripts.")] = None,
    *,
    overrides: dict[str, Any],
) -> int:
    """Profile one training step and explain it."""
    from loraprof.store.specs import workload_names

    builtin = not module and (not target or (target[0] in workload_names()))
    if not builtin and overrides:
        name = next(iter(overrides))
        raise UsageError(f"--{name} is for built-in workloads; {target[0] if target else ''} is a script", None)
    if builtin and target and len(target) > 1:
        raise UsageError(f"{target[0]} is a built-in workload and takes no arguments: {target[1]}", None)
    place = place_of(record) if record else _default_path(target, module)
    if place.suffix != ".loraprof":
        raise UsageError(f"{place}: a recording's name ends in .loraprof", None)
    refuse_existing(place / RECORDING if isinstance(place, RemotePath) else place, force)
    if output is not None and output.suffix == ".loraprof":
        raise UsageError(f"{output}: --output takes the printed report", "--record PATH says where the recording goes")
    refuse_existing(output, force)

    from loraprof.capture.plan import Plan

    plan = Plan(skip=skip, timed=timed, steps=steps, finish=finish)
    with clean_stdout(format is not Format.terminal and output is None):
        if builtin:
            ended = _builtin(target[0] if target else None, overrides, arm or "lora", plan, place, force, quiet)
        else:
            ended = _script(list(target or []), module, arm, plan, place, force, quiet)
    if ended.leaves is not None:
        from loraprof.cli.last_words import LastWords, become

        whole, page = (path.absolute() if isinstance(path, Path) else path for path in (place, output))
        to = str(page) if page else None
        words = LastWords(str(whole), ended.leaves, force, ended.code, format.value, to, quiet)
        become(words)
    if ended.saved:
        show_recording(place, format, output, force, quiet)
    return ended.code


class Ended(NamedTuple):
    """What came of the target. ``saved``: this rank gave the recording its name. ``leaves``: it is still to."""

    code: int
    saved: bool
    leaves: "Launch | None" = None


def _default_path(target: list[str] | None, module: bool) -> Path:
    name = target[0] if target else "default"
    stem = name.rsplit(".", 1)[-1] if module else Path(name).name.removesuffix(".py")
    from loraprof.capture.launch import launch

    now, own = datetime.datetime.now(), launch()
    if own.world > 1:  # a name all ranks agree on
        now = datetime.datetime.fromtimestamp(own.began_s)
    if not own.one_machine:
        raise UsageError("ranks on several machines need a common place", "--record PATH_OR_URL that all of them see")
    return Path(f"{stem}-{now:%Y%m%d-%H%M%S}.loraprof")


def _builtin(
    name: str | None, overrides: dict[str, Any], arm: str, plan: Any, place: Place, force: bool, quiet: bool
) -> Ended:
    import torch

    from loraprof.capture.memory import enough_memory, memory_plan, require_room
    from loraprof.capture.session import Session
    from loraprof.model.recording import Workload
    from loraprof.store.specs import default_workload, load_workload
    from loraprof.workloads.build import build
    from loraprof.workloads.models import torch_device, weights_nbytes

    spec = load_workload(name or default_workload("cuda" if torch.cuda.is_available() else "cpu"), overrides)
    say(f"building {spec.name} ({spec.summary}), arm {arm}", quiet)
    require_room("the weights", weights_nbytes(spec), torch_device(spec))
    with enough_memory():
        built = build(spec, arm)
    cuda = built.device.type == "cuda"
    say(f"{plan.sentence(cuda)}; {memory_plan(built.model, built.optimizer, built.device)}", quiet)
    session = Session(plan, lambda: None, lambda ns, done: say(plan.pace(ns, done, cuda), quiet))
    session.install()
    try:
        with enough_memory():
            while not session.done and session.failure is None:
                built.step()
    finally:
        session.remove()
    if session.failure is not None:
        raise session.failure
    options = {f: getattr(spec, f) for f in spec.__struct_fields__ if f not in ("config", "summary", "arms")}
    options["targets"] = list(spec.targets)
    workload = Workload(
        name=spec.name,
        kind="builtin",
        argv=[spec.name],
        arm=arm,
        options=options,
        tokens_per_step=built.tokens_per_step,
        micro_batches=spec.accumulate,
        autocast=spec.autocast,
        checkpointing=spec.checkpointing,
        grad_clip=spec.clip is not None,
    )
    return Ended(0, _save(session, workload, place, force, quiet))


def _script(
    target: list[str], module: bool, arm: str | None, plan: Any, place: Place, force: bool, quiet: bool
) -> Ended:
    from loraprof.capture.launch import launch
    from loraprof.capture.save_rank import PartLost, absent, leave_behind
    from loraprof.capture.script import check_script, explain_missing, run_script, stop_script
    from loraprof.capture.script_arm import ScriptArm
    from loraprof.capture.session import Session
    from loraprof.model.recording import Workload

    def on_done() -> None:
        if not plan.finish:
            stop_script()

    own = launch()
    silent = quiet or own.rank > 0

    def on_pace(step_ns: int, done: int) -> None:
        say(plan.pace(step_ns, done, session.device.type == "cuda"), silent)

    if module and not target:
        raise UsageError("-m needs a module to run", "loraprof profile -m package.module [ARGS]")
    if not module:
        check_script(target[0])
    say(plan.sentence(False), silent)
    session = Session(plan, on_done, on_pace)
    changed = ScriptArm(arm) if arm else None
    if changed is not None:
        changed.install()
    session.install()
    several = own.world > 1
    if several:  # torchrun ends the survivors of a dead rank: what is recorded by then is kept
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with same_folder():
            code = run_script(target, module)
    except KeyboardInterrupt:
        if not session.done:
            raise
        code = 130  # the recording was complete before
    finally:
        if several:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        session.remove()
        if changed is not None:
            changed.remove()
    if changed is not None and changed.refusal is not None:
        raise changed.refusal
    if session.failure is not None:
        raise session.failure
    if not session.done and not (several and session.salvaged):
        missing = explain_missing(session.steps, plan.total(False))
        if several:
            absent(place, force, f"its script exited with code {code}" if code else missing.message)
        if code:
            say(f"the script exited with code {code} before the recording was complete; nothing was written", quiet)
            raise typer.Exit(code)
        raise missing
    if session.profiler is None:
        raise MeasurementError("the profiler did not start", None)
    workload = Workload(name=Path(target[0]).name, kind="script", argv=target, arm=arm)
    try:
        if not session.done:
            return Ended(code, False, leave_behind(session, workload, place, force, lambda text: say(text, quiet)))
        return Ended(code, _save(session, workload, place, force, quiet))
    except MeasurementError as error:
        if not (plan.finish or code or isinstance(error, PartLost)):
            raise
        say(f"{error.message}; the script keeps its exit code {code}")
        return Ended(code, False)


def _save(session: "Session", workload: "Workload", place: Place, force: bool, quiet: bool) -> bool:
    """False on a rank that does not lead."""
    from loraprof.capture.launch import launch
    from loraprof.capture.save import save
    from loraprof.capture.save_rank import save_rank

    def progress(text: str) -> None:
        say(text, quiet)

    if isinstance(place, RemotePath) or launch().world > 1:
        return save_rank(session, workload, place, force, progress)
    save(session, workload, place, force, progress)
    return True
