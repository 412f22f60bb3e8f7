"""What a rank holds of a sharded tensor is what is counted; without shards nothing changes."""

import torch
from torch import nn

from loraprof.capture.modules.facts import missing_gradients, tensor_bytes
from loraprof.capture.modules.markers import Markers
from loraprof.capture.modules.shards import is_sharded, local
from loraprof.capture.passes.saved import SavedForBackward


class Shard:
    """Looks like a DTensor: no storage of its own, a local part."""

    def __init__(self, part: torch.Tensor) -> None:
        self._local_tensor = part


def test_a_plain_tensor_is_its_own_part() -> None:
    x = torch.ones(3)
    assert local(x) is x
    assert not is_sharded(x)
    assert not is_sharded(nn.Parameter(x))


def test_of_a_shard_the_part_counts() -> None:
    part = torch.ones(4, 2)
    assert local(Shard(part)) is part  # type: ignore[arg-type]
    assert is_sharded(Shard(part))  # type: ignore[arg-type]
    assert tensor_bytes([Shard(part), part]) == 32  # type: ignore[list-item]


class Gathered(nn.Linear):
    """Like a block of FSDP2: its weight becomes another tensor when it begins."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def test_weights_that_are_gathered_inside_a_block_are_no_activations() -> None:
    model = nn.Sequential(Gathered(64, 64), nn.Tanh())

    def gather(module: nn.Module, _: object) -> None:
        module.weight = nn.Parameter(module.weight.detach().clone())  # type: ignore[operator]

    x = torch.randn(2, 64, requires_grad=True)

    def kept() -> int | None:
        saved = SavedForBackward()
        saved.open()
        model(x)
        saved.close()
        return saved.nbytes

    plain = kept()
    model.register_forward_pre_hook(lambda module, args: gather(module[0], args))
    assert kept() == plain


def test_a_part_without_elements_has_no_gradient_to_miss() -> None:
    """Sharded by FSDP's first version, most parameters lie on one rank as a whole and are empty on the others."""
    model = nn.ParameterDict({"empty": nn.Parameter(torch.zeros(0)), "full": nn.Parameter(torch.zeros(2))})
    markers = Markers()
    markers.adopt([model])
    assert missing_gradients(markers) == ["full"]
