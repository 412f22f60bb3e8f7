"""``loraprof profile SCRIPT.py``: runs it unmodified under a session and saves what was recorded.

The script's exit code stands above all: a recording that could not be written does not change it.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn

import typer

from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.launch import launch
from loraprof.capture.ranks.save_rank import PartLost, absent, leave_behind
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.recording import Workload
from loraprof.report.output import same_folder, say
from loraprof.runs.profile.order import Ended, Order
from loraprof.runs.profile.run_script import check_script, explain_missing, run_script, stop_script
from loraprof.runs.profile.script_arm import ScriptArm


def profile_script(target: list[str], module: bool, order: Order) -> Ended:
    """``target`` is the script, or the module's name, and its arguments. Raises UsageError, MeasurementError."""
    if module and not target:
        raise UsageError("-m needs a module to run", "loraprof profile -m package.module [ARGS]")
    if not module:
        check_script(target[0])
    own = launch()
    silent = order.quiet or own.rank > 0
    say(order.plan.sentence(False), silent)

    def on_done() -> None:
        if not order.plan.finish:
            stop_script()

    def on_pace(step_ns: int, done: int) -> None:
        say(order.plan.pace(step_ns, done, session.device.type == "cuda"), silent)

    session = Session(order.plan, on_done, on_pace)
    several = own.world > 1
    code = _run(session, target, module, order, several)
    if not session.done and not (several and session.salvaged):
        _incomplete(session, code, order)
    if session.profiler is None:
        raise MeasurementError("the profiler did not start", None)
    workload = Workload(name=Path(target[0]).name, kind="script", argv=target, arm=order.arm)
    try:
        if several and (code or not session.done):  # the job falls apart
            return Ended(code, False, leave_behind(session, workload, order.place, order.force, order.say))
        return Ended(code, order.saved(session, workload))
    except MeasurementError as error:
        if not (order.plan.finish or code or isinstance(error, PartLost)):
            raise
        say(f"{error.message}; the script keeps its exit code {code}")
        return Ended(code, False)


def _run(session: Session, target: list[str], module: bool, order: Order, several: bool) -> int:
    """The script's exit code, with everything attached removed again. Raises what the session or the arm refused."""
    changed = ScriptArm(order.arm) if order.arm else None
    if changed is not None:
        changed.install()
    session.install()
    if several:  # torchrun ends the survivors of a dead rank: what is recorded by then is kept
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with same_folder():
            code = run_script(target, module, keep=several)
    except KeyboardInterrupt:
        if not session.done:
            raise
        code = 130  # the recording was complete before
    finally:
        if several:  # from here on it only says that the others will not come
            signal.signal(signal.SIGTERM, order.patience.shorten)
        session.remove()
        if changed is not None:
            changed.remove()
    if changed is not None and changed.refusal is not None:
        raise changed.refusal
    if session.failure is not None:
        raise session.failure
    return code


def _incomplete(session: Session, code: int, order: Order) -> NoReturn:
    """Too few steps: leaves with the script's own code where it failed, else raises the reason."""
    own, missing = launch(), explain_missing(session.steps, order.plan.total(False))
    who = f"rank {own.rank}: " if own.world > 1 else ""
    if own.world > 1:
        absent(order.place, order.force, f"its script exited with code {code}" if code else missing.message)
    if not code:
        raise MeasurementError(f"{who}{missing.message}", missing.hint)
    order.say(f"{who}the script exited with code {code} before the recording was complete; nothing was written")
    raise typer.Exit(code)
