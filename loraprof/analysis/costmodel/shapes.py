"""The linears of common models and the whole-model prediction of full/LoRA time.

    fwd  = 2 (P + V d) T / F
    full = 3 fwd + beta N / BW          lora = 2 fwd + T sum over linears of (c_k k + c_n n) / BW

P: parameters of the block linears, V d: the head as a frozen linear (trained in the full arm), N: all parameters,
tied embeddings once, norms left out. Attention is ignored, all linears are adapted, LoRA's optimizer is free.
Shapes are those of the public model configurations.
"""

from typing import Final

from msgspec import Struct

from loraprof.analysis.costmodel.variants import full_size


class ModelShape(Struct, frozen=True):
    """A decoder: ``linears`` are the (k, n) of one layer."""

    name: str
    hidden: int
    layers: int
    vocabulary: int
    tied: bool
    linears: tuple[tuple[int, int], ...]

    @property
    def modules(self) -> int:
        return self.layers * len(self.linears)

    @property
    def layer_parameters(self) -> int:
        return sum(k * n for k, n in self.linears)

    @property
    def block_parameters(self) -> int:
        """P."""
        return self.layers * self.layer_parameters

    @property
    def parameters(self) -> int:
        """N without norms and biases, tied embeddings counted once."""
        tables = 1 if self.tied else 2
        return self.block_parameters + tables * self.vocabulary * self.hidden

    @property
    def sum_k(self) -> int:
        return self.layers * sum(k for k, _ in self.linears)

    @property
    def sum_n(self) -> int:
        return self.layers * sum(n for _, n in self.linears)


def llama(name: str, d: int, kv: int, ff: int, layers: int, vocabulary: int, tied: bool = False) -> ModelShape:
    """q, k, v, o, gate, up, down."""
    linears = ((d, d), (d, kv), (d, kv), (d, d), (d, ff), (d, ff), (ff, d))
    return ModelShape(name, d, layers, vocabulary, tied, linears)


def gpt2(name: str, d: int, layers: int, vocabulary: int = 50257) -> ModelShape:
    """c_attn, c_proj, c_fc, mlp.c_proj."""
    return ModelShape(name, d, layers, vocabulary, True, ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)))


MODELS: Final = {
    m.name: m
    for m in (
        gpt2("GPT2-xl", 1600, 48),
        llama("TinyLlama-1.1B", 2048, 256, 5632, 22, 32000),
        llama("Llama-3.2-1B", 2048, 512, 8192, 16, 128256, tied=True),
        llama("Llama-3.2-3B", 3072, 1024, 8192, 28, 128256, tied=True),
        llama("Mistral-7B", 4096, 1024, 14336, 32, 32000),
        llama("Llama-3-8B", 4096, 1024, 14336, 32, 128256),
        llama("Llama-3-70B", 8192, 1024, 28672, 80, 128256),
    )
}


class Prediction(Struct, frozen=True):
    """Seconds of one step."""

    full_s: float
    lora_s: float
    optimizer_s: float

    @property
    def speedup(self) -> float:
        """full/LoRA of forward plus backward."""
        return self.full_s / self.lora_s

    @property
    def speedup_with_optimizer(self) -> float:
        return (self.full_s + self.optimizer_s) / self.lora_s


def predict(
    model: ModelShape, variant: str, tokens: int, flops_per_s: float, bytes_per_s: float, beta: float = 28.0
) -> Prediction:
    """Full/LoRA of a whole model in the bandwidth regime; rates are effective ones."""
    forward = 2 * (model.block_parameters + model.vocabulary * model.hidden) * tokens / flops_per_s
    c_k, c_n = full_size(variant)
    traffic = tokens * (c_k * model.sum_k + c_n * model.sum_n) / bytes_per_s
    return Prediction(3 * forward, 2 * forward + traffic, beta * model.parameters / bytes_per_s)
