"""Lightning's Trainer.fit: adapters stay in float32 on a bfloat16 base, PEFT's default."""

import lightning
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader


class Block(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(x)))


class Task(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        base = nn.Sequential(Block(), Block()).to(torch.bfloat16)
        self.model = get_peft_model(base, LoraConfig(r=4, target_modules=["up", "down"]))

    def training_step(self, batch, index):
        loss = (self.model(batch).float() - 1).pow(2).mean()
        print(loss.item().hex())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


lightning.seed_everything(0, verbose=False)
data = DataLoader(torch.randn(64, 128).to(torch.bfloat16), batch_size=8)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(Task(), data)
