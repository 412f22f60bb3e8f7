"""Remedies that train something else: no dropout, fewer adapters, none at all, or a part of the base's own weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from loraprof.live_remedies.lora_sites import LoraSite, adapted, lora_sites
from loraprof.live_remedies.model import blocks_of
from loraprof.live_remedies.program import Program
from loraprof.live_remedies.remedy import LiveRemedy, Undo, all_of, nothing, swap
from loraprof.workloads.adapters import compute_dtype
from loraprof.workloads.arms.paca import PartialLinear

QUERY_VALUE: Final = ("q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "to_q", "to_v", "q", "v", "wq", "wv")
SEED: Final = 0  # of the columns that are drawn


@dataclass(frozen=True, slots=True)
class Layer:
    """An adapted layer, what its adapter trains, and how it computes where that is known."""

    path: str
    module: Any
    own: Sequence[nn.Parameter]
    site: LoraSite | None

    @property
    def can_be_bypassed(self) -> bool:
        return self.site is not None or hasattr(self.module, "enable_adapters")


def layers(model: nn.Module) -> list[Layer]:
    proven = lora_sites(model)
    sites = {site.module: site for site in proven} if isinstance(proven, list) else {}
    out = []
    for module, found in adapted(model):
        parts = [m for m, part in found.parts.items() if part != "base"]
        own = {id(p): p for m in [module, *parts] for p in m.parameters() if p.requires_grad}
        out.append(Layer(found.site.path, module, list(own.values()), sites.get(module)))
    return out


def bypass(layer: Layer) -> Undo:
    """The layer as it is without its adapter, which trains no more."""
    module, site = layer.module, layer.site
    for p in layer.own:
        p.requires_grad_(False)
        p.grad = None
    if hasattr(module, "enable_adapters"):
        module.enable_adapters(False)
        plain: Undo = partial(module.enable_adapters, True)
    elif site is not None:
        plain = swap(module, "forward", lambda x: F.linear(x, site.weight, site.bias))
    else:
        plain = nothing

    def undo() -> None:
        plain()
        for p in layer.own:
            p.requires_grad_(True)

    return undo


def _problem(program: Program, chosen: Callable[[Program], list[Layer]], whole: bool = False) -> str | None:
    """``whole``: weights of the base are trained."""
    found = layers(program.model)
    if not found:
        return "there is no adapted layer"
    if stuck := next((one.path for one in chosen(program) if not one.can_be_bypassed), None):
        return f"{stuck}: its adapter cannot be left out from outside"
    wrapped = any(
        isinstance(m, DistributedDataParallel) or type(m).__name__ in ("FullyShardedDataParallel", "FSDPModule")
        for m in program.model.modules()
    )
    if wrapped:
        return "what is trained was fixed when the model was wrapped for several devices"
    if whole and not all(p.is_floating_point() for p in program.model.parameters()):
        return "weights of the base are quantised and cannot be trained"
    return None


def _all(program: Program) -> list[Layer]:
    return layers(program.model)


def _beside_query_value(program: Program) -> list[Layer]:
    """Layers that are neither query nor value; empty where there is no query and value, or nothing else."""
    found = layers(program.model)
    beside = [one for one in found if one.path.rpartition(".")[2] not in QUERY_VALUE]
    return beside if len(beside) < len(found) else []


def _lower(program: Program) -> list[Layer]:
    """Adapted layers below the upper half of the blocks; empty where the upper half holds none."""
    blocks = blocks_of(program.model)
    upper = {m for block in blocks[len(blocks) // 2 :] for m in block.modules()}
    found = layers(program.model)
    lower = [one for one in found if one.module not in upper]
    return lower if len(blocks) > 1 and len(lower) < len(found) else []


def _bypassed(chosen: Callable[[Program], list[Layer]]) -> Callable[[Program], Undo]:
    return lambda program: all_of([bypass(layer) for layer in chosen(program)])


def _unfit(chosen: Callable[[Program], list[Layer]], none: str) -> Callable[[Program], str | None]:
    return lambda program: _problem(program, chosen) or (None if chosen(program) else none)


QUERY_VALUE_ONLY: Final = LiveRemedy(
    name="lora-qv",
    kind="other_training",
    text='LoraConfig(target_modules=["q_proj", "v_proj"]); check the quality afterwards',
    fits=_unfit(_beside_query_value, "no layer beside query and value is adapted, or neither of them is"),
    apply=_bypassed(_beside_query_value),
    findings=("L6",),
)
UPPER_LAYERS: Final = LiveRemedy(
    name="upper-layers",
    kind="other_training",
    text="LoraConfig(layers_to_transform=[...]): adapt the upper half of the layers; check the quality afterwards",
    fits=_unfit(_lower, "there are no repeated blocks with adapters in their lower and in their upper half"),
    apply=_bypassed(_lower),
    findings=("W1", "B1"),
)


def _hand_over(program: Program, trained: Sequence[nn.Parameter]) -> Undo:
    """Gives the optimizer other parameters, in place: schedulers and wrappers hold on to its groups."""
    optimizer, model = program.optimizer, program.model
    state, groups = dict(optimizer.state), [list(group["params"]) for group in optimizer.param_groups]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    trained_ids = {id(p) for p in trained}
    optimizer.state.clear()
    for p, _ in flags:
        p.grad = None
        p.requires_grad_(id(p) in trained_ids)
    for group in optimizer.param_groups:
        group["params"].clear()
    optimizer.param_groups[0]["params"].extend(trained)

    def undo() -> None:
        for p, flag in flags:
            p.grad = None
            p.requires_grad_(flag)
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, before in zip(optimizer.param_groups, groups, strict=True):
            group["params"][:] = before

    return undo


def _base_weights(program: Program, within: Sequence[nn.Module]) -> list[nn.Parameter]:
    own = {id(p) for layer in layers(program.model) for p in layer.own}
    weights = {id(p): p for m in within for p in m.parameters() if id(p) not in own}
    return list(weights.values())


def _train(program: Program, within: Sequence[nn.Module]) -> Undo:
    """All weights of these modules, and no adapter."""
    found, weights = layers(program.model), _base_weights(program, within)
    return all_of([_hand_over(program, weights), *(bypass(layer) for layer in found)])


FULL: Final = LiveRemedy(
    name="full",
    kind="other_training",
    text="full fine-tuning: no adapters, every weight of the base trained; check the quality afterwards",
    fits=lambda program: _problem(program, _all, whole=True),
    apply=lambda program: _train(program, [program.model]),
    findings=("W1",),
)


def _upper(program: Program) -> list[nn.Module]:
    blocks = blocks_of(program.model)
    return blocks[len(blocks) // 2 :] if len(blocks) > 1 else []


UPPER_WHOLE: Final = LiveRemedy(
    name="upper-whole",
    kind="other_training",
    text="no adapters: train the upper half of the layers as a whole, freeze the rest; check the quality afterwards",
    fits=lambda p: _problem(p, _all, whole=True) or (None if _upper(p) else "there are no repeated blocks"),
    apply=lambda program: _train(program, _upper(program)),
    findings=("W1", "B1"),
)


def _no_columns(program: Program) -> str | None:
    found = layers(program.model)
    unproven = next((one.path for one in found if one.site is None), None)
    return _problem(program, _all, whole=True) or (
        f"{unproven}: its frozen layer is not a plain linear one" if unproven else None
    )


def _columns(program: Program) -> Undo:
    """As many input columns of each adapted weight as the adapter has ranks, drawn at random."""
    draw, trained = torch.Generator().manual_seed(SEED), []
    undos: list[Undo] = []
    for layer in layers(program.model):
        site = layer.site
        if site is None:
            continue
        weight = site.weight.detach()
        index = torch.randperm(weight.shape[1], generator=draw)[: site.low.shape[0]].sort().values.to(weight.device)
        columns = nn.Parameter(weight[:, index].clone())
        trained.append(columns)
        undos += [partial(_put_back, weight, index, columns.detach().clone())]
        undos += [bypass(layer), swap(site.module, "forward", partial(_partial_linear, site, columns, index))]
    return all_of([*undos, _hand_over(program, trained)])


def _put_back(weight: Tensor, index: Tensor, columns: Tensor) -> None:
    with torch.no_grad():
        weight.index_copy_(1, index, columns)


def _partial_linear(site: LoraSite, columns: nn.Parameter, index: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    out: Tensor = PartialLinear.apply(  # type: ignore[no-untyped-call]
        x, site.weight.detach(), site.bias, columns, index, compute_dtype(x)
    )
    return out


PACA: Final = LiveRemedy(
    name="paca",
    kind="other_training",
    text="PaCA (arXiv 2503.01905): train r random input columns of each weight instead; check the quality afterwards",
    fits=_no_columns,
    apply=_columns,
    findings=("W1", "L1", "L5"),
)


def _dropouts(program: Program) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of every dropout of an adapter."""
    out: dict[int, tuple[nn.Module, str, nn.Module]] = {}
    for _, found in adapted(program.model):
        for parent in found.parts:
            for name, child in parent.named_children():
                if isinstance(child, nn.Dropout) and child.p > 0 and found.parts.get(child, "elementwise") != "base":
                    out[id(child)] = parent, name, child
    return list(out.values())


def _drop(program: Program) -> Undo:
    """As lora_dropout=0 builds it: an Identity in its place."""
    found = _dropouts(program)
    for parent, name, _ in found:
        parent._modules[name] = nn.Identity()

    def undo() -> None:
        for parent, name, child in found:
            parent._modules[name] = child

    return undo


NO_DROPOUT: Final = LiveRemedy(
    name="lora-nodropout",
    kind="other_training",
    text="LoraConfig(lora_dropout=0.0)",
    fits=lambda program: None if _dropouts(program) else "no adapter has dropout",
    apply=_drop,
    findings=("L4",),
)
