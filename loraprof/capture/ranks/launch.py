"""Which launch does this process belong to? Its rank, the world's size, and a key that all ranks of it agree on.

A process alone is a launch of one rank. On one machine the key is the launcher's process and when that began; over
several machines, whose clocks and process numbers differ, it is what the launcher tells every rank (rendezvous, job
number). A restart by torchrun is a launch of its own. The key names no person and no machine.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SHARED: Final = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
RESTARTS: Final = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True, slots=True)
class Launch:
    """``key`` is the same on every rank and differs between launches; ``began_s`` is this machine's clock, epoch."""

    rank: int
    world: int
    key: str
    began_s: float
    one_machine: bool


def launch() -> Launch:
    """As torchrun and its kind announce it; rank 0 of 1 alone."""
    world = _number("WORLD_SIZE", 1)
    one_machine = _number("LOCAL_WORLD_SIZE", world) == world
    launcher = os.getppid() if world > 1 else os.getpid()
    ticks = _start_ticks(launcher)
    told = [os.environ.get(name, "") for name in (*SHARED, RESTARTS)]
    same = [launcher, ticks, os.environ.get(RESTARTS, "")] if one_machine else told
    key = hashlib.sha256(repr((same, world)).encode()).hexdigest()[:12]
    began_s = time.time() if ticks is None else _boot_s() + ticks / os.sysconf("SC_CLK_TCK")
    return Launch(_number("RANK", 0), world, key, began_s, one_machine)


def machine_key() -> str:
    """The same in every process of this machine since it was started, and in no other; empty where it cannot tell."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks after boot: field 22 of ``/proc/PID/stat``. None where there is no such."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _boot_s() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime")).split()[1])
