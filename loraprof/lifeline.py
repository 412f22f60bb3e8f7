"""How does a process that loraprof started end when loraprof does, whatever ended that?

The kernel kills it when its parent is gone (prctl(2), PR_SET_PDEATHSIG, which an exec keeps), so a killed sweep leaves
no cell training on. Only Linux has this; elsewhere a worker goes on to its own end. Imports nothing of loraprof: this
file is also the program that a bound command starts with, and then becomes the command.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def bound(command: Sequence[str]) -> list[str]:
    """``command``, ending with this process; its process id, output and exit code are the command's own."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def end_with(parent: int, how: int | None = None) -> None:
    """Ties this process to its parent, process ``parent``; ends it where that is gone already. ``how``: the signal,
    SIGKILL unless given."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library without the call
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL if how is None else how)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
