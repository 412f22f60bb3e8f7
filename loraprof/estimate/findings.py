"""What do the shapes alone decide? Findings of the catalogue that need no profile, each with the gain of its remedy.

A gain is this step's time over that of the step with the remedy, both estimated; its interval is the rates' spread.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from loraprof.diagnosis.catalogue import texts
from loraprof.estimate.architecture import adapted_layers
from loraprof.estimate.memory import memory
from loraprof.estimate.step import Question, ratio_span
from loraprof.estimate.work import variant
from loraprof.model.estimate import ArmEstimate, Span
from loraprof.model.finding import Evidence, Finding, Gain, RemedyKind, RemedyReport, Severity

FEW_TARGETS: Final = {"gpt2": ("c_attn",), "qwen": ("c_attn",), "phi3": ("qkv_proj",), "t5": ("q", "v")}
VISION_TARGETS: Final = ("query", "value")
KINDS: Final[dict[str, RemedyKind]] = {
    "W1": "other_training",
    "L6": "other_training",
    "B1": "other_training",
    "L2": "numerics",
    "B4": "numerics",
    "B8": "numerics",
    "D1": "hardware",
}
ROOMY = 0.7  # of the memory: without checkpointing it would still be roomy
LEAST_GAIN = 1.02
Seen = tuple[str, float | int | str, str]  # what, value, unit


class Case(Struct, frozen=True):
    """The estimated LoRA step that is judged."""

    question: Question
    arms: dict[str, ArmEstimate]
    speedup: Span

    @property
    def lora(self) -> ArmEstimate:
        return self.arms["lora"]

    def share(self, *roles: str) -> float:
        return sum(self.lora.ns(role) for role in roles) / self.lora.step_ns

    def instead(self, **changed: Any) -> Question:
        return replace(self.question, settings=replace(self.question.settings, **changed))

    def gain(self, remedied: Question, arm: str = "lora") -> Gain:
        span = ratio_span(self.question, "lora", remedied, arm)
        ns = round(self.lora.step_ns * (1 - 1 / span.value))
        return Gain(ns=ns, speedup=span.value, low=span.low, high=span.high, basis="model")


def findings(case: Case) -> list[Finding]:
    """By gain, those without one last."""
    found = [finding for rule in RULES for finding in rule(case)]
    return sorted(found, key=lambda f: -f.gain.ns if f.gain else 1)


def _finding(id: str, severity: Severity, seen: Sequence[Seen], gain: Gain | None) -> Finding:
    """In the catalogue's own words."""
    known = texts()[id]
    remedy = RemedyReport(kind=KINDS.get(id, "same_training"), stack="plain", text=known.remedy, gain=gain)
    return Finding(
        id=id,
        severity=severity,
        title=known.title,
        evidence=[Evidence(what=what, value=value, unit=unit) for what, value, unit in seen],
        remedy=known.remedy,
        gain=gain,
        see=list(known.sources),
        remedies=[remedy],
    )


def _wrong_lever(case: Case) -> Iterator[Finding]:
    if case.speedup.high >= 1:
        return
    seen = [
        ("this step, estimated", case.lora.step_ns, "ns"),
        ("full fine-tuning, estimated", case.arms["full"].step_ns, "ns"),
    ]
    yield _finding("W1", "major", seen, case.gain(case.question, "full"))


def _fp32_adapters(case: Case) -> Iterator[Finding]:
    if variant(case.question.settings) not in ("V3", "V4", "V5", "V6"):
        return
    gain = case.gain(case.instead(adapter_dtype="same"))
    if gain.speedup > LEAST_GAIN:
        count = adapted_layers(case.question.architecture, case.question.settings.targets)
        seen = [("layers with float32 adapters on a 16-bit base", count, "layers")]
        yield _finding("L2", "major" if gain.speedup > 1.1 else "minor", seen, gain)


def _targets(case: Case) -> Iterator[Finding]:
    model, settings = case.question.architecture, case.question.settings
    names = {linear.name for _, linear in model.linears()}
    fewer = FEW_TARGETS.get(model.family, VISION_TARGETS if "query" in names else ("q_proj", "v_proj"))
    before, after = adapted_layers(model, settings.targets), adapted_layers(model, fewer)
    if not 0 < after < before:
        return
    gain = case.gain(case.instead(targets=fewer))
    if gain.speedup > LEAST_GAIN:
        seen = [("adapted layers", before, "layers"), (f"with {', '.join(fewer)} alone", after, "layers")]
        yield _finding("L6", "major" if gain.speedup > 1.1 else "minor", seen, gain)


def _elementwise(case: Case) -> Iterator[Finding]:
    share = case.share("adapter.elementwise")
    if share < 0.1:
        return
    gain = case.gain(case.instead(adapter_kernels="compiled"))
    yield _finding("L1", "major" if gain.speedup > 1.1 else "minor", [("share of the step", share, "share")], gain)


def _host(case: Case) -> Iterator[Finding]:
    share = case.share("host")
    if share < 0.1:
        return
    seen = [("share of the step that waits for the host", share, "share"), ("launches", case.lora.launches, "kernels")]
    gain = case.gain(case.instead(kernels="compiled", host_us=None)) if _eager(case) else None
    yield _finding("H1", "major" if share > 0.2 else "minor", seen, gain)


def _eager(case: Case) -> bool:
    return case.question.settings.kernels == "eager"


def _head(case: Case) -> Iterator[Finding]:
    share = case.share("head", "loss")
    if share < 0.1:
        return
    vocabulary = case.question.architecture.vocabulary
    seen = [("share of head and loss", share, "share"), ("vocabulary", vocabulary, "tokens")]
    gain = None if case.question.settings.fused_loss else case.gain(case.instead(loss="fused"))
    yield _finding("B6", "minor", seen, gain)


def _checkpointing(case: Case) -> Iterator[Finding]:
    q = case.question
    if not q.settings.checkpointing:
        return
    free = case.instead(checkpointing=False)
    needed = memory(q.architecture, free.settings, "lora", q.gpu)
    if needed.peak_bytes < ROOMY * min(q.gpu.memory_bytes, default=0):
        seen = [("memory needed without it", needed.peak_bytes, "bytes")]
        yield _finding("B2", "major", seen, case.gain(free))


def _dequantised(case: Case) -> Iterator[Finding]:
    share = case.share("dequant")
    if share >= 0.1:
        gain = case.gain(case.instead(quantized="none"))
        yield _finding("B4", "major" if share > 0.2 else "minor", [("share of the step", share, "share")], gain)


def _no_bf16(case: Case) -> Iterator[Finding]:
    q = case.question
    if q.settings.dtype == "bfloat16" and q.gpu.peak("bfloat16") is None and q.gpu.peak("float16"):
        seen = [("compute capability", q.gpu.compute_capability, "")]
        yield _finding("B8", "major", seen, case.gain(case.instead(dtype="float16")))


def _no_optimizer(case: Case) -> Iterator[Finding]:
    full = case.arms["full"]
    share = full.optimizer_ns / full.step_ns
    if share < 0.05:
        yield _finding("B1", "info", [("optimizer's share of full fine-tuning", share, "share")], None)


def _experts(case: Case) -> Iterator[Finding]:
    experts = max(stack.layer.experts for stack in case.question.architecture.stacks)
    if experts >= 4 and _eager(case):
        yield _finding("B9", "minor", [("experts per layer", experts, "modules")], None)


def _gathers(case: Case) -> Iterator[Finding]:
    share = case.share("comm")
    if share >= 0.1 and case.question.settings.parallel in ("fsdp", "zero3"):
        seen = [("share of the step in collectives that nothing hides", share, "share")]
        yield _finding("D1", "major", seen, case.gain(case.instead(parallel="ddp")))


RULES: Final[tuple[Callable[[Case], Iterator[Finding]], ...]] = (
    _wrong_lever,
    _fp32_adapters,
    _targets,
    _elementwise,
    _host,
    _head,
    _checkpointing,
    _dequantised,
    _no_bf16,
    _no_optimizer,
    _experts,
    _gathers,
)
