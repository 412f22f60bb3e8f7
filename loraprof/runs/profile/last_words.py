"""What a rank leaves behind when its job falls apart: a process that publishes the recording and prints the report.

The rank's own process becomes this one, so torchrun still waits for it and gets the script's exit code, but what it
held is gone, its connections too: ranks that wait for it in a collective hear of it. There is no calibration then.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from loraprof.capture.ranks.launch import Launch
from loraprof.capture.ranks.publish import LAST_WORDS_S, Patience, RankWriter, stage_of
from loraprof.errors import LoraprofError
from loraprof.report.output import Format, say, show_recording
from loraprof.store.places import place_of
from loraprof.store.writing import reason_of

FILES = "/proc/self/fd"
MODULE = "loraprof.runs.profile.last_words"  # run as a program, it is called __main__


class LastWords(msgspec.Struct, frozen=True):
    """All that is left to do, and the exit code of the script."""

    target: str
    launch: Launch
    force: bool
    code: int
    format: str
    output: str | None
    quiet: bool
    redact: bool
    until: float  # as Patience has it


def become(words: LastWords) -> NoReturn:
    """This process, its connections and threads end here; what they leave to do goes on under the same number."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in os.listdir(FILES):
        with suppress(OSError):  # the listing's own is closed by now
            os.set_inheritable(int(number), int(number) <= 2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of all handlers, only this outlives the exec
    os.execv(sys.executable, [sys.executable, "-m", MODULE, msgspec.json.encode(words).decode()])


def main(text: str) -> int:
    """Returns the script's exit code, whatever comes of the recording."""
    words = msgspec.json.decode(text, type=LastWords)
    place, output = place_of(words.target), Path(words.output) if words.output else None
    try:
        stage = stage_of(place, words.launch, words.force, claim=False)
        if RankWriter(stage, words.launch, Patience(LAST_WORDS_S, words.until)).publish():
            show_recording(place, Format(words.format), output, words.force, words.quiet, words.redact)
    except LoraprofError as error:
        say(error.message)
    except OSError as error:
        say(f"{place}: cannot be written, {reason_of(error)}")
    return words.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
