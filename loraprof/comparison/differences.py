"""G1: do two profiled runs differ in more than what is compared? Another workload or token count forbids it.

What one arm sets by itself (its name, what it trains) is no difference; settings, software, device, recomputation are.
"""

from msgspec import Struct

from loraprof.diagnosis.findings.comparability import DIFFERENT_ARMS, TOKENS_APART
from loraprof.model.finding import Evidence, Finding
from loraprof.model.recording import Recording
from loraprof.model.report import Report

NOT_SETTINGS = ("arms", "device", "seed")


class Profiled(Struct, frozen=True):
    """An arm's profile pass, and the steps that the same process timed without a profiler."""

    report: Report
    samples_ns: tuple[int, ...]
    recording: Recording


def different(first: str, before: Profiled, second: str, after: Profiled) -> Finding | None:
    """Both with the names they have in the comparison; None where nothing that is known differs."""
    w0, w1 = before.recording.workload, after.recording.workload
    grave = [("workload", w0.name, w1.name)] if w0.name != w1.name else []
    t0, t1 = w0.tokens_per_step, w1.tokens_per_step
    if t0 and t1 and abs(t1 - t0) > TOKENS_APART * t0:
        grave.append(("tokens per step", str(t0), str(t1)))
    facts = [("arguments", " ".join(w0.argv[1:]), " ".join(w1.argv[1:]))]
    facts += [(what, str(a), str(b)) for (what, a), (_, b) in zip(_facts(before), _facts(after), strict=True)]
    keys = sorted((w0.options.keys() | w1.options.keys()) - set(NOT_SETTINGS))
    facts += [(key, str(w0.options.get(key)), str(w1.options.get(key))) for key in keys]
    seen = dict.fromkeys((*grave, *(fact for fact in facts if fact[1] != fact[2])))
    if not seen:
        return None
    lines = [Evidence(what=what, value=f"{a} in {first}, {b} in {second}", unit="") for what, a, b in seen]
    return DIFFERENT_ARMS.stated("blocker" if grave else "major", lines)


def _facts(one: Profiled) -> list[tuple[str, object]]:
    recording, step = one.recording, one.report.step()
    work, device = recording.workload, recording.device
    return [
        ("device", device.name),
        ("torch", recording.environment.torch),
        ("CPU threads", device.cpu_threads),
        ("ranks", recording.environment.world_size),
        ("autocast", work.autocast),
        ("checkpointing", work.checkpointing),
        # A script does not say that it checkpoints, its step shows it.
        ("recomputation", None if step is None else "some" if step.ns(phase="recompute") else "none"),
        ("micro-batches", work.micro_batches),
    ]
