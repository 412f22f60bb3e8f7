"""PEFT LoRA under the Hugging Face Trainer, profiled by a callback: python examples/hf_trainer.py RECORDING.loraprof

``loraprof profile`` needs no callback; this is for a job that goes on training, or that keeps the report.
"""

import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import loraprof
from loraprof.integrations.transformers import ProfileCallback

config = LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(LlamaForCausalLM(config), lora)
tokens = torch.randint(config.vocab_size, (400, 32))
data = [{"input_ids": row, "labels": row} for row in tokens]

profile = loraprof.profile(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=4, max_steps=10_000, save_strategy="no", report_to=[]
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[ProfileCallback(profile)])
    trainer.train()  # ends when the recording is complete; ProfileCallback(profile, finish=True) trains on

print(f"stopped after {trainer.state.global_step} steps")
print(profile.report.verdict.sentence)
