"""Profiles in this process: as short as they get, without what is measured after the steps, nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from loraprof.capture.passes.plan import Plan
from loraprof.capture.passes.session import Session
from loraprof.model.recording import Calibration

FEW: dict[str, Any] = {"skip": 1, "timed": 2, "steps": 1}
NEEDED = Plan(skip=1, timed=2, steps=1).least(True)


@contextmanager
def attached_to_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves out calibration and training cost, which take seconds; at the end every hook must be gone."""
    calibration = Calibration(gemm=[], copy=[])
    monkeypatch.setattr("loraprof.capture.ranks.save.cached_calibration", lambda *_, **__: (calibration, []))
    monkeypatch.setattr("loraprof.capture.ranks.save.training_cost", lambda *_: None)
    monkeypatch.setattr("loraprof.capture.ranks.save.hook_cost_ns", lambda _: 100.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other here
    yield
    torch.set_num_threads(threads)
    assert Session.attached is None
    assert not modules._global_forward_pre_hooks
    assert not modules._global_forward_hooks
    assert not optimizers._global_optimizer_post_hooks
