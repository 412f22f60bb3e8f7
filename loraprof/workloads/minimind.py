"""A small decoder written by hand, as in github.com/jingyaogong/minimind: it needs no transformers."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class MiniMindConfig:
    vocab_size: int = 6400
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    rope_theta: float = 1e6
    norm_eps: float = 1e-5


class Output(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of position times frequency, ``theta ** (-2 i / head_dim)``."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(theta ** (-torch.arange(0, head_dim, 2).float() / head_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device).float(), self.frequencies.float())
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, c: MiniMindConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = c.num_attention_heads, c.num_key_value_heads
        kv_size = c.hidden_size // self.heads * self.kv_heads
        self.q_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, size = x.shape
        q = self.q_proj(x).view(batch, seq, self.heads, -1).transpose(1, 2)
        k = self.k_proj(x).view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        v = self.v_proj(x).view(batch, seq, self.kv_heads, -1).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeats = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, seq, size))
        return out


class FeedForward(nn.Module):
    def __init__(self, c: MiniMindConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, c: MiniMindConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.input_layernorm = RMSNorm(c.hidden_size, c.norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.norm_eps)
        self.mlp = FeedForward(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class MiniMind(nn.Module):
    """Embedding, blocks, norm and a head tied to the embedding; ``labels`` are shifted inside."""

    def __init__(self, c: MiniMindConfig) -> None:
        super().__init__()
        self.use_reentrant = False
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.rotary = RotaryEmbedding(c.hidden_size // c.num_attention_heads, c.rope_theta)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        x = self.embed_tokens(input_ids)
        cos, sin = self.rotary(x)
        for layer in self.layers:
            if layer.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, cos, sin, use_reentrant=self.use_reentrant)
            else:
                x = layer(x, cos, sin)
        logits = self.lm_head(self.norm(x))
        if labels is None:
            return Output(None, logits)
        shifted = logits[:, :-1].flatten(0, 1).float()
        return Output(F.cross_entropy(shifted, labels[:, 1:].flatten()), logits)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, bool]) -> None:
        """The same interface as a transformers model."""
        self.use_reentrant = gradient_checkpointing_kwargs["use_reentrant"]
        for layer in self.layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]
