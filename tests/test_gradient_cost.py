"""Which frozen modules are measured, for what, and what is left alone."""

import pytest
import torch
from torch import nn

from loraprof.capture.device import gradient_cost
from loraprof.capture.device.gradient_cost import frozen_of, gradient_costs
from loraprof.capture.device.training_cost import frozen_parameters, training_cost
from loraprof.capture.modules.markers import COUNTED, Markers
from loraprof.model.recording import GradientCost

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.trained = nn.Linear(8, 4, bias=False)
        self.idle = nn.Linear(8, 8)
        self.requires_grad_(False)
        self.trained.requires_grad_(True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.first(self.table(ids))))
        return self.trained(self.norm(x.flatten(0, 1)))


def counted(net: nn.Module, ids: torch.Tensor) -> Markers:
    markers = Markers()
    markers.step = COUNTED
    markers.install()
    try:
        net(ids)
    finally:
        markers.remove()
    return markers


def costs(net: nn.Module, markers: Markers) -> dict[nn.Module, GradientCost]:
    modules = {number: module for module, number in markers.ids.items()}
    return {modules[c.module]: c for c in gradient_costs(markers.called, markers.ids.__getitem__, CPU)}


def test_frozen_modules_that_ran_and_no_others() -> None:
    net, ids = Net(), torch.randint(50, (3, 5))
    found = costs(net, counted(net, ids))
    assert set(found) == {net.table, net.first, net.second, net.norm}
    assert {m: c.calls for m, c in found.items()} == {net.table: 1, net.first: 2, net.second: 1, net.norm: 1}
    assert found[net.table].input_ns is None
    assert all(c.weight_ns > 0 for c in found.values())
    assert all(c.input_ns for m, c in found.items() if m is not net.table)


def test_equal_modules_share_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    bench = gradient_cost._Bench.cost
    monkeypatch.setattr(gradient_cost._Bench, "cost", lambda self, m: measured.append(m) or bench(self, m))
    net = Net()
    found = costs(net, counted(net, torch.randint(50, (3, 5))))
    assert set(measured) == {net.table, net.first, net.norm}
    assert len(measured) == 3
    assert found[net.first].weight_ns == found[net.second].weight_ns


def test_weights_gradients_and_random_numbers_stay_as_they_were() -> None:
    net = Net()
    markers = counted(net, torch.randint(50, (3, 5)))
    before = {name: p.clone() for name, p in net.named_parameters()}
    torch.manual_seed(3)
    costs(net, markers)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_what_cannot_run_alone_is_left_out() -> None:
    class Two(nn.Linear):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x + y)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two(4, 4).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(x, x)

    net = Outer()
    assert costs(net, counted(net, torch.randn(2, 4))) == {}


def test_only_plain_floating_parameters_count() -> None:
    layer = nn.Linear(4, 4)
    assert frozen_of(layer) == {}
    layer.weight.requires_grad_(False)
    assert set(frozen_of(layer)) == {"weight"}
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    assert frozen_of(layer) == {}


def test_a_table_has_gradients_in_the_rows_it_was_asked_for_unless_a_head_shares_it() -> None:
    net = Net()
    markers = counted(net, torch.randint(50, (3, 5)))
    rows = {id(f.tensor): f.rows for f in frozen_parameters(markers)}
    assert rows[id(net.table.weight)] == 15
    assert rows[id(net.first.weight)] is None
    net.idle = nn.Linear(8, 50, bias=False)
    net.idle.weight = net.table.weight
    markers = counted(net, torch.randint(50, (3, 5)))
    assert {f.rows for f in frozen_parameters(markers)} == {None}


def test_what_a_trained_copy_replaces_is_not_trained_twice() -> None:
    class Replaced(nn.Module):
        """As PEFT's modules_to_save wraps a head."""

        def __init__(self) -> None:
            super().__init__()
            self.original_module = nn.Linear(4, 9).requires_grad_(False)
            self.copy = nn.Linear(4, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.copy(x)
            return out

    net = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), Replaced())
    assert sum(f.tensor.numel() for f in frozen_parameters(counted(net, torch.randn(2, 4)))) == 4 * 4 + 4


def test_the_cost_stands_for_all_frozen_parameters() -> None:
    net = Net()
    markers = counted(net, torch.randint(50, (3, 5)))
    frozen = frozen_parameters(markers)
    found = training_cost(frozen, torch.optim.AdamW(net.trained.parameters(), lr=1e-3, amsgrad=True))
    assert found is not None
    assert found.parameters == found.sampled == sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert min(found.optimizer_ns, found.clip_ns, found.accumulate_ns) > 0
    assert found.reread_ns >= 0
    assert training_cost([], torch.optim.SGD(net.trained.parameters(), lr=1e-3)) is None


def test_an_optimizer_that_cannot_be_made_again_gives_nothing() -> None:
    class Picky(torch.optim.SGD):
        def __init__(self, params: object, needed: object) -> None:
            super().__init__(params, lr=1e-3)  # type: ignore[arg-type]

    net = Net()
    frozen = frozen_parameters(counted(net, torch.randint(50, (3, 5))))
    assert training_cost(frozen, Picky(net.trained.parameters(), 1)) is None
