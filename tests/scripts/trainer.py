"""The Hugging Face Trainer with a PEFT model."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(LlamaForCausalLM(config), lora)


class Random(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.randint(0, 256, (32,))
        return {"input_ids": x, "labels": x}


arguments = TrainingArguments(
    output_dir=sys.argv[1],
    per_device_train_batch_size=4,
    max_steps=60,
    report_to=[],
    save_strategy="no",
    use_cpu=True,
    gradient_accumulation_steps=2,
)
Trainer(model=model, args=arguments, train_dataset=Random()).train()
