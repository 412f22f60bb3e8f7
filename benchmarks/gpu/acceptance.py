"""Did the GPU confirm what loraprof promises? Every limit, from the parts' results: met, missed or not measured.

difference   predicted and measured (full - lora), (lora - frozen), gain of a remedy
within       15 % of the measured difference or 3 % of the LoRA step, whichever is larger
undecided    off by more, but not by more than that and the arms' noise: what one arm differs from itself (A/A)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.gpu.parts import MODELS, REMEDIES
from benchmarks.gpu.results import Gain, MainJob, Model, PartResult, Recorded, Roofs
from loraprof import units

SHARE: Final = 0.15  # of the measured difference
OF_STEP: Final = 0.03
ATTRIBUTED: Final = 0.99
ROOF: Final = 0.95
MAIN_JOB_S: Final = 90.0
HOOK: Final = 0.01
REMEDY_OF: Final = {  # arm -> the findings it is the remedy of
    "lora-bf16": ("L2",),
    "lora-nodropout": ("L4",),
    "lora-qv": ("L6",),
    "lora-fused": ("L1",),
    "lora-merged": ("L1",),
    "lora-compile": ("H1", "L1"),
}

Status = Literal["met", "missed", "undecided", "not measured"]
Results = Mapping[str, PartResult]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit for one subject."""

    limit: str
    subject: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A predicted and a measured difference of step times, ns."""

    predicted: int
    measured: int
    step: int
    noise: float = 0.0  # of a step

    @property
    def status(self) -> Status:
        off, allowed = abs(self.predicted - self.measured), max(SHARE * abs(self.measured), OF_STEP * self.step)
        if off <= allowed:
            return "met"
        return "undecided" if off <= allowed + self.noise * self.step else "missed"

    def text(self) -> str:
        return f"predicted {units.ns(self.predicted)}, measured {units.ns(self.measured)}"


def verdicts(results: Results) -> list[Verdict]:
    """All limits, in the order in which a reader asks."""
    found: list[Verdict] = []
    for name in MODELS:
        found += _model(name, results.get(name))
    for name in REMEDIES:
        found += _remedies(name, results.get(name))
    return [*found, *_roofs(results.get("roofs")), *_main_job(results.get("main-job"))]


def _model(name: str, result: PartResult | None) -> Iterator[Verdict]:
    model = result.of(Model) if result else None
    if model is None:
        yield Verdict("closure, attribution, partition, predictions", name, "not measured", _why(result) or "")
        return
    seen, why = model.recorded, model.problem or "there is no recording"
    yield _judged("closure ok", name, seen.closure_ok if seen else None, _closure(seen), why)
    attributed = seen.attributed if seen else None
    ok = attributed >= ATTRIBUTED if attributed is not None else None
    limit = f"at least {units.percent(ATTRIBUTED, 0)} of busy time attributed"
    yield _judged(limit, name, ok, units.percent(attributed, 2), why)
    yield _judged("partition exact", name, seen.exact if seen else None, "every step", why)
    for what in ("full - lora", "lora - frozen"):
        found = difference(model, what)
        absent = "; ".join(f"{arm}: {one.reason}" for arm, one in model.arms.items() if one.reason) or why
        yield _difference(f"predicted {what}", name, found, absent)


def difference(model: Model, what: str) -> Difference | None:
    """(full - lora) or (lora - frozen); ``None`` where one side was not measured or not predicted."""
    seen, times, noise = model.recorded, {name: arm.median_ns for name, arm in model.arms.items()}, model.noise or 0.0
    lora, other = times.get("lora"), times.get("full" if what == "full - lora" else "frozen")
    if seen is None or seen.step_ns is None or lora is None or other is None:
        return None
    if what == "full - lora":
        predicted = seen.predicted_full_ns
        return None if predicted is None else Difference(predicted - seen.step_ns, other - lora, lora, noise)
    predicted = seen.predicted_frozen_ns
    return None if predicted is None else Difference(seen.step_ns - predicted, lora - other, lora, noise)


def promise(model: Model, arm: str) -> Gain | None:
    """The finding whose remedy the arm is; of several the one that promises most. ``None`` without a promise."""
    found = model.recorded.findings if model.recorded else []
    promised = [f for f in found if f.id in REMEDY_OF[arm] and f.ns is not None]
    return max(promised, key=lambda f: f.ns or 0, default=None)


def gain(model: Model, arm: str) -> Difference | None:
    """What its finding promises of a remedy arm, and what it gives."""
    promised, mine, lora = promise(model, arm), model.arms[arm].median_ns, model.arms["lora"].median_ns
    if promised is None or promised.ns is None or mine is None or lora is None:
        return None
    return Difference(promised.ns, lora - mine, lora, model.noise or 0.0)


def _remedies(name: str, result: PartResult | None) -> Iterator[Verdict]:
    model = result.of(Model) if result else None
    if model is None:
        yield Verdict("gain of the remedies", name, "not measured", _why(result) or "")
        return
    for arm in model.arms:
        if arm in REMEDY_OF:
            found, ids = gain(model, arm), " or ".join(REMEDY_OF[arm])
            why = model.arms[arm].reason or model.problem or f"the recording promises no gain for {ids}"
            yield _difference(f"gain of {ids}", arm, found, why)


def _roofs(result: PartResult | None) -> Iterator[Verdict]:
    roofs = result.of(Roofs) if result else None
    why = _why(result) or ""
    gemm = roofs.gemm_roof_flops_per_s / roofs.gemm_best_flops_per_s if roofs else None
    copy = roofs.copy_roof_bytes_per_s / roofs.copy_best_bytes_per_s if roofs else None
    for what, share in (("GEMM roof", gemm), ("copy roof", copy)):
        ok = share >= ROOF if share is not None else None
        yield _judged(
            f"{what} at least {units.percent(ROOF, 0)} of the best", "calibration", ok, units.percent(share), why
        )


def _main_job(result: PartResult | None) -> Iterator[Verdict]:
    job = result.of(MainJob) if result else None
    why, subject = _why(result) or "", job.workload if job else "main-job"
    wall = job.wall_s if job else None
    ok = wall < MAIN_JOB_S if wall is not None else None
    yield _judged(f"all passes in under {MAIN_JOB_S:.0f} s", subject, ok, f"{wall or 0:.0f} s", why)
    share = job.recorded.hook_share if job else None
    ok = share <= HOOK if share is not None else None
    yield _judged(
        f"attached but idle at most {units.percent(HOOK, 0)} per step", subject, ok, units.percent(share, 3), why
    )


def _difference(limit: str, subject: str, found: Difference | None, why: str) -> Verdict:
    if found is None:
        return Verdict(limit, subject, "not measured", why)
    return Verdict(limit, subject, found.status, found.text())


def _judged(limit: str, subject: str, ok: bool | None, detail: str, why: str) -> Verdict:
    if ok is None:
        return Verdict(limit, subject, "not measured", why)
    return Verdict(limit, subject, "met" if ok else "missed", detail)


def _closure(seen: Recorded | None) -> str:
    if seen is None or seen.closure_ok:
        return "every record has its partner"
    return "; ".join(seen.closure_notes)


def _why(result: PartResult | None) -> str | None:
    if result is None:
        return "the part has not run"
    return result.reason if result.status != "ok" else None
