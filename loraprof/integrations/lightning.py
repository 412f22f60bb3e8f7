"""How does a Lightning ``Trainer`` profile its own training step? A callback that starts, polls and stops.

p = loraprof.profile("run.loraprof")
Trainer(..., callbacks=[ProfileCallback(p)]).fit(model, data)
print(p.report.verdict.sentence)
"""

from typing import Any

from loraprof.api import Profile

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:  # the same package under its older name
    from pytorch_lightning.callbacks import Callback


class ProfileCallback(Callback):  # type: ignore[misc]  # Lightning is untyped here
    """Training stops when the recording is complete; with ``finish`` it goes on, whatever becomes of the recording."""

    def __init__(self, profile: Profile, finish: bool = False) -> None:
        self._profile, self._finish = profile, finish

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._profile.describe(grad_clip=bool(trainer.gradient_clip_val)).start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._profile.poll(warn=self._finish) and not self._finish:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._profile.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._profile.close()
