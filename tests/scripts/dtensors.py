"""Linears of two ranks, one of them made up, whose adapters are sharded or plain: ``python dtensors.py HOW``."""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

SHARDED = (sys.argv[1:] or ["sharded"])[0] == "sharded"
WIDTH, RANK = 64, 8
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
mesh = init_device_mesh("cpu", (2,))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 8, requires_grad=False)
        self.lora_A = nn.Parameter(self._placed(torch.randn(RANK, WIDTH) / 8))
        self.lora_B = nn.Parameter(self._placed(torch.zeros(WIDTH, RANK)))

    def _placed(self, t: Tensor) -> Tensor:
        return distribute_tensor(t, mesh, [Shard(0)]) if SHARDED else t

    def forward(self, x: Tensor) -> Tensor:
        if not SHARDED:
            return x @ self.weight.t() + (x @ self.lora_A.t()) @ self.lora_B.t()
        y = DTensor.from_local(x, mesh, [Replicate()])
        low = (y @ self.lora_A.t()) @ self.lora_B.t()
        return x @ self.weight.t() + low.redistribute(mesh, [Replicate()]).to_local()


torch.manual_seed(0)
model = nn.Sequential(*(Linear() for _ in range(4)))
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
x = torch.randn(32, WIDTH)
for _ in range(1000):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
