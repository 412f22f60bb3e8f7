"""A bare loop over a PEFT model with a scheduler: what compare turns into its full and its frozen arm."""

from collections import OrderedDict

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(
    OrderedDict(look=nn.Embedding(64, 96), up=nn.Linear(96, 384), act=nn.GELU(), down=nn.Linear(384, 64))
)
model = get_peft_model(net, LoraConfig(r=4, target_modules=["up", "down"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
for _ in range(60):
    tokens = torch.randint(0, 64, (256,))
    loss = nn.functional.cross_entropy(model(tokens), tokens)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
