"""torchtune's builder of a Llama 3 with LoRA, with dropout in every adapter."""

import torch
from torchtune.models.llama3 import lora_llama3
from torchtune.modules.peft import get_adapter_params, set_trainable_params

torch.manual_seed(0)
model = lora_llama3(
    ["q_proj", "v_proj", "output_proj"],
    apply_lora_to_mlp=True,
    vocab_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    embed_dim=64,
    intermediate_dim=128,
    max_seq_len=128,
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.1,
)
set_trainable_params(model, get_adapter_params(model))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for _ in range(8):
    tokens = torch.randint(128, (2, 64))
    loss = torch.nn.functional.cross_entropy(model(tokens).float().flatten(0, 1), tokens.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item().hex())
