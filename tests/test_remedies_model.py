"""Remedies of the model and its loss: each equals the change made by hand, and is gone when it is taken back."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from live import base_of, causal, gradients, llama, observed, same, tokens, trained

from loraprof.diagnosis.catalogue import texts
from loraprof.diagnosis.judge import RULES
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.loss import ChunkedCrossEntropy
from loraprof.live_remedies.program import Program
from loraprof.workloads.arms import ARMS

pytestmark = pytest.mark.usefixtures("seeded")


def test_attention_of_the_fused_kind() -> None:
    model, batch = llama(attention="eager"), tokens()
    program, _ = causal(model, batch)
    plain, remedy = gradients(model, batch), REMEDIES["sdpa"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    assert base_of(model).config._attn_implementation == "sdpa"
    same(gradients(model, batch), plain)
    undo()
    assert base_of(model).config._attn_implementation == "eager"
    assert "eager" in (remedy.fits(causal(llama(), batch)[0]) or "")


def test_a_mask_that_masks_nothing() -> None:
    model, batch = llama(), tokens(masked=True)
    program, _ = causal(model, batch)
    plain, remedy = gradients(model, batch), REMEDIES["no-mask"]
    seen: list[bool] = []
    inner = base_of(model)
    inner.register_forward_pre_hook(lambda m, a, k: seen.append(k["attention_mask"] is None), with_kwargs=True)
    undo = remedy.apply(program)
    same(gradients(model, batch), plain)
    model(**tokens(padded=True))
    undo()
    model(**batch)
    assert seen == [True, False, False]
    assert remedy.fits(causal(model, tokens(padded=True))[0]) == "the attention mask masks something"
    assert remedy.fits(causal(llama(), tokens())[0]) == "no attention mask is handed over"


@pytest.mark.parametrize("name", ["no-checkpointing", "non-reentrant"])
def test_checkpointing(name: str) -> None:
    model, batch = llama(checkpointing=True), tokens()
    program, _ = causal(model, batch)
    plain, remedy, runs = gradients(model, batch), REMEDIES[name], []
    for module in model.modules():
        if type(module).__name__ == "LlamaMLP":
            module.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    same(gradients(model, batch), plain)
    assert runs == ([True, True] if name == "no-checkpointing" else [True] * 4)
    runs.clear()
    undo()
    same(gradients(model, batch), plain)
    assert runs == [False, False, True, True]
    assert remedy.fits(causal(llama(), batch)[0]) is not None


def test_autocast() -> None:
    model, batch = llama(), tokens()
    program, _ = causal(model, batch)
    remedy = REMEDIES["autocast"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    found = model(**batch).loss
    undo()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(found, model(**batch).loss)
    assert not torch.equal(model(**batch).loss, found)
    optimizer = torch.optim.SGD(trained(model), lr=0.0)

    def cast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch).loss.backward()

    assert remedy.fits(observed(model, optimizer, cast)) == "the step runs under autocast already"


@pytest.mark.slow
def test_compiled_blocks() -> None:
    model, batch = llama(), tokens()
    program, _ = causal(model, batch)
    plain, remedy = gradients(model, batch), REMEDIES["compile-blocks"]
    if (reason := remedy.fits(program)) is not None:
        pytest.skip(reason)
    undo = remedy.apply(program)
    compiled = [type(m).__name__ for m in model.modules() if m._compiled_call_impl is not None]
    assert compiled == ["LlamaDecoderLayer"] * 2
    same(gradients(model, batch), plain)
    assert remedy.fits(program) == "it is compiled already"
    undo()
    assert not any(m._compiled_call_impl for m in model.modules())


@pytest.mark.parametrize("chunk", [1 << 26, 1024])
def test_the_chunked_loss_in_float64(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraprof.live_remedies.loss.CHUNK_BYTES", chunk)
    hidden, weight = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((7, 5), (64, 5)))
    labels = torch.randint(64, (7,))
    assert torch.autograd.gradcheck(lambda h, w: ChunkedCrossEntropy.apply(h, w, labels), (hidden, weight))
    found = ChunkedCrossEntropy.apply(hidden, weight, labels)
    torch.testing.assert_close(found, F.cross_entropy(hidden @ weight.t(), labels, reduction="sum"))


@pytest.mark.parametrize("items", [None, 9])
def test_head_and_loss_in_chunks(items: int | None) -> None:
    model, batch = llama(), tokens(padded=True)
    program, _ = causal(model, batch)
    kwargs: dict[str, Any] = {**batch, **({"num_items_in_batch": items} if items else {})}
    plain, remedy, inner = gradients(model, kwargs), REMEDIES["chunked-loss"], base_of(model)
    logits, loss, was = model(**batch).logits, model(**kwargs).loss, dict(vars(inner))
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    found = model(**kwargs)
    assert found.logits is None
    torch.testing.assert_close(found.loss, loss)
    same(gradients(model, kwargs), plain)
    torch.testing.assert_close(
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, logits
    )
    torch.testing.assert_close(model.eval()(**batch).logits, logits)
    undo()
    assert vars(inner).keys() == was.keys()
    torch.testing.assert_close(model.train()(**batch).logits, logits)
    inner.config.final_logit_softcapping = 30.0
    assert remedy.fits(program) == "its logits are scaled or capped after the head"


def test_findings_and_arms_are_known() -> None:
    """A remedy answers causes of the catalogue, and what a rule's remedy names as its arm can be run."""
    assert {key for remedy in REMEDIES.values() for key in remedy.findings} <= set(texts())
    arms = {remedy.arm for rule in RULES.values() for remedy in rule.remedies if remedy.arm}
    assert arms <= {*REMEDIES, *ARMS}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p, None),
        (lambda p: replace(p, shapes=frozenset([((2, 12),), ((2, 9),)])), "the shapes of its inputs change"),
        (lambda p: replace(p, calls=[replace(c, grad=False) for c in p.calls]), "also runs without gradients"),
        (lambda p: hooked(p), "hooks run inside its blocks"),
    ],
)
def test_graphs_only_where_nothing_of_a_block_moves(
    change: Callable[[Program], Program], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it decides on a GPU; none is there to run it."""
    monkeypatch.setattr(Program, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    program = change(causal(llama(), tokens())[0])
    found = REMEDIES["cuda-graphs"].fits(program)
    assert found is None if why is None else why in (found or "")


def hooked(program: Program) -> Program:
    next(m for m in program.model.modules() if type(m).__name__ == "LlamaMLP").register_forward_hook(lambda *_: None)
    return program


def test_no_graphs_of_checkpointed_blocks_or_of_lengths_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "device", property(lambda self: torch.device("cuda")))
    checkpointed, _ = causal(llama(checkpointing=True), tokens())
    assert "run again in backward" in (REMEDIES["cuda-graphs"].fits(checkpointed) or "")
    model = llama()
    optimizer, lengths = torch.optim.SGD(trained(model), lr=0.1), iter((7, 12, 9))

    def step() -> None:
        batch = {key: value[:, : next(lengths)] for key, value in tokens().items() if key == "input_ids"}
        model(**batch, labels=batch["input_ids"]).loss.backward()

    assert "shapes of its inputs change" in (REMEDIES["cuda-graphs"].fits(observed(model, optimizer, step, 3)) or "")


def test_no_graphs_without_a_gpu() -> None:
    assert "this step runs on cpu" in (REMEDIES["cuda-graphs"].fits(causal(llama(), tokens())[0]) or "")
