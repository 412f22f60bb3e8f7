"""Architectures that no preset has, with PEFT LoRA: ``python models.py NAME``."""

import sys
from collections.abc import Callable

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def ids(length: int = 20) -> Tensor:
    return torch.randint(3, 200, (3, length))


def t5() -> tuple[torch.nn.Module, dict[str, Tensor], list[str]]:
    config = hf.T5Config(vocab_size=200, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    return hf.T5ForConditionalGeneration(config), {"input_ids": ids(), "labels": ids(12)}, ["q", "v", "wi", "wo"]


def clip() -> tuple[torch.nn.Module, dict[str, Tensor], list[str]]:
    text = {**SMALL, "vocab_size": 200, "max_position_embeddings": 32, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    batch = {"input_ids": ids(), "pixel_values": torch.randn(3, 3, 32, 32), "return_loss": torch.tensor(True)}
    return model, batch, ["q_proj", "v_proj", "fc1"]


def mixtral() -> tuple[torch.nn.Module, dict[str, Tensor], list[str]]:
    config = hf.MixtralConfig(**SMALL, vocab_size=200, num_key_value_heads=2, num_local_experts=4)
    tokens = ids()
    return hf.MixtralForCausalLM(config), {"input_ids": tokens, "labels": tokens}, ["q_proj", "v_proj"]


def bloom() -> tuple[torch.nn.Module, dict[str, Tensor], list[str]]:
    """Its activation is an autograd function of its own."""
    tokens = ids()
    model = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=200, hidden_size=64, n_layer=2, n_head=4))
    return model, {"input_ids": tokens, "labels": tokens}, ["query_key_value"]


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Tensor], list[str]]]] = {
    f.__name__: f for f in (t5, clip, mixtral, bloom)
}
torch.manual_seed(0)
base, batch, targets = MODELS[sys.argv[1]]()
model = get_peft_model(base, LoraConfig(r=4, target_modules=targets))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
for _ in range(12):
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
