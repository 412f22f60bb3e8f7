"""Where each architecture keeps its layers, its embedding, its head and its attention projections."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal

from torch import nn

from loraprof.model.workload import WorkloadSpec

Task = Literal["causal", "text", "image"]


@dataclass(frozen=True)
class Family:
    """``qv`` names the modules that hold query and value; empty where the architecture has no attention."""

    config: str  # class in transformers
    model: str
    task: Task
    depth: str  # the config's key for the number of layers
    layers: str  # attribute path from the model
    embedding: str  # the module whose output every later gradient flows back to
    qv: tuple[str, ...]


FAMILIES: Final[dict[str, Family]] = {
    "llama": Family(
        config="LlamaConfig",
        model="LlamaForCausalLM",
        task="causal",
        depth="num_hidden_layers",
        layers="model.layers",
        embedding="model.embed_tokens",
        qv=("q_proj", "v_proj"),
    ),
    "qwen2": Family(
        config="Qwen2Config",
        model="Qwen2ForCausalLM",
        task="causal",
        depth="num_hidden_layers",
        layers="model.layers",
        embedding="model.embed_tokens",
        qv=("q_proj", "v_proj"),
    ),
    "minimind": Family(
        config="MiniMindConfig",  # loraprof.workloads.minimind
        model="MiniMind",
        task="causal",
        depth="num_hidden_layers",
        layers="layers",
        embedding="embed_tokens",
        qv=("q_proj", "v_proj"),
    ),
    "gpt2": Family(
        config="GPT2Config",
        model="GPT2LMHeadModel",
        task="causal",
        depth="n_layer",
        layers="transformer.h",
        embedding="transformer.wte",
        qv=("c_attn",),  # one projection for query, key and value: PEFT's own default for GPT-2
    ),
    "opt": Family(
        config="OPTConfig",
        model="OPTForCausalLM",
        task="causal",
        depth="num_hidden_layers",
        layers="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        qv=("q_proj", "v_proj"),
    ),
    "roberta": Family(
        config="RobertaConfig",
        model="RobertaForSequenceClassification",
        task="text",
        depth="num_hidden_layers",
        layers="roberta.encoder.layer",
        embedding="roberta.embeddings.word_embeddings",
        qv=("query", "value"),
    ),
    "resnet": Family(
        config="ResNetConfig",
        model="ResNetForImageClassification",
        task="image",
        depth="depths",  # blocks per stage
        layers="resnet.encoder.stages",
        embedding="resnet.embedder.embedder.convolution",
        qv=(),
    ),
}

HEADS: Final = ("lm_head", "classifier")


def family_of(spec: WorkloadSpec) -> Family:
    return FAMILIES[spec.family]


def layers_of(base: nn.Module, family: Family) -> list[nn.Module]:
    """The model's layers, lowest first; a residual network's are the blocks of all its stages."""
    found = list(attrgetter(family.layers)(base))
    return [block for stage in found for block in stage.layers] if family.task == "image" else found


def embedding_of(base: nn.Module, family: Family) -> nn.Module:
    module: nn.Module = attrgetter(family.embedding)(base)
    return module


def head_parameters(base: nn.Module, family: Family) -> list[nn.Parameter]:
    """The fresh classifier of a classification task, which every arm that trains anything trains too."""
    return [] if family.task == "causal" else list(base.get_submodule("classifier").parameters())
