"""TRL's SFTTrainer: short texts, each batch padded to 256 tokens."""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = ["loss", "gradient", "weight", "rank", "step", "batch", "layer", "token"]
vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "</s>", *words])}
tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
tokenizer.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
    )
)
texts = Dataset.from_list([{"text": " ".join(words[i % 8 :] + words)} for i in range(24)])
arguments = SFTConfig(
    output_dir=tempfile.mkdtemp(),
    max_steps=8,
    per_device_train_batch_size=2,
    logging_steps=1,
    pad_to_multiple_of=256,
    max_length=512,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    disable_tqdm=True,
)
lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
trainer = SFTTrainer(model=model, args=arguments, train_dataset=texts, processing_class=tokenizer, peft_config=lora)
trainer.train()
for entry in trainer.state.log_history[:8]:
    print(entry["loss"].hex())
