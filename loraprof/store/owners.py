"""Whose is a temporary file or folder? Its name says which process made it: when that is gone, nobody needs it.

A process is named by its machine, its number and when it began: neither a number that was given out anew nor a process
of another machine or container, on a disk that both see, is taken for it.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

PATTERN: Final = r"[0-9a-f]{8}-\d{1,10}-\d{1,20}"
_PROCESSES: Final = Path("/proc")
_ENDED: Final = ("Z", "X")  # states of a process that has ended and was not waited for


def owner(pid: int | None = None) -> str:
    """``MACHINE-PID-START`` of a process, by default of this one."""
    number = os.getpid() if pid is None else pid
    return f"{_machine()}-{number}-{start_ticks(number) or 0}"


def process_of(name: str) -> str:
    """The number alone; empty where the text is no ``owner``."""
    return "".join(name.split("-")[1:2])


def is_gone(name: str) -> bool | None:
    """Whether the process of an ``owner`` has ended. None where that cannot be told from here."""
    machine, pid, start = name.split("-")
    if machine != _machine() or start == "0":
        return None
    return start_ticks(int(pid)) != int(start) or _stat(int(pid))[0] in _ENDED


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks after boot. None where there is no such, or no way to tell."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None


def children(pid: int) -> set[int] | None:
    """The processes that ``pid`` started and that have not ended. None where there is no way to tell."""
    folders = [folder for folder in _PROCESSES.glob("[0-9]*") if folder.name.isdecimal()]
    if not folders:
        return None
    states = {int(folder.name): _stat(int(folder.name)) for folder in folders}
    return {number for number, fields in states.items() if fields[1:2] == [str(pid)] and fields[0] not in _ENDED}


def machine_key() -> str:
    """The same in every process of this machine since it was started, and in no other; empty where it cannot tell."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _machine() -> str:
    """This machine and, where processes are numbered apart, this container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{machine_key()} {space}".encode()).hexdigest()[:8]


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on, which is the third; a state that is no letter for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ["-"]
