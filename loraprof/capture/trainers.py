"""Which trainer runs this process? What advice has to be written for."""

import sys
from typing import Final

from loraprof.model.recording import Trainer

# A name and the modules that are loaded where it trains, not where another package merely imports it.
TRAINERS: Final[dict[Trainer, tuple[str, ...]]] = {
    "axolotl": ("axolotl.train",),
    "unsloth": ("unsloth",),
    "llamafactory": ("llamafactory.train",),
    "swift": ("swift.llm", "swift.trainers"),
    "trl": ("trl.trainer",),
    "transformers": ("transformers.trainer",),
    "lightning": ("lightning.pytorch.trainer.trainer", "pytorch_lightning.trainer.trainer"),
    "kohya": ("library.train_util",),
    "torchtune": ("torchtune.training",),
    "litgpt": ("litgpt.finetune",),
}


def trainers() -> list[Trainer]:
    """Names of ``TRAINERS`` whose modules this process has loaded."""
    return [name for name, modules in TRAINERS.items() if any(m in sys.modules for m in modules)]
