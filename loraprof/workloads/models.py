"""Built-in models with random weights, made directly on their device in their dtype; nothing is downloaded."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from loraprof.capture.device.kinds import default_device, measured
from loraprof.collector import uncollected
from loraprof.errors import MeasurementError, UsageError
from loraprof.model.workload import WorkloadSpec
from loraprof.store.specs import changed_config
from loraprof.workloads import minimind
from loraprof.workloads.families import embedding_of, family_of, layers_of

HF_HINT = "pip install 'loraprof[hf]'"


def torch_device(spec: WorkloadSpec) -> torch.device:
    """Raises MeasurementError when the device asked for is not here."""
    place = default_device() if spec.device == "auto" else torch.device(spec.device)
    measured(place).info()
    return torch.device(place.type)


def make_model(spec: WorkloadSpec, device: torch.device) -> nn.Module:
    """The base model in training mode. Raises UsageError for a config its class refuses."""
    family = family_of(spec)
    config = {**spec.config, **_depth(spec)}
    library: Any = minimind if spec.family == "minimind" else _transformers(spec)
    if spec.family != "minimind":
        config |= {"use_cache": False} if family.task == "causal" else {}
        config |= {"attn_implementation": "sdpa"} if family.qv else {}
    try:
        config_object = getattr(library, family.config)(**config)
    except Exception as error:  # the library wraps what it refuses in error types of its own
        raise _refused(spec, error.__cause__ or error) from error
    try:
        with device, _default_dtype(getattr(torch, spec.dtype)):
            model: nn.Module = getattr(library, family.model)(config_object)
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        raise _refused(spec, error) from error
    if family.task == "causal":
        model.loss_type = "ForCausalLM"  # type: ignore[assignment]  # GPT-2 has none and transformers then warns
    return model.train()


def _refused(spec: WorkloadSpec, why: BaseException) -> UsageError:
    """What the library has against the config, and which of its values are not the preset's."""
    changed = changed_config(spec)
    return UsageError(f"workload {spec.name}: {changed or 'its config'} is refused: {str(why).rstrip('.')}")


def weights_nbytes(spec: WorkloadSpec) -> int:
    """What the base model's weights take, without taking it."""
    with quiet(), uncollected():
        model = make_model(spec, torch.device("meta"))
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def enable_checkpointing(base: nn.Module, spec: WorkloadSpec) -> None:
    """Checkpoint the layers from the lowest trained one upwards; call it when the arm has set what is trained.

    Reentrant checkpointing drops the gradient of a block whose input needs none, so the input is made to.
    """
    if spec.checkpointing == "none":
        return
    family, reentrant = family_of(spec), spec.checkpointing == "reentrant"
    if family.task == "image":
        raise UsageError(f"workload {spec.name}: {family.model} has no gradient checkpointing")
    layers = layers_of(base, family)
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    first = trained.index(True) if any(trained) else 0
    enable: Any = base.gradient_checkpointing_enable
    enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for layer in layers[:first]:
        layer.gradient_checkpointing = False  # type: ignore[assignment]
    if reentrant:
        output_requires_grad(layers[first - 1] if first else embedding_of(base, family))


def output_requires_grad(module: nn.Module) -> None:
    """Let gradients flow back to this module's output although nothing below it is trained."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
        (output[0] if isinstance(output, tuple) else output).requires_grad_(True)

    module.register_forward_hook(hook)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what transformers and PEFT say about random weights; restored on exit."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _transformers(spec: WorkloadSpec) -> Any:
    try:
        import transformers
    except ImportError:
        raise MeasurementError(f"workload {spec.name} needs transformers and peft", HF_HINT) from None
    return transformers


def _depth(spec: WorkloadSpec) -> dict[str, object]:
    """The config's keys for ``spec.layers`` layers; a residual network keeps its lowest blocks."""
    family = family_of(spec)
    if spec.layers is None:
        return {}
    if family.task != "image":
        return {family.depth: spec.layers}
    depths: Any = spec.config["depths"]
    if spec.layers > sum(depths):
        raise UsageError(f"workload {spec.name} has {sum(depths)} blocks, --layers {spec.layers} is more")
    blocks: list[int] = []
    for depth in depths:
        blocks.append(min(depth, spec.layers - sum(blocks)))
    blocks = [depth for depth in blocks if depth]
    sizes: Any = spec.config["hidden_sizes"]
    return {"depths": blocks, "hidden_sizes": sizes[: len(blocks)]}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
