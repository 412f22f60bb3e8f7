"""Hugging Face configs: parameter counts that are known, and one clear line for what is missing or contradicts."""

import re
from typing import Any

import pytest

from loraprof.errors import UsageError
from loraprof.estimate.config import architecture

LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
MIXTURE = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
VIT = {"model_type": "vit", "hidden_size": 768, "num_hidden_layers": 3, "num_attention_heads": 12, "num_labels": 2}
T5 = {
    "model_type": "t5",
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_heads": 8,
    "num_layers": 3,
    "vocab_size": 32128,
}
BERT = {**LLAMA, "model_type": "bert", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_key_value_heads": 12, "vocab_size": 30522, "type_vocab_size": 2}  # fmt: skip


def read(config: dict[str, Any], **changed: Any) -> Any:
    return architecture({**config, **changed}, "model", "config.json")


# Counts of transformers' own classes; a few biases and norms outside the layers are left out here.
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA, 41078272),
        ({**LLAMA, "model_type": "mistral"}, 41078272),
        ({**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True}, 41078272 - 32000 * 512 + 3 * 768),
        ({**MIXTURE, "intermediate_size": 1024}, 72498688),
        ({**LLAMA, "model_type": "gpt_neox", "num_key_value_heads": 8}, 40159776),
        ({**LLAMA, "model_type": "phi"}, 39006752),
        ({**LLAMA, "model_type": "starcoder2"}, 22593824),
        (VIT, 22009346),
        (T5, 38478848),
        (BERT, 45692930),
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 3, "n_head": 12}, 60648960),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_the_parameters_of_known_models(config: dict[str, Any], parameters: int) -> None:
    assert read(config).parameters == pytest.approx(parameters, rel=2e-4)


def test_experts_see_their_share_of_the_tokens() -> None:
    found = {linear.name: linear for _, linear in read(MIXTURE).linears()}
    assert (found["experts.gate_proj"].calls, found["experts.gate_proj"].share) == (8, 0.25)
    assert (found["router"].k, found["router"].n) == (512, 8)


def test_a_decoder_of_two_stacks() -> None:
    encoder, decoder = (stack.layer for stack in read(T5).stacks)
    assert [len(layer.linears) for layer in (encoder, decoder)] == [6, 10]
    assert (encoder.attentions, decoder.attentions) == (1, 2)


def test_an_image_is_its_patches_and_one_token() -> None:
    assert read(VIT).tokens_per_sample == 197


def test_an_unknown_architecture_is_read_as_a_llama_and_said_so() -> None:
    found = read(LLAMA, model_type="newlm")
    assert found.parameters == read(LLAMA).parameters
    assert "newlm" in found.notes[0]


def test_the_text_model_of_a_vision_model() -> None:
    found = architecture({"model_type": "some_vl", "text_config": LLAMA, "vision_config": {}}, "m", "config.json")
    assert found.parameters == read(LLAMA).parameters
    assert "text model" in found.notes[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "`model_type` is missing"),
        ({"model_type": "llama", "hidden_size": 512, "vocab_size": 9},
         "llama lacks num_attention_heads, num_hidden_layers, intermediate_size"),
        ({"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 3, "vocab_size": 100},
         "unknown architecture 'mamba', read as a Llama, lacks num_attention_heads, intermediate_size"),
        ({**LLAMA, "model_type": "deepseek_v3", "kv_lora_rank": 512}, "no Llama has its `kv_lora_rank`"),
        ({**LLAMA, "model_type": "deberta-v2", "type_vocab_size": 0}, "no Llama has its `type_vocab_size`"),
        ({**LLAMA, "model_type": "beit", "patch_size": 16}, "no Llama has its `patch_size`"),
        ({**LLAMA, "model_type": "hybrid", "layer_types": ["linear_attention"]}, "no Llama has its `layer_types`"),
        ({**LLAMA, "hidden_size": -1}, "`hidden_size` must be at least 1, got -1"),
        ({**LLAMA, "hidden_size": 10**400}, "`hidden_size` must be at most 10000000"),
        ({**LLAMA, "hidden_size": "512"}, "`hidden_size` is '512', not a whole number"),
        ({**LLAMA, "hidden_size": True}, "`hidden_size` is True, not a whole number"),
        ({**LLAMA, "num_attention_heads": 7, "num_key_value_heads": 7},
         "width 512 is no multiple of `num_attention_heads` 7"),
        ({**LLAMA, "num_key_value_heads": 3}, "`num_attention_heads` 8 is no multiple of `num_key_value_heads` 3"),
        ({**LLAMA, "tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes', not true or false"),
        ({**MIXTURE, "num_experts_per_tok": 9}, "`num_experts_per_tok` 9 is above the 8 experts"),
        ({"model_type": "gpt2", "n_embd": 90, "n_layer": 1, "n_head": 12}, "`n_embd` 90 is no multiple of `n_head` 12"),
        ({**VIT, "image_size": 225}, "`image_size` 225 is no multiple of `patch_size` 16"),
        ({"model_type": "resnet", "hidden_sizes": [64], "depths": [2, 2]}, "must be lists of one length"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        architecture(config, "model", "config.json")
    assert caught.value.message.startswith("config.json: ")
    assert "\n" not in caught.value.message
