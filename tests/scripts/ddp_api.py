"""DDP over gloo around which loraprof.profile goes; SHORT=rank leaves its loop too early for a recording."""

import os
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import loraprof

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(32, 32))
optimizer = torch.optim.AdamW(model.parameters())
alone = model.no_sync if "SHORT" in os.environ else nullcontext  # a rank that leaves holds up no other
try:
    with loraprof.profile("x.loraprof") as profile:
        for step in range(40):
            if profile.done:
                break
            if step == 4 and os.environ.get("SHORT") == str(rank):
                raise ValueError("no more data")
            with alone():
                model(torch.randn(8, 32)).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"rank {rank}: {profile.path.name if profile.path else None}")
except ValueError as error:
    print(f"rank {rank}: {error}")
dist.destroy_process_group()
