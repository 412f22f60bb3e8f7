"""LyCORIS takes the place of the layers' forward and builds a weight difference in every pass."""

import sys

import torch
from lycoris import LycorisNetwork, create_lycoris
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 192), nn.GELU(), nn.Linear(192, 64)).requires_grad_(False)
LycorisNetwork.apply_preset({"target_name": [".*"], "enable_conv": False})
network = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2, algo=sys.argv[1])
network.apply_to()
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
for _ in range(8):
    x = torch.randn(96, 64)
    loss = (model(x) - x).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
