"""What a finding tells the user to change, changed: the finding goes, and the work it named with it.

Counts and bytes, which are exact; times only where the change is larger than any noise.
"""

from pathlib import Path

import pytest
from provoke import facts, found, toy
from recorded import recorded

import loraprof
from loraprof.model.report import Report
from loraprof.model.vocabulary import ADAPTER_ROLES

pytestmark = pytest.mark.slow

TINY = "tiny-llama-cpu"
BF16 = "dtype=bfloat16"


def report(path: Path) -> Report:
    return loraprof.diagnose(path)


def count(path: Path, op: str) -> int:
    """Ops of this name on the adapter path."""
    return sum(k.count for k in report(path).kernels if k.op == op and k.role in ADAPTER_ROLES)


def adapter_bytes(path: Path) -> int:
    adapter = report(path).adapter
    assert adapter is not None
    assert adapter.min_bytes is not None
    return adapter.min_bytes


def test_without_dropout_its_masks_are_gone() -> None:
    """LoraConfig(lora_dropout=0.0)"""
    before, after = recorded(TINY, "dropout=0.1"), recorded(TINY, "dropout=0.0")
    assert "lora_dropout=0.0" in found(before)["L4"].remedy
    assert "L4" not in found(after)
    assert facts(found(before)["L4"])["masks drawn in the adapter"] == count(before, "aten::bernoulli_") == 14
    assert count(after, "aten::bernoulli_") == 0
    assert adapter_bytes(after) < adapter_bytes(before)


def test_adapters_in_the_dtype_of_the_base_move_half_the_bytes() -> None:
    """autocast_adapter_dtype=False: 32 instead of 86 bytes per element of a square layer."""
    before, after = recorded(TINY, BF16), recorded(TINY, BF16, "adapter_dtype=same")
    assert "autocast_adapter_dtype=False" in found(before)["L2"].remedy
    assert "L2" not in found(after)
    assert 0.3 < adapter_bytes(after) / adapter_bytes(before) < 0.5


def test_suppressed_casts_are_gone() -> None:
    """disable_input_dtype_casting(model): 32 instead of 56 bytes per element."""
    before, after = toy("autocast"), toy("autocast-once")
    assert "disable_input_dtype_casting" in found(before)["L3"].remedy
    assert facts(found(before)["L3"])["inputs cast to float32 and back before A"] == 4
    assert "L3" not in found(after)
    assert 0.5 < adapter_bytes(after) / adapter_bytes(before) < 0.75


def test_fewer_targets_issue_fewer_ops() -> None:
    before, after = recorded(TINY), recorded(TINY, "targets=q_proj,v_proj")
    assert "target_modules=['q_proj', 'v_proj']" in found(before)["L6"].remedy
    first, second = report(before).adapter, report(after).adapter
    assert first is not None
    assert second is not None
    assert (first.modules, second.modules) == (14, facts(found(before)["L6"])["layers that stay adapted"])
    assert second.launches < 0.3 * first.launches


def test_without_checkpointing_nothing_is_computed_twice() -> None:
    before, after = recorded(TINY, "checkpointing=non-reentrant"), recorded(TINY, "checkpointing=none")
    assert "gradient_checkpointing=False" in found(before)["B2"].remedy
    step = report(after).step()
    assert step is not None
    assert step.ns(phase="recompute") == 0


def test_gradients_arrive_with_the_other_kind_of_checkpointing() -> None:
    assert "use_reentrant=False" in found(toy("reentrant"))["G5"].remedy
    assert "G5" not in found(toy("non-reentrant"))


def test_workers_load_while_the_step_runs() -> None:
    """num_workers=4: each batch takes 80 ms to make, so the step can fall to a quarter of that."""
    before, after = report(toy("slow-data")), report(toy("prefetched-data"))
    assert "num_workers=4" in next(f for f in before.findings if f.id == "H4").remedy
    assert before.timing.unprofiled is not None
    assert after.timing.unprofiled is not None
    assert after.timing.unprofiled.median_ns < 0.6 * before.timing.unprofiled.median_ns
