"""The head and its cross-entropy as one: the logits of all tokens never exist at once, those without a label never.

Per chunk of labelled tokens: z = h W^T, loss += logsumexp(z) - z[label], dz = softmax(z) - onehot, dh = dz W, and
dW += dz^T h where W is trained. The gradient is known when the forward ends (as in
github.com/linkedin/Liger-Kernel).
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from loraprof.capture.modules.facts import IGNORED
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, nothing, swap

CHUNK_BYTES: Final = 64 << 20  # of logits in fp32
SCALED: Final = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies of ``hidden`` (tokens, width) under ``weight`` (vocabulary, width); fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for h, dh, label in zip(*(torch.split(t, rows) for t in (hidden, d_hidden, labels)), strict=True):
            logits = (h @ weight.t()).to(total.dtype)
            total += F.cross_entropy(logits, label, reduction="sum")
            gradient = logits.softmax(dim=-1)
            gradient[torch.arange(len(label), device=label.device), label] -= 1
            low = gradient.to(h.dtype)
            torch.mm(low, weight, out=dh)
            if d_weight is not None:
                d_weight.addmm_(low.t(), h)
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        return (
            d_hidden * grad.to(d_hidden.dtype),
            None if d_weight is None else d_weight * grad.to(d_weight.dtype),
            None,
        )


def _chunked(weight: Tensor, hidden: Tensor, labels: Tensor, shift_labels: Tensor | None, items: Any) -> Tensor:
    """The mean over labelled tokens, or the sum over ``items``: what transformers' ForCausalLMLoss makes of logits."""
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    flat = shift_labels.reshape(-1).to(hidden.device)
    labelled = (flat != IGNORED).nonzero().squeeze(1)
    rows = hidden.reshape(-1, hidden.shape[-1])[labelled]
    total: Tensor = ChunkedCrossEntropy.apply(rows, weight, flat[labelled])  # type: ignore[no-untyped-call]
    return total / (len(labelled) if items is None else items)


def causal_model(model: nn.Module) -> Any:
    """The module whose own ``lm_head`` makes logits for transformers' causal loss; None where there is none."""
    for module in model.modules():
        loss: Any = getattr(module, "loss_function", None) if "lm_head" in module._modules else None
        if getattr(loss, "__name__", "") == "ForCausalLMLoss":
            return module
    return None


def _unfit(program: Program) -> str | None:
    causal = causal_model(program.model)
    if causal is None:
        return "no causal language model of transformers computes its own loss here"
    plain = type(causal.lm_head) is nn.Linear and causal.lm_head.bias is None
    if not plain:
        return "its head is more than a plain product"
    if any(getattr(causal.config, name, None) not in (None, 1, 1.0) for name in SCALED):
        return "its logits are scaled or capped after the head"
    calls = [call for call in program.calls_of(program.model) if call.grad]
    return None if calls and all(call.tensor("labels") is not None for call in calls) else "it is called without labels"


def _chunk(program: Program) -> Undo:
    causal = causal_model(program.model)
    if causal is None:
        return nothing
    head, plain = causal.lm_head, causal.loss_function
    inside = False

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal inside
        inside = module.training and isinstance(kwargs.get("labels"), Tensor)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal inside
        if inside and getattr(output, "logits", None) is not None:
            output.logits = None  # it holds what the head was called with
        inside = False

    def forward(hidden: Tensor) -> Tensor:
        return hidden if inside else F.linear(hidden, head.weight)

    def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not inside:
            return plain(logits, labels, *args, **kwargs)
        return _chunked(head.weight, logits, labels, kwargs.get("shift_labels"), kwargs.get("num_items_in_batch"))

    hooks = causal.register_forward_pre_hook(enter, with_kwargs=True), causal.register_forward_hook(leave)
    changes = swap(head, "forward", forward), swap(causal, "_loss_function", loss)
    return all_of([*(hook.remove for hook in hooks), *changes])


CHUNKED = LiveRemedy(
    name="chunked-loss",
    kind="same_training",
    text="head and cross-entropy in chunks, of labelled tokens only: TrainingArguments(use_liger_kernel=True)",
    fits=_unfit,
    apply=_chunk,
    findings=("B6",),
)
