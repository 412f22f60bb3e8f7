"""Where loraprof meets the script: a profiler of its own, the optimizer's range that is still open, its warnings.

Nested profiler sessions lose events or crash, and timing under one is not timing.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from loraprof.errors import MeasurementError


def refuse_other_profiler(thorough: bool = False) -> None:
    """Raises MeasurementError when a profiler of the script's own records; ``thorough``: or waits for its schedule."""
    running = torch._C._autograd._profiler_enabled()
    if running or (thorough and _one_waits()):
        what = "the script runs a profiler of its own"
        raise MeasurementError(what, "loraprof needs the only profiler session: switch it off")


def _one_waits() -> bool:
    """Of all objects of the process, of which there may be millions."""
    kind = torch.profiler.profile
    profilers = [thing for thing in gc.get_objects() if type(thing) is kind]
    return any(one.profiler is not None or one.step_rec_fn is not None for one in profilers)


def when_step_returns(*actions: Callable[[], None]) -> None:
    """Runs ``actions`` on this thread once the ``Optimizer.step`` that is running has closed its range.

    What they raise goes to the caller of the step.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "wrapper" and "optim" in frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        for action in actions:
            action()
        return
    before = sys.getprofile()

    def watch(at: FrameType, event: str, _: Any) -> None:
        if at is frame and event == "return":
            sys.setprofile(before)
            for action in actions:
                action()

    sys.setprofile(watch)


@contextmanager
def silent() -> Iterator[None]:
    """No warning that loraprof causes is shown, or raised where the script made errors of them; its filters stay."""
    ignore = ("ignore", None, Warning, None, 0)
    filters: Any = warnings.filters
    filters.insert(0, ignore)
    try:
        yield
    finally:
        for i, one in enumerate(filters):
            if one is ignore:
                del filters[i]
                break
