"""Remedies of the model as a whole: compiled blocks, autocast, attention's kernel, checkpointing."""

import shutil
from collections import Counter
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, swap

LEAST_BLOCKS: Final = 2


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks that hold most parameters: children of one class in one container; else the model itself."""
    best: list[nn.Module] = []
    for container in model.modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            kinds = Counter(type(child) for child in container)
            for kind, count in kinds.items():
                own = [child for child in container if type(child) is kind]
                if count >= LEAST_BLOCKS and _size(own) > _size(best):
                    best = own
    return best if _size(best) * 2 >= _size([model]) else best or [model]


def _size(modules: list[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def _no_compiling(program: Program) -> str | None:
    if any(m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule" for m in program.model.modules()):
        return "it is compiled already"
    if program.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return "torch.compile needs a C++ compiler here, and there is none"
    if program.device.type == "cuda":
        try:
            import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
        except ImportError:
            return "torch.compile needs Triton, which is not installed"
    return None


def _compile(program: Program, **options: Any) -> Undo:
    blocks = blocks_of(program.model)
    undos = [swap(block, "_compiled_call_impl", None) for block in blocks]
    for block in blocks:
        block.compile(**options)
    return all_of(undos)


COMPILE = LiveRemedy(
    name="compile-blocks",
    kind="same_training",
    text="compile the repeated blocks, so that one compilation serves all: for block in model.layers: block.compile()",
    fits=_no_compiling,
    apply=_compile,
    findings=("H1",),
)


def _no_graphs(program: Program) -> str | None:
    """A graph replays the same launches on the same memory: nothing of a block's may move, change its shape, run again
    in backward, or be looked at from outside meanwhile. The optimizer and a gradient scaler stay outside of it."""
    model, calls = program.model, program.calls_of(program.model)
    if program.device.type != "cuda":
        return f"CUDA graphs replay launches on an NVIDIA GPU; this step runs on {program.device.type}"
    if len(program.shapes) > 1:
        return "the shapes of its inputs change from call to call"
    if any(not call.grad for call in calls):
        return "the model also runs without gradients, between the replays of its training"
    if _checkpointed(program):
        return "its blocks are checkpointed: they run again in backward"
    if any(hasattr(p, "device_mesh") for p in model.parameters()) or hasattr(model, "unshard"):
        return "its weights are sharded: they are elsewhere in each step"
    if len({p.device.type for p in model.parameters()}) > 1:
        return "some of its weights are on the host"
    if any(m._forward_hooks or m._forward_pre_hooks for block in blocks_of(model) for m in block.modules()):
        return "hooks run inside its blocks: a graph leaves them out, or overwrites what they keep"
    return _no_compiling(program)


GRAPHS = LiveRemedy(
    name="cuda-graphs",
    kind="same_training",
    text='compile the repeated blocks with CUDA graphs: block.compile(mode="reduce-overhead") for each of them',
    fits=_no_graphs,
    apply=partial(_compile, mode="reduce-overhead"),
    findings=("H1",),
)


def _no_autocast(program: Program) -> str | None:
    calls = program.calls_of(program.model)
    if any(call.autocast is not None for call in calls):
        return "the step runs under autocast already"
    if not any(p.dtype == torch.float32 for p in program.model.parameters()):
        return "no weight is in fp32"
    if program.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "this device has no bf16"
    return None


def _autocast(program: Program) -> Undo:
    plain, kind = program.model.forward, program.device.type

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(kind, torch.bfloat16):
            return plain(*args, **kwargs)

    return swap(program.model, "forward", forward)


AUTOCAST = LiveRemedy(
    name="autocast",
    kind="numerics",
    text="run the forward pass under torch.autocast(device, torch.bfloat16), or TrainingArguments(bf16=True)",
    fits=_no_autocast,
    apply=_autocast,
)


def _eager_config(program: Program) -> Any:
    found = (getattr(m, "config", None) for m in program.model.modules())
    return next((c for c in found if getattr(c, "_attn_implementation", None) == "eager"), None)


SDPA = LiveRemedy(
    name="sdpa",
    kind="same_training",
    text='from_pretrained(..., attn_implementation="sdpa")',
    fits=lambda p: None if _eager_config(p) is not None else "no attention of transformers runs its eager form here",
    apply=lambda p: swap(_eager_config(p), "_attn_implementation", "sdpa"),
    findings=("B13", "B3"),
)


def _full_masks(program: Program) -> str | None:
    masks = [mask for call in program.calls if (mask := call.tensor("attention_mask")) is not None]
    if not masks:
        return "no attention mask is handed over"
    return None if all(bool(mask.all()) for mask in masks) else "the attention mask masks something"


def _drop_mask(program: Program) -> Undo:
    def without(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        empty = isinstance(mask, Tensor) and bool(mask.all())
        return args, {**kwargs, "attention_mask": None} if empty else kwargs

    return program.model.register_forward_pre_hook(without, with_kwargs=True).remove


NO_MASK = LiveRemedy(
    name="no-mask",
    kind="same_training",
    text="leave out an attention mask that masks nothing, so that attention may take its causal kernel",
    fits=_full_masks,
    apply=_drop_mask,
    findings=("B13", "B3"),
)


def _checkpointed(program: Program) -> list[Any]:
    return [m for m in program.model.modules() if getattr(m, "gradient_checkpointing", False) is True]


NO_CHECKPOINTING = LiveRemedy(
    name="no-checkpointing",
    kind="same_training",
    text="gradient_checkpointing=False, as far as memory allows",
    fits=lambda p: None if _checkpointed(p) else "no block of transformers is checkpointed",
    apply=lambda p: all_of([swap(m, "gradient_checkpointing", False) for m in _checkpointed(p)]),
    findings=("B2",),
)


def _reentrant(program: Program) -> list[Any]:
    return [m for m in _checkpointed(program) if _options(m).get("use_reentrant")]


def _options(block: Any) -> dict[str, Any]:
    return getattr(getattr(block, "_gradient_checkpointing_func", None), "keywords", {})


def _not_reentrant(block: Any) -> Undo:
    before = block._gradient_checkpointing_func
    changed = partial(before.func, *before.args, **{**before.keywords, "use_reentrant": False})
    return swap(block, "_gradient_checkpointing_func", changed)


NON_REENTRANT = LiveRemedy(
    name="non-reentrant",
    kind="same_training",
    text='gradient_checkpointing_kwargs={"use_reentrant": False}',
    fits=lambda p: None if _reentrant(p) else "no block of transformers is checkpointed in the reentrant way",
    apply=lambda p: all_of([_not_reentrant(m) for m in _reentrant(p)]),
    findings=("B2",),
)
