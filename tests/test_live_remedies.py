"""Remedies of a running program: each equals the change made by hand, and is gone when it is taken back."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from loraprof.diagnosis.catalogue import texts
from loraprof.diagnosis.judge import RULES
from loraprof.remedies.catalogue import REMEDIES
from loraprof.remedies.lora_sites import lora_sites
from loraprof.remedies.loss import ChunkedCrossEntropy
from loraprof.remedies.program import Program
from loraprof.remedies.watch import Repeats, Watch
from loraprof.workloads.arms import ARMS
from loraprof.workloads.arms.lowrank import LowRankLinear

Step = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.set_float32_matmul_precision("highest")


class Handwritten(nn.Module):
    """A and B as parameters, B held as (r, out)."""

    def __init__(self, width: int = 16, rank: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(rank, width) / 8), nn.Parameter(torch.randn(rank, width) / 8)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 1.5 * (self.drop(x) @ self.A.T @ self.B)


def llama(**lora: Any) -> nn.Module:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=lora.pop("attention", "sdpa"),
    )
    base: Any = LlamaForCausalLM(config).to(lora.pop("dtype", torch.float32))
    if lora.pop("checkpointing", False):
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        base.enable_input_require_grads()
    model: nn.Module = peft.get_peft_model(
        base, peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj"], **lora})
    )
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.1)
    return model.train()


def tokens(padded: bool = False, masked: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(4, 64, (2, 12))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 5:], mask[1, 8:] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "labels": labels, **({"attention_mask": mask} if padded or masked else {})}


def observed(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], Any]) -> Program:
    """Two steps, as ``fix`` watches them."""
    watch = Watch()
    watch.install()
    try:
        for _ in range(2):
            step()
            watch.on_step(optimizer)
        program = watch.program(optimizer)
    finally:
        watch.remove()
    assert program is not None
    return program


def base_of(model: Any) -> Any:
    """The model of transformers below PEFT's wrappers."""
    return model.base_model.model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def causal(model: nn.Module, batch: dict[str, Tensor], keep: bool = False) -> tuple[Program, Callable[[], float]]:
    """The program after two steps of no length, and what a further step's loss is."""
    optimizer = torch.optim.AdamW(trained(model), lr=0.0)

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not keep)
        return float(loss.detach())

    return observed(model, optimizer, step), step


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


def same(own: list[Tensor], expected: list[Tensor], rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert len(own) == len(expected) > 0
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_the_fused_function_has_the_gradient_of_the_plain_one() -> None:
    x, w, bias = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, 5), (7, 5), (7,)))
    a, b = torch.randn(2, 5, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    for t in (x, a, b):
        t.requires_grad_()

    def fused(x: Tensor, a: Tensor, b: Tensor) -> Any:
        return LowRankLinear.apply(x, w, bias, a, b, 1.5, torch.float64, False)

    assert torch.autograd.gradcheck(fused, (x, a, b))
    torch.testing.assert_close(fused(x, a, b), F.linear(x, w, bias) + 1.5 * F.linear(F.linear(x, a), b))


@pytest.mark.parametrize("kind", ["peft", "handwritten"])
def test_fused_adapters(kind: str) -> None:
    if kind == "peft":
        model, batch = llama(), tokens()
        program, _ = causal(model, batch)
        run = lambda: gradients(model, batch)  # noqa: E731
    else:
        model = nn.Sequential(Handwritten(), Handwritten())
        x = torch.randn(8, 16)

        def run() -> list[Tensor]:
            model.zero_grad()
            model(x).square().mean().backward()
            return [p.grad.clone() for p in trained(model) if p.grad is not None]

        program = observed(model, torch.optim.SGD(trained(model), lr=0.0), run)
    weights = [p.detach().clone() for p in model.parameters()]
    forwards = [m.forward for m in model.modules()]
    plain, remedy = run(), REMEDIES["lora-fused"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    sites = lora_sites(program.model)
    assert isinstance(sites, list)
    assert len(sites) == (6 if kind == "peft" else 2)
    assert all("forward" in vars(site.module) for site in sites)
    same(run(), plain)
    undo()
    assert [m.forward for m in model.modules()] == forwards
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(
    ("lora", "reason"),
    [({"lora_dropout": 0.5}, "not W x + s B A x"), ({"use_dora": True}, "not W x + s B A x")],
)
def test_what_is_more_than_plain_lora_is_not_fused(lora: dict[str, Any], reason: str) -> None:
    program, _ = causal(llama(**lora), tokens())
    assert reason in (REMEDIES["lora-fused"].fits(program) or "")


def test_a_layer_without_adapters_is_not_fused() -> None:
    model = nn.Linear(4, 4)
    program = Program(model=model, optimizer=torch.optim.SGD(model.parameters()))
    assert REMEDIES["lora-fused"].fits(program) == "there is no adapted layer"


def test_adapters_in_the_bases_dtype() -> None:
    model = llama(dtype=torch.bfloat16)
    program, step = causal(model, tokens())
    remedy = REMEDIES["lora-bf16"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {s["exp_avg"].dtype for s in program.optimizer.state.values()} == {torch.bfloat16}
    assert torch.isfinite(torch.tensor(step()))
    undo()
    assert {p.dtype for p in trained(model)} == {torch.float32}
    assert {s["exp_avg"].dtype for s in program.optimizer.state.values()} == {torch.float32}
    assert REMEDIES["lora-bf16"].fits(causal(llama(), tokens())[0]) == "the adapters already have the base's dtype"


def test_no_dropout() -> None:
    model, batch = llama(lora_dropout=0.5), tokens()
    program, _ = causal(model, batch)
    remedy = REMEDIES["lora-nodropout"]
    assert remedy.fits(program) is None
    by_hand = copy.deepcopy(model)
    for module in by_hand.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    undo()
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in model.modules()) == 6
    assert remedy.fits(causal(llama(), batch)[0]) == "no adapter has dropout"


def test_query_and_value_only() -> None:
    model, batch = llama(), tokens()
    program, _ = causal(model, batch)
    by_hand = copy.deepcopy(model)
    for name, module in by_hand.named_modules():
        if name.endswith("up_proj"):
            module.enable_adapters(False)
            module.requires_grad_(False)
    remedy = REMEDIES["lora-qv"]
    undo = remedy.apply(program)
    same(gradients(model, batch), gradients(by_hand, batch))
    undo()
    assert len(trained(model)) == 12
    few = causal(llama(target_modules=["q_proj", "v_proj"]), batch)[0]
    assert remedy.fits(few) == "PEFT adapts no layer beside query and value here"


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("option", ["fused", "foreach"])
def test_the_optimizers_kernel(kind: Any, option: str) -> None:
    model = nn.Linear(6, 6)
    twin = copy.deepcopy(model)
    own, by_hand = kind(model.parameters(), lr=0.1), kind(twin.parameters(), lr=0.1, **{option: True})
    x = torch.randn(4, 6)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step(model, own)
        step(twin, by_hand)
    program = Program(model=model, optimizer=own)
    remedy = REMEDIES[f"{option}-optimizer"]
    assert remedy.fits(program) == (None if option == "fused" else "fused is better here")
    undo = remedy.apply(program)
    assert own.param_groups[0][option] is True
    for _ in range(3):
        step(model, own)
        step(twin, by_hand)
    torch.testing.assert_close(model.weight, twin.weight)
    undo()
    assert not own.param_groups[0][option]
    step(model, own)


def test_why_no_fused_optimizer() -> None:
    model = nn.Linear(2, 2)
    fits = REMEDIES["fused-optimizer"].fits
    assert fits(Program(model=model, optimizer=torch.optim.RMSprop(model.parameters()))) == "torch has no fused RMSprop"
    fused = torch.optim.SGD(model.parameters(), fused=True)
    assert fits(Program(model=model, optimizer=fused)) == "the optimizer is fused already"
    other = Program(model=model, optimizer=torch.optim.RMSprop(model.parameters()))
    assert REMEDIES["foreach-optimizer"].fits(other) is None


def test_gradients_set_to_none() -> None:
    model = llama()
    program, step = causal(model, tokens(), keep=True)
    remedy = REMEDIES["set-to-none"]
    assert remedy.fits(program) is None
    undo = remedy.apply(program)
    step()
    assert all(p.grad is None for p in trained(model))
    undo()
    step()
    assert all(p.grad is not None for p in trained(model))
    assert remedy.fits(causal(llama(), tokens())[0]) == "gradients are set to None already"


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


def test_padding_to_the_longest() -> None:
    model, batch = llama(), tokens(padded=True)
    program, _ = causal(model, batch)
    remedy, shapes = REMEDIES["pad-to-longest"], []
    inner = base_of(model)
    inner.register_forward_pre_hook(lambda m, a, k: shapes.append(k["input_ids"].shape[1]), with_kwargs=True)
    assert remedy.fits(program) is None
    by_hand = {name: value[:, :8] for name, value in batch.items()}
    expected = gradients(model, by_hand)
    undo = remedy.apply(program)
    same(gradients(model, batch), expected)
    undo()
    same(gradients(model, batch), expected)  # padding changes no gradient
    assert shapes == [8, 8, 12]
    assert remedy.fits(causal(llama(), tokens(masked=True))[0]) == "no column of the batches is all padding"
    left = {name: value.flip(1) for name, value in batch.items()}
    assert remedy.fits(causal(llama(), left)[0]) == "no column of the batches is all padding"
    assert "attention_mask" in (remedy.fits(causal(llama(), tokens())[0]) or "")


class Encoded:
    """A frozen encoder under no_grad before a trained layer, on rows that come again."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.model = encoder.requires_grad_(False), nn.Linear(8, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.data, self.at, self.calls = torch.randn(6, 8), 0, 0

    def step(self) -> Tensor:
        rows = [2 * self.at % 6, (2 * self.at + 1) % 6]
        self.at += 1
        with torch.no_grad():
            hidden = self.encoder(self.data[rows])
        self.model(hidden).sum().backward()
        out: Tensor = hidden
        return out

    def program(self, steps: int) -> Program:
        watch = Watch()
        watch.install()
        for _ in range(steps):
            self.step()
            watch.on_step(self.optimizer)
        found = watch.program(self.optimizer)
        watch.remove()
        assert found is not None
        return found


def test_outputs_of_a_frozen_network_are_kept() -> None:
    case = Encoded(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    program = case.program(6)
    assert program.period == 3
    assert program.model is case.model
    remedy, ran = REMEDIES["cached-outputs"], []
    assert remedy.fits(program) is None
    inner: Any = case.encoder
    inner[0].register_forward_hook(lambda *_: ran.append(1))
    undo = remedy.apply(program)
    first = [case.step() for _ in range(3)]
    again = [case.step() for _ in range(3)]
    assert len(ran) == 3
    same(again, first, rtol=0, atol=0)
    undo()
    same([case.step()], first[:1], rtol=0, atol=0)
    assert len(ran) == 4


def test_what_is_not_kept() -> None:
    fits = REMEDIES["cached-outputs"].fits
    assert "do not come again" in (fits(Encoded(nn.Linear(8, 8)).program(3)) or "")
    assert "no frozen network" in (fits(Encoded(nn.Dropout(0.5)).program(6)) or "")
    assert "no frozen network" in (fits(causal(llama(), tokens())[0]) or "")


def test_inputs_that_come_again_in_another_order() -> None:
    repeats, rows = Repeats(), torch.randn(4, 3)
    for order in ([0, 1], [2, 3], [3, 0], [1, 2]):
        repeats.see([rows[order]])
        repeats.step()
    assert repeats.period == 2


def test_workers_of_the_loader() -> None:
    remedy, data = REMEDIES["loader-workers"], TensorDataset(torch.arange(4))
    watch = Watch()
    watch.install()
    DataLoader(data)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    for _ in range(2):
        model(torch.ones(1, 1)).sum().backward()
        watch.on_step(optimizer)
    program = watch.program(optimizer)
    watch.remove()
    assert program is not None
    assert remedy.fits(program) in (None, "one CPU core leaves none for workers")
    assert remedy.early is not None
    undo = remedy.early()
    loader: Any = DataLoader(data, batch_size=2)
    undo()
    assert loader.num_workers == 2
    assert loader.persistent_workers
    assert DataLoader(data).num_workers == 0
    assert remedy.fits(causal(llama(), tokens())[0]) == "no DataLoader is used"


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
    monkeypatch.setattr("loraprof.remedies.loss.CHUNK_BYTES", chunk)
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
