"""What is a script built on? Texts of remedies are written for its trainer, its adapters' library, its models'."""

from typing import Final, Literal, get_args

from loraprof.diagnosis.case import Case

Stack = Literal[
    "axolotl",
    "unsloth",
    "llamafactory",
    "swift",
    "trl",
    "transformers-gated",
    "transformers",
    "lightning",
    "kohya",
    "torchtune",
    "litgpt",
    "peft",
    "transformers-gated-lm",
    "transformers-causal-lm",
    "transformers-model",
    "plain",
]
ORIGINS: Final[tuple[tuple[Stack, tuple[str, ...]], ...]] = (
    ("unsloth", ("unsloth",)),
    ("kohya", ("networks.lora", "lycoris", "library.")),
    ("torchtune", ("torchtune",)),
    ("litgpt", ("litgpt",)),
    ("transformers-model", ("transformers.", "transformers_modules.")),
)


LORA: Final = ("lora", "dora", "conv-lora", "embedding-lora", "expert-lora")  # made by PEFT's LoraConfig


def causal(case: Case) -> bool:
    """Whether there is a language model that predicts the next token, by the class names of transformers."""
    return _has(case, ("ForCausalLM", "LMHeadModel"))


def gated(case: Case) -> bool:
    """Whether layers have a gated MLP as Llama names it: what Unsloth, axolotl's and Liger's kernels replace."""
    modules = case.recording.modules if case.recording else ()
    return any(m.path.endswith((".gate_proj", ".gate_up_proj")) for m in modules)


def one_label_a_row(case: Case) -> bool:
    """Whether there is a model that classifies whole sequences, by the class names of transformers."""
    return _has(case, ("Classification", "ForMultipleChoice", "ForQuestionAnswering")) and not _has(
        case, ("ForTokenClassification",)
    )


def _has(case: Case, ends: tuple[str, ...]) -> bool:
    return any(m.cls.endswith(ends) for m in case.recording.modules) if case.recording else False


def stacks(case: Case) -> tuple[Stack, ...]:
    """Most specific first; ``plain``, a loop of one's own, always last.

    From the trainers that the recorded process had loaded, and from where its modules are defined.
    """
    recording, work = case.recording, case.workload
    found: set[str] = {"plain", *(work.trainers if work else ())}
    origins = {m.origin for m in recording.modules} if recording else set()
    for stack, starts in ORIGINS:
        if any(origin.startswith(starts) for origin in origins):
            found.add(stack)
    if "transformers-model" in found and causal(case):
        found.add("transformers-causal-lm")
    if any(site.kind in LORA for site in case.sites):
        found.add("peft")
    if found & {"trl", "axolotl", "llamafactory", "swift", "unsloth"} and "transformers-model" in found:
        found.add("transformers")  # they train with its Trainer
    if "transformers-causal-lm" in found and gated(case):
        found |= {"transformers-gated-lm"} | ({"transformers-gated"} if "transformers" in found else set())
    return tuple(s for s in get_args(Stack) if s in found)
