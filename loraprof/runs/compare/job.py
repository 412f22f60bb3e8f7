"""What a process of its own measures of one arm, and what it answers: JSON on both sides."""

from typing import Literal

import msgspec

from loraprof.model.workload import WorkloadSpec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """``spec`` names a built-in workload, else ``target`` is a script (``module``: as for ``python -m``)."""

    arm: str
    spec: WorkloadSpec | None = None
    target: list[str] = []
    module: bool = False
    warmup: int = 2  # steps that run before those that count
    steps: int = 2


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """``times_ns`` holds the steps that count. ``status`` other than "ok" carries its ``reason``.

    ``exit_code`` is a failed script's own, or that of a refusal.
    """

    times_ns: list[int] = []
    clock: str = ""
    peak_bytes: int | None = None
    trainable: int | None = None
    tokens_per_step: int | None = None
    status: Literal["ok", "oom", "refused"] = "ok"
    reason: str | None = None
    exit_code: int = 0
    failed: bool = False  # the script ended by itself with an exit code
    device: str = "cpu"
    device_name: str = ""
    loss_finite: bool | None = None  # None: unknown, or nothing is trained
