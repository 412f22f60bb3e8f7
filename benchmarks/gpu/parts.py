"""The parts of the suite, the most valuable first: a budget is spent in this order.

``cost_s`` is what a part takes at the short size on an H100, the start of its process included: measured for those up
to ``gpt2-xl-512``, but for the remedies, else an estimate.
"""

from dataclasses import dataclass
from typing import Final

TIMEOUT_S: Final = 480


@dataclass(frozen=True, slots=True)
class Part:
    """``module`` of this package has ``run(options, *words)``, which returns the part's result."""

    name: str
    what: str
    module: str
    cost_s: int
    words: tuple[str, ...] = ()


def _model(case: str, what: str, cost_s: int) -> Part:
    return Part(case, what, "models", cost_s, (case,))


PARTS: Final[tuple[Part, ...]] = (
    Part("facts", "device facts and calibration", "facts", 22),
    Part("selftest", "known work planted and found", "selftest", 20),
    _model("tinyllama-512", "full, frozen, lora of tinyllama-1.1b, 4 x 512, and the prediction", 70),
    Part("roofs", "the calibration's roofs beside the best that is reached", "roofs", 8),
    Part("kernels", "kernel times profiled and unprofiled", "kernels", 14),
    Part("sessions", "closure of a first and a second profiler session", "sessions", 26),
    Part("main-job", "loraprof profile llama-3.2-1b, by the clock on the wall", "mainjob", 50),
    _model("llama-3.2-1b", "full, frozen, lora of llama-3.2-1b, and the prediction", 70),
    Part("linear", "one adapted linear: hidden x tokens x variant against the crossover", "linear", 20),
    _model("remedies", "every remedy arm against its finding's predicted gain", 85),
    _model("gpt2-xl-512", "full, frozen, lora of gpt2-xl, 4 x 512, and the prediction", 80),
    Part("noise", "one arm against itself", "noise", 30),
    _model("llama-3-8b-checkpointing", "full, frozen, lora of llama-3-8b, checkpointed", 300),
    _model("tinyllama-1024", "full, frozen, lora of tinyllama-1.1b, 4 x 1024", 80),
    _model("gpt2-xl-1024", "full, frozen, lora of gpt2-xl, 4 x 1024", 90),
    _model("llama-3-8b", "full, frozen, lora of llama-3-8b, without checkpointing", 300),
    Part("counters", "DRAM bytes of the twenty largest kernels, by ncu", "counters", 70),
    _model("remedies-dropout", "the arm without dropout against its finding's predicted gain", 60),
    _model("remedies-compile", "the compiled arm against its findings' predicted gain", 180),
    Part("compare", "loraprof compare full,frozen,lora tinyllama-1.1b", "compared", 200),
)
MODELS: Final = tuple(part.name for part in PARTS if part.module == "models" and "remedies" not in part.name)
REMEDIES: Final = tuple(part.name for part in PARTS if "remedies" in part.name)
