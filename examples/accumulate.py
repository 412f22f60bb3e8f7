"""Gradient accumulation with Accelerate: python examples/accumulate.py RECORDING.loraprof

A step is everything between two optimizer steps, here four micro-batches. Nothing in the loop says so to loraprof.
"""

import sys

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import nn

import loraprof

torch.manual_seed(0)
base = nn.Sequential(nn.Embedding(256, 128), nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 256))
model = get_peft_model(base, LoraConfig(r=8, target_modules=["1", "3"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
batches = torch.utils.data.DataLoader(torch.randint(256, (4000, 64)), batch_size=8)

accelerator = Accelerator(gradient_accumulation_steps=4)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
with loraprof.profile(sys.argv[1], progress=accelerator.print) as profile:
    while not profile.done:  # an epoch each
        for tokens in batches:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if profile.done:
                break

workload = profile.recording.workload
print(f"{workload.micro_batches} micro-batches, {workload.tokens_per_step} tokens per step")
print(profile.report.verdict.sentence)
