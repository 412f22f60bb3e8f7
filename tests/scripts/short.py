"""Eight optimizer steps, as a quick trial or a large accumulation has.

Expected: a recording and a report from what there was, with wider intervals and a note; no "train longer".
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
model = get_peft_model(
    GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=1000, n_positions=128)),
    LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True),
)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for _ in range(8):
    ids = torch.randint(0, 1000, (2, 32))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
