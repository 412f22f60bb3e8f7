"""Remedies of the data: padding to the longest, outputs of frozen networks kept, workers for the loader."""

import os
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from loraprof.capture.modules.facts import columns_used
from loraprof.live_remedies.program import Call, Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, nothing, swap
from loraprof.live_remedies.watch import rows

ALONG_TOKENS: Final = ("input_ids", "attention_mask", "labels", "position_ids", "token_type_ids")
LEAST_PADDING: Final = 0.02
WORKERS: Final = 2


def longest(kwargs: dict[str, Any]) -> int | None:
    """Columns of a right-padded batch up to the last that any row uses; None where that is not known."""
    mask, labels = kwargs.get("attention_mask"), kwargs.get("labels")
    if not isinstance(mask, Tensor) or not isinstance(labels, Tensor) or mask.dim() != 2 or mask.shape != labels.shape:
        return None
    return columns_used(mask, labels) or None


def _padding(program: Program) -> str | None:
    calls = [c for c in program.calls_of(program.model) if c.grad]
    lengths = [longest(dict(call.kwargs)) for call in calls]
    known = [
        (n, m.shape[1]) for n, c in zip(lengths, calls, strict=True) if n and (m := c.tensor("labels")) is not None
    ]
    if not known:
        return "the model is not called with attention_mask and labels of the same shape"
    used_columns, all_columns = (sum(column) for column in zip(*known, strict=True))
    return None if used_columns < (1 - LEAST_PADDING) * all_columns else "no column of the batches is all padding"


def _trim(program: Program) -> Undo:
    def trim(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        length = longest(kwargs)
        if length is None:
            return args, kwargs
        width = kwargs["labels"].shape[1]
        shorter = {k: v[:, :length] for k, v in kwargs.items() if _along_tokens(k, v, width)}
        return args, {**kwargs, **shorter}

    return program.model.register_forward_pre_hook(trim, with_kwargs=True).remove


def _along_tokens(name: str, value: Any, width: int) -> bool:
    return name in ALONG_TOKENS and isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == width


PAD_TO_LONGEST = LiveRemedy(
    name="pad-to-longest",
    kind="data",
    text='pad each batch to its own longest sequence: tokenizer.pad(batch, padding="longest")',
    fits=_padding,
    apply=_trim,
    findings=("G4",),
)


def frozen_networks(program: Program) -> list[nn.Module]:
    """Networks beside the model that train nothing and compute each row of their one input by itself."""
    return [n for n in program.networks if n is not program.model and _cacheable(program.calls_of(n), n)]


def _cacheable(calls: list[Call], network: nn.Module) -> bool:
    if not calls or any(p.requires_grad for p in network.parameters()):
        return False
    if network.training and any(_draws(m) for m in network.modules()):
        return False
    return all(
        len(c.args) == 1 and not c.kwargs and isinstance(c.args[0], Tensor) and c.args[0].dim() > 1 for c in calls
    )


def _draws(module: nn.Module) -> bool:
    """Its output is not a function of the row alone."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)


def _no_cache(program: Program) -> str | None:
    if not frozen_networks(program):
        return "no frozen network with one tensor as its input runs beside the model"
    return None if program.period else "the inputs of the frozen network do not come again in the steps watched"


def _cached(network: nn.Module) -> Undo:
    plain: Any = network.forward
    outputs: dict[int, Tensor] = {}

    def forward(x: Tensor) -> Any:
        keys = rows(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return plain(x)
        if all(key in outputs for key in keys):
            return torch.stack([outputs[key] for key in keys])
        out = plain(x)
        if isinstance(out, Tensor) and out.dim() and len(out) == len(keys):
            outputs.update(zip(keys, out.detach(), strict=True))
        return out

    return swap(network, "forward", forward)


CACHED = LiveRemedy(
    name="cached-outputs",
    kind="same_training",
    text="compute the frozen network's outputs once per sample and keep them: its inputs come again every epoch",
    fits=_no_cache,
    apply=lambda program: all_of([_cached(network) for network in frozen_networks(program)]),
    findings=("B11",),
    lasting=True,
)


def _no_workers(program: Program) -> str | None:
    if not program.loaders:
        return "no DataLoader is used"
    if not any(loader.workers == 0 and loader.map_style for loader in program.loaders):
        return "the DataLoader has workers already, or an iterable dataset"
    return "one CPU core leaves none for workers" if (os.cpu_count() or 1) < 2 else None


def _workers() -> Undo:
    plain = DataLoader.__init__

    def init(loader: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
        unset = not kwargs.get("num_workers") and len(args) < 5 and not isinstance(dataset, IterableDataset)
        more = {"num_workers": WORKERS, "persistent_workers": True, "pin_memory": torch.cuda.is_available()}
        plain(loader, dataset, *args, **{**kwargs, **more} if unset else kwargs)

    return swap(DataLoader, "__init__", init)


LOADER_WORKERS = LiveRemedy(
    name="loader-workers",
    kind="same_training",
    text="DataLoader(num_workers=2, persistent_workers=True, pin_memory=True), or dataloader_num_workers=2",
    fits=_no_workers,
    apply=lambda program: nothing,
    findings=("H4",),
    early=_workers,
)
