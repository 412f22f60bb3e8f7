"""How does a tool of the MCP server run one of loraprof's command lines, and what does it say of how that ended?

In a process of its own: a profiled script leaves nothing behind in the server, and a call that is cancelled ends it.
One at a time, since a measurement beside another measures both.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from loraprof.errors import MEANINGS, ThresholdError, UsageError
from loraprof.lifeline import bound

OWN: Final = "loraprof: "  # what its lines on stderr begin with
HINT: Final = " " * 10  # and the line after an error
TAIL: Final = 64 << 10  # characters of stderr that are kept
MOST: Final = 600  # characters of an error
CHUNK: Final = 64 << 10
Progress = Callable[[str], Awaitable[None]]

_one_at_a_time: Final = asyncio.Lock()


class Ended(NamedTuple):
    """A command line's end; ``err`` is the end of what was written to stderr."""

    code: int
    out: str
    err: str


async def run(words: Sequence[str], folder: str | None, progress: Progress) -> Ended:
    """``loraprof WORDS`` in ``folder``. Raises UsageError where there is no such folder."""
    command = bound([sys.executable, "-m", "loraprof", *words])
    async with _one_at_a_time:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd=folder
            )
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}") from None
        try:
            out, err = await asyncio.gather(_whole(process), _tail(process, progress))
            return Ended(await process.wait(), out, err)
        finally:
            if process.returncode is None:
                process.terminate()


async def _whole(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.read()).decode(errors="replace")


async def _tail(process: Process, progress: Progress) -> str:
    """The end of stderr; what loraprof says of its progress on the way is passed on."""
    assert process.stderr is not None
    kept = ""
    while chunk := (await process.stderr.read(CHUNK)).decode(errors="replace"):
        kept = (kept + chunk)[-TAIL:]
        for line in chunk.splitlines():
            if line.startswith(OWN):
                await progress(line.removeprefix(OWN))
    return kept


def failure(ended: Ended) -> str:
    """One line: the exit code by name, and what loraprof said last; of a script that failed, its last words first."""
    lines = [line.rstrip() for line in ended.err.splitlines() if line.strip()]
    at = max((i for i, line in enumerate(lines) if line.startswith(OWN)), default=len(lines))
    said = [line.removeprefix(OWN) for line in lines[at : at + 2] if line.startswith((OWN, HINT))]
    if ended.code not in MEANINGS:
        said = [line for line in lines if not line.startswith((OWN, HINT))][-1:] + (
            said if at == len(lines) - 1 else []
        )
    meaning = MEANINGS.get(ended.code, "the script's own, or 1 a bug in loraprof")
    return f"exit code {ended.code} ({meaning}): {'; '.join(' '.join(line.split()) for line in said)}"[:MOST]


def succeeded(ended: Ended) -> bool:
    """A threshold that was missed is an answer; so is a report of a script that failed afterwards."""
    return ended.code in (0, ThresholdError.exit_code) or bool(ended.out.strip())
