"""``loraprof profile WORKLOAD``: builds it, steps it until the session is done, saves the recording."""

import sys
from contextlib import nullcontext
from typing import Any

from loraprof.capture.device.kinds import default_device, measured
from loraprof.capture.device.memory import enough_memory, memory_plan, require_room
from loraprof.capture.passes.progress import Progress
from loraprof.capture.passes.session import Session
from loraprof.live_remedies.catalogue import is_remedy
from loraprof.model.recording import Workload
from loraprof.model.workload import WorkloadSpec
from loraprof.runs.profile.order import Ended, Order
from loraprof.runs.profile.remedy_arm import RemedyArm
from loraprof.store.specs import default_workload, load_workload
from loraprof.workloads.arms import ARMS
from loraprof.workloads.build import Built, build
from loraprof.workloads.models import torch_device, weights_nbytes


def profile_workload(name: str | None, overrides: dict[str, Any], order: Order) -> Ended:
    """Without a name, the one that fits the device. Raises UsageError, MeasurementError."""
    spec = load_workload(name or default_workload(default_device().type), overrides)
    arm = order.arm or "lora"
    order.say(f"building {spec.name} ({spec.summary}), arm {arm}")
    require_room("the weights", weights_nbytes(spec), torch_device(spec))
    remedies = RemedyArm(arm.split("+")) if arm not in ARMS and is_remedy(arm) else None
    order.spent.ends("imports")
    with enough_memory():
        built = build(spec, "lora" if remedies else arm)
    order.spent.ends("building")
    memory = memory_plan(built.model, built.optimizer, built.device)
    order.say(f"{order.plan.sentence(measured(built.device).asynchronous)}; {memory}")
    session = Session(order.plan, tell=order.say, progress=Progress(None if order.quiet else sys.stderr))
    with remedies or nullcontext(), session, enough_memory():
        while not session.over:
            built.step()
    order.spent.ends("steps")
    if session.failure is not None:
        raise session.failure
    return Ended(0, order.writer().write(session, _described(spec, arm, built)))


def _described(spec: WorkloadSpec, arm: str, built: Built) -> Workload:
    options = {f: getattr(spec, f) for f in spec.__struct_fields__ if f not in ("config", "summary", "arms")}
    options["targets"] = list(spec.targets)
    return Workload(
        name=spec.name,
        kind="builtin",
        argv=[spec.name],
        arm=arm,
        options=options,
        tokens_per_step=built.tokens_per_step,
        micro_batches=spec.accumulate,
        autocast=spec.autocast,
        checkpointing=spec.checkpointing,
        grad_clip=spec.clip is not None,
    )
