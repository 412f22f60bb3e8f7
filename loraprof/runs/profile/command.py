"""``loraprof profile -- COMMAND``: any command that ends up training in Python, launchers included.

The processes below it find in their environment what is to be done; each attaches itself when it makes an optimizer.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec

from loraprof.capture.ranks.publish import exists
from loraprof.errors import MeasurementError, UsageError
from loraprof.lifeline import end_with
from loraprof.report.output import say
from loraprof.runs.profile import hook
from loraprof.runs.profile.attach import LACKING, Attachment, places
from loraprof.runs.profile.hook.sitecustomize import JOB, ROOT
from loraprof.runs.profile.order import Order
from loraprof.store.leftovers import scratch
from loraprof.store.places import Place

HOOK: Final = Path(hook.__file__).parent


def profile_command(words: list[str], order: Order) -> tuple[int, list[Place]]:
    """The command's exit code, and the recordings of its launches.

    A command that never trains is told in one line. Raises UsageError for one that cannot be started, MeasurementError
    where it ended well but trained too little.
    """
    if shutil.which(words[0]) is None:
        raise UsageError(f"{words[0]}: cannot be started, there is no such command", None)
    order.say(order.plan.sentence(False))
    place = order.place.absolute() if isinstance(order.place, Path) else order.place
    with scratch() as state:
        attachment = Attachment(
            plan=order.plan, place=str(place), state=str(state), arm=order.arm, force=order.force, quiet=order.quiet
        )
        code = _run(words, _environment(attachment))
        claimed = takewhile(lambda one: one[1].exists(), places(str(place), state))
        found = [one for one, _ in claimed if exists(one)]
        if found and found[0] == place:
            found[0] = order.place  # as it was named
        lacking = sorted({file.read_text() for file in state.glob(f"{LACKING}*")})
    if not found and lacking and code == 0:
        raise MeasurementError(lacking[0], "train longer, or lower --skip, --timed and --steps")
    if not found:
        why = lacking[0] if lacking else "no process of the command made an optimizer step"
        say(f"nothing was recorded: {why}; the command keeps its exit code {code}")
    return code, found


def _environment(attachment: Attachment) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HOOK), *([before] if before else [])]),
        JOB: msgspec.json.encode(attachment).decode(),
        ROOT: str(HOOK.parents[3]),
    }


def _run(words: list[str], environment: dict[str, str]) -> int:
    """As a shell would say it: 128 and the signal where one ended it."""
    try:
        end = partial(end_with, os.getpid(), signal.SIGTERM)  # as a launcher expects it: its workers end too
        process = subprocess.Popen(words, env=environment, preexec_fn=end)
    except OSError as error:
        raise UsageError(f"{words[0]}: cannot be started, {error.strerror or error}", None) from None
    with _forwarded(process):
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue  # the terminal told the command as well: it decides
    return 128 - code if code < 0 else code


@contextmanager
def _forwarded(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
