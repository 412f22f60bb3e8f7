"""A process of a profiled command that is about to train: it is recorded like a script, and written as it ends.

Every launch (a process alone, or ranks together) has a recording of its own; the first to come has the name that was
asked for, the next the same with -2, and so on. The folder ``state`` says which is whose.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.capture.ranks.launch import launch
from loraprof.capture.ranks.publish import Patience
from loraprof.capture.ranks.write import Writer
from loraprof.errors import LoraprofError
from loraprof.model.recording import Workload
from loraprof.report.output import say
from loraprof.runs.profile.run_script import explain_missing, stop_main_thread
from loraprof.runs.profile.script_arm import ScriptArm
from loraprof.store.places import Place, place_of

LACKING: Final = "lacking-"  # name of the file with the reason of a process that trained too little


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """What every process of the command is told. Paths are absolute."""

    plan: Plan
    place: str
    state: str
    arm: str | None
    force: bool
    quiet: bool


def attach(text: str) -> None:
    """In this process, before its first step. Raises MeasurementError where loraprof is at work already."""
    attachment, own = msgspec.json.decode(text, type=Attachment), launch()
    silent = attachment.quiet or own.rank > 0
    finish = attachment.plan.finish
    done = (lambda: None) if finish else stop_main_thread
    session = Session(attachment.plan, done, lambda message: say(message, silent))
    patience, arm = Patience(), ScriptArm(attachment.arm) if attachment.arm else None
    if arm is not None:
        arm.__enter__()
    session.install()
    if own.world > 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, partial(_torn_down, patience))
    atexit.register(_end, os.getpid(), attachment, session, patience, arm)


def _torn_down(patience: Patience, number: int, _: object) -> None:
    patience.shorten()
    sys.exit(128 + number)


def _end(process: int, attachment: Attachment, session: Session, patience: Patience, arm: ScriptArm | None) -> None:
    """The training is over, however it ended."""
    if os.getpid() != process:
        return
    session.remove()
    if arm is not None:
        arm.__exit__()
    refusal = (arm.refusal if arm is not None else None) or session.failure
    if not session.steps and refusal is None:
        return
    writer = Writer(_own_place(attachment), attachment.force, lambda message: say(message, attachment.quiet), patience)
    try:
        if refusal is None and session.recorded is None:
            refusal = explain_missing(session.steps, session.needed)
        if refusal is not None:
            writer.absent(refusal.message)
            (Path(attachment.state) / f"{LACKING}{process}").write_text(refusal.message)
            return
        writer.write(
            session, Workload(name=Path(sys.argv[0]).name, kind="script", argv=list(sys.argv), arm=attachment.arm)
        )
    except LoraprofError as error:
        say(error.message)


def _own_place(attachment: Attachment) -> Place:
    """The recording of this launch: its number is claimed by the first of its processes that comes here."""
    own, state = launch().key, Path(attachment.state)
    claim = state / f"claim-{os.getpid()}"
    claim.write_text(own)
    for place, number in places(attachment.place, state):
        with suppress(FileExistsError):
            os.link(claim, number)
        if number.read_text() == own:
            return place
    raise AssertionError("there is always a next number")


def places(first: str, state: Path) -> Iterator[tuple[Place, Path]]:
    """The recordings of successive launches, and the files that say whose they are."""
    stem = first.removesuffix(".loraprof")
    for n in range(1, 1 << 30):
        yield place_of(first if n == 1 else f"{stem}-{n}.loraprof"), state / str(n)
