"""What one run of the program is to do, as JSON, and what it answers, as MessagePack: a loss may be no number."""

from typing import Literal

import msgspec

from loraprof.model.fix import Reached
from loraprof.model.workload import WorkloadSpec


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """The program: a built-in workload, or a script (``module``: as for ``python -m``) with its arguments, on
    ``ranks`` processes of this machine."""

    spec: WorkloadSpec | None = None
    target: list[str] = []
    module: bool = False
    ranks: int = 1


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Steps 1 and 2 show the program, then ``remedies`` are applied, ``warmup`` steps pass, ``steps`` are timed.

    ``survey``: nothing is applied; every remedy of the catalogue is asked whether it fits. ``seconds`` of training or
    ``until_loss``: as many steps as that takes instead.
    """

    remedies: list[str] = []
    warmup: int
    steps: int
    survey: bool = False
    seconds: float | None = None
    until_loss: float | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed. ``losses`` of every step, ``gradients`` are the norms of all parameters' in the last
    warm-up step.

    ``steps_seen`` is less than asked for where the program ended by itself. Of a survey: ``unfit`` the reasons by
    remedy, ``period`` the steps of one round of the data.
    """

    status: Literal["ok", "refused", "failed"] = "ok"
    reason: str | None = None
    times_ns: list[int] = []
    clock: str = ""
    losses: list[float] = []
    gradients: list[float] = []
    peak_bytes: int | None = None
    device_name: str = ""
    steps_seen: int = 0
    wall_ns: int = 0
    exit_code: int = 0
    unfit: dict[str, str] = {}
    period: int | None = None
    reached: Reached | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """``answer`` is the file for what was found, ``log`` takes the program's output."""

    command: Command
    trial: Trial
    answer: str
    log: str
    limit_s: float
