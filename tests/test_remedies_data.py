"""Remedies of the data: each equals the change made by hand, and is gone when it is taken back."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from live import base_of, causal, gradients, llama, same, tokens
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from loraprof.capture.modules.facts import Padding
from loraprof.live_remedies.bucketing import length_of
from loraprof.live_remedies.catalogue import REMEDIES
from loraprof.live_remedies.program import Loader, Program
from loraprof.live_remedies.watch import Repeats, Watch

pytestmark = pytest.mark.usefixtures("seeded")


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing(attention: str) -> None:
    model, batch = llama(attention=attention), tokens(padded=True)
    program, _ = causal(model, batch)
    remedy, shapes = REMEDIES["packing"], []
    base_of(model).register_forward_pre_hook(
        lambda m, a, k: shapes.append(tuple(k["input_ids"].shape)), with_kwargs=True
    )
    assert remedy.fits(program) is None
    plain, loss = gradients(model, batch), model(**batch).loss
    undo = remedy.apply(program)
    same(gradients(model, batch), plain)
    torch.testing.assert_close(model(**batch).loss, loss)
    assert set(shapes) == {(2, 12), (1, 13)}
    undo()
    model(**batch)
    assert shapes[-1] == (2, 12)


def test_what_is_not_packed() -> None:
    fits, batch = REMEDIES["packing"].fits, tokens(padded=True)
    assert fits(causal(llama(), tokens(masked=True))[0]) == "there is no padding"
    left = {name: value.flip(1) for name, value in batch.items()}
    for other in (left, tokens(), {**batch, "labels": batch["input_ids"]}):
        assert "padded on the right" in (fits(causal(llama(), other)[0]) or "")
    model = nn.Linear(2, 2)
    assert "no causal" in (fits(Program(model=model, optimizer=torch.optim.SGD(model.parameters()))) or "")


def test_tokens_are_counted_by_mask_and_labels() -> None:
    model, batch = llama(), tokens(padded=True)
    batch["labels"][:, :3] = -100
    counted = Padding([model])
    model(**batch)
    counted.remove()
    model(**batch)
    assert counted.shares() == {"real": 13 / 24, "longest": 16 / 24, "labelled": 7 / 24}
    silent = Padding([model])
    model(input_ids=batch["input_ids"])
    silent.remove()
    assert silent.shares() == {}


class Texts(Dataset):  # type: ignore[type-arg]
    """Of 2 to 11 tokens."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": [1] * (2 + 7 * index % 10)}


def _batches(loader: Any) -> list[list[int]]:
    return [[len(sample["input_ids"]) for sample in batch] for batch in loader]


@pytest.mark.parametrize("how", ["shuffle", "sampler"])
def test_batches_of_like_length(how: str) -> None:
    remedy, data = REMEDIES["bucketing"], Texts()
    plain = DataLoader.__init__
    assert remedy.early is not None
    undo = remedy.early()
    given: dict[str, Any] = {"shuffle": True} if how == "shuffle" else {"sampler": RandomSampler(data)}
    loader: Any = DataLoader(data, batch_size=4, collate_fn=list, **given)
    ordered: Any = DataLoader(data, batch_size=4, collate_fn=list)
    undo()
    assert DataLoader.__init__ is plain
    first, second = _batches(loader), _batches(loader)
    assert sorted(n for batch in first for n in batch) == sorted(length_of(data[i]) or 0 for i in range(400))
    assert max(max(batch) - min(batch) for batch in first) <= 1
    assert first != second
    assert first != sorted(first)
    assert _batches(ordered)[0] == [2, 9, 6, 3]


def test_where_batches_of_like_length_do_not_fit() -> None:
    program, _ = causal(llama(), tokens(padded=True))
    fits = REMEDIES["bucketing"].fits
    assert "no DataLoader draws" in (fits(program) or "")
    drawn = replace(program, loaders=[Loader(0, True, Texts(), 4, True)])
    assert fits(drawn) is None
    even = replace(program, loaders=[Loader(0, True, [{"input_ids": [1, 2]}] * 8, 4, True)])
    assert "all about the same" in (fits(even) or "")
    other = replace(program, loaders=[Loader(0, True, TensorDataset(torch.ones(8)), 4, True)])
    assert "no lengths" in (fits(other) or "")
