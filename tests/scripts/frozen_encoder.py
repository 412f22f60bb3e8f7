"""A frozen encoder runs on every image of every step; LoRA trains a small network behind it."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
encoder = nn.Sequential(
    nn.Conv2d(3, 48, 3, padding=1),
    nn.SiLU(),
    nn.Conv2d(48, 96, 3, stride=2, padding=1),
    nn.SiLU(),
    nn.Conv2d(96, 96, 3, stride=2, padding=1),
    nn.SiLU(),
    nn.Conv2d(96, 8, 1),
).requires_grad_(False)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_in, self.to_hidden, self.to_out = nn.Linear(8, 256), nn.Linear(256, 256), nn.Linear(256, 8)

    def forward(self, x):
        return self.to_out(nn.functional.silu(self.to_hidden(nn.functional.silu(self.to_in(x)))))


denoiser = get_peft_model(Denoiser(), LoraConfig(r=4, target_modules=["to_in", "to_hidden", "to_out"]))
optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-4)
images = torch.randn(16, 3, 64, 64)
for i in range(24):
    image = images[[2 * i % 16, (2 * i + 1) % 16]]
    with torch.no_grad():
        latent = encoder(image).flatten(2).transpose(1, 2)
    noise = torch.randn_like(latent)
    loss = (denoiser(latent + noise) - noise).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
