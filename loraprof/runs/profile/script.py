"""``loraprof profile SCRIPT.py``: runs it unmodified under a session and saves what was recorded.

The script's exit code stands above all: a recording that could not be written does not change it.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import typer

from loraprof.capture.passes.progress import Progress
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.launch import launch
from loraprof.capture.ranks.write import PartLost, Writer
from loraprof.errors import MeasurementError, UsageError, misplaced
from loraprof.model.recording import Workload
from loraprof.report.output import same_folder, say
from loraprof.runs.profile.order import Ended, Order
from loraprof.runs.profile.remedy_arm import arm_of
from loraprof.runs.profile.run_script import check_script, explain_missing, run_script, stop_main_thread
from loraprof.text import without_secrets


def profile_script(target: list[str], module: bool, order: Order) -> Ended:
    """``target`` is the script, or the module's name, and its arguments. Raises UsageError, MeasurementError."""
    if module and not target:
        raise UsageError("-m needs a module to run", "loraprof profile -m package.module [ARGS]")
    if not module:
        check_script(target[0])
    own, writer = launch(), order.writer()
    several, silent = own.world > 1, order.quiet or own.rank > 0
    say(order.plan.sentence(False), silent)
    done = (lambda: None) if order.plan.finish else stop_main_thread
    session = Session(order.plan, done, lambda text: say(text, silent), Progress(None if silent else sys.stderr))
    with _torn_down(order) if several else nullcontext():
        code = run_watched(session, target, module, order.arm, keep=several)
    if session.recorded is None:
        _incomplete(session, code, order, writer, misplaced(code, target[1:]))
    workload = Workload(name=Path(target[0]).name, kind="script", argv=without_secrets(target), arm=order.arm)
    try:
        if several and (code or not session.done):  # the job falls apart
            return Ended(code, False, writer.leave_behind(session, workload))
        return Ended(code, writer.write(session, workload))
    except MeasurementError as error:
        if not (order.plan.finish or code or isinstance(error, PartLost)):
            raise
        say(f"{error.message}; the script keeps its exit code {code}")
        return Ended(code, False)


def run_watched(session: Session, target: list[str], module: bool, arm: str | None, keep: bool = False) -> int:
    """The script's exit code, with everything attached removed again. Raises what the session or the arm refused."""
    changed = arm_of(arm) if arm else None
    with changed or nullcontext(), session:
        try:
            with same_folder():
                code = run_script(target, module, keep)
        except KeyboardInterrupt:
            if not session.done:
                raise
            code = 130  # the recording was complete before
    if changed is not None and changed.refusal is not None:
        raise changed.refusal
    if session.failure is not None:
        raise session.failure
    return code


@contextmanager
def _torn_down(order: Order) -> Iterator[None]:
    """torchrun ends the survivors of a dead rank: what is recorded by then is kept. A forked child just ends."""
    process = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() == process:
            order.patience.shorten()
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:  # from here on it only says that the others will not come
        if os.getpid() == process:
            signal.signal(signal.SIGTERM, order.patience.shorten)


def _incomplete(session: Session, code: int, order: Order, writer: Writer, hint: str | None) -> NoReturn:
    """Too few steps: leaves with the script's own code where it failed, else raises the reason."""
    own, missing = launch(), explain_missing(session.steps, session.needed)
    prefix = f"rank {own.rank}: " if own.world > 1 else ""
    writer.absent(f"its script exited with code {code}" if code else missing.message)
    if not code:
        raise MeasurementError(f"{prefix}{missing.message}", missing.hint)
    order.say(f"{prefix}the script exited with code {code} before the recording was complete; nothing was written")
    if hint:
        order.say(hint)
    raise typer.Exit(code)
