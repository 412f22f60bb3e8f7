"""How does a Hugging Face ``Trainer`` profile its own training step? A callback that starts, polls and stops.

p = loraprof.profile("run.loraprof")
Trainer(..., callbacks=[ProfileCallback(p)]).train()
print(p.report.verdict.sentence)
"""

from typing import Any

from torch import nn
from transformers import TrainerCallback

from loraprof.api import Profile


class ProfileCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Training stops when the recording is complete; with ``finish`` it goes on, whatever becomes of the recording."""

    def __init__(self, profile: Profile, finish: bool = False) -> None:
        self._profile, self._finish = profile, finish

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self._profile.describe(grad_clip=args.max_grad_norm > 0)
        mode = _checkpointing(model)
        if mode is not None:
            self._profile.describe(checkpointing="reentrant" if mode else "non-reentrant")
        self._profile.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._profile.poll(warn=self._finish) and not self._finish:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._profile.close()


def _checkpointing(model: nn.Module) -> bool | None:
    """Whether the model's own checkpoints are reentrant; None where it has none or does not say."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) is True:
            keywords = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
            return keywords.get("use_reentrant")
    return None
