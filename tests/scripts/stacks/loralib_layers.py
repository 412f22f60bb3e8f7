"""loralib's own layers in a plain loop: a table, two linears with dropout, a fused projection."""

import loralib
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    loralib.Embedding(64, 96, r=4),
    loralib.Linear(96, 192, r=8, lora_alpha=16, lora_dropout=0.1),
    nn.GELU(),
    loralib.MergedLinear(192, 288, r=8, enable_lora=[True, False, True]),
    nn.GELU(),
    loralib.Linear(288, 64, r=8, lora_alpha=16, lora_dropout=0.1),
)
loralib.mark_only_lora_as_trainable(model)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(8):
    ids = torch.randint(64, (4, 48))
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
