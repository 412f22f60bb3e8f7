"""One optimizer per parameter, stepped inside backward by post-accumulate hooks, to save gradient memory.

Expected: the training ends as without loraprof, with its own exit code; the step is recorded (it runs from one
backward to the next), or refused in one line. Never an exception inside the user's backward.
"""

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, width: int, rank: int = 8) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x) + self.lora_B(self.lora_A(x))
        return out


torch.manual_seed(0)
model = nn.Sequential(*[LoRALinear(256) for _ in range(4)])
optimizers: dict[torch.Tensor, torch.optim.AdamW] = {
    p: torch.optim.AdamW([p], lr=1e-3) for p in model.parameters() if p.requires_grad
}


def step(parameter: torch.Tensor) -> None:
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for parameter in optimizers:
    parameter.register_post_accumulate_grad_hook(step)
for _ in range(24):
    x = torch.randn(128, 256)
    (model(x) - x).pow(2).mean().backward()
print("done")
