"""A function that computes base and adapter at once: each of its products has its own role."""

import numpy as np
import pytest
from recorded import recorded

import loraprof
from loraprof.analysis.prediction.gradients import module_ns
from loraprof.diagnosis.load import diagnosis_of
from loraprof.store.recordings import load_source


@pytest.mark.slow
def test_the_fused_arm_has_the_products_of_the_plain_one() -> None:
    """FLOPs by role and phase, which no noise moves."""

    def flops(arm: str) -> dict[tuple[str, str], int]:
        report = loraprof.diagnose(recorded("tiny-llama-cpu", f"arm={arm}"))
        out: dict[tuple[str, str], int] = {}
        for k in report.kernels:
            if k.flops and k.role in ("base.linear", "adapter.down", "adapter.up", "adapter.elementwise"):
                out[k.role, k.phase] = out.get((k.role, k.phase), 0) + k.flops
        return out

    fused, plain = flops("lora-fused"), flops("lora")
    for key in {key for key in {*fused, *plain} if key[0] != "adapter.elementwise"}:
        assert fused.get(key, 0) == pytest.approx(plain.get(key, 0), rel=0.02), key


@pytest.mark.slow
def test_its_frozen_layers_lack_no_input_gradient_that_the_plain_one_has() -> None:
    def with_gradients(arm: str) -> set[str]:
        case = diagnosis_of(load_source(recorded("tiny-llama-cpu", f"arm={arm}"))).case
        assert case is not None
        assert case.recording is not None
        found = module_ns(case.ledger, case.ledger.ns.astype(np.float64), "backward", case.recording)
        table = case.recording.modules
        return {table[m].path for m in found if m < len(table) and table[m].part == "base"}

    assert with_gradients("lora-fused") == with_gradients("lora") != set()
