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

from loraprof.store.owners import start_ticks

SHARED: Final = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID")
RESTARTS: Final = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True, slots=True)
class Launch:
    """``key`` is the same on every rank and differs between launches; ``began_s`` is this machine's clock, epoch.

    ``launcher`` is the process that started the ranks of this machine; 0 where that is not known.
    """

    rank: int
    world: int
    key: str
    began_s: float
    one_machine: bool
    launcher: int = 0


def launch() -> Launch:
    """As torchrun and its kind announce it; rank 0 of 1 alone."""
    world = _number("WORLD_SIZE", 1)
    one_machine = _number("LOCAL_WORLD_SIZE", world) == world
    launcher = os.getppid() if world > 1 else os.getpid()
    ticks = start_ticks(launcher)
    values = [os.environ.get(name, "") for name in (*SHARED, RESTARTS)]
    same = [launcher, ticks, os.environ.get(RESTARTS, "")] if one_machine else values
    key = hashlib.sha256(repr((same, world)).encode()).hexdigest()[:12]
    began_s = time.time() if ticks is None else _boot_s() + ticks / os.sysconf("SC_CLK_TCK")
    return Launch(_number("RANK", 0), world, key, began_s, one_machine, launcher if world > 1 else 0)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def _boot_s() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime")).split()[1])
