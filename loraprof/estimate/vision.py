"""Image models: patches are a transformer's tokens, positions of a convolution's output those of a linear."""

from loraprof.errors import UsageError
from loraprof.estimate.architecture import Architecture, Layer, Linear, Stack
from loraprof.estimate.fields import Fields


def vit(f: Fields, name: str, family: str) -> Architecture:
    """A classifier over patches and one class token."""
    d, ff = f.size("hidden_size"), f.size("intermediate_size", default=4 * f.size("hidden_size"))
    heads, _, head_dim = f.heads(d)
    count = f.size("num_hidden_layers")
    image, patch = f.size("image_size", default=224), f.size("patch_size", default=16)
    channels, labels = f.size("num_channels", default=3), f.labels(1000)
    f.close(family)
    if image % patch:
        raise UsageError(f"{f.where}: `image_size` {image} is no multiple of `patch_size` {patch}", None)
    tokens = (image // patch) ** 2 + 1
    linears = tuple(Linear(n, d, d, True) for n in ("query", "key", "value", "attention.output.dense"))
    linears += (Linear("intermediate.dense", d, ff, True), Linear("output.dense", ff, d, True))
    layer = Layer(linears, d, 2, "layer", "gelu", ff, heads, heads, head_dim, causal=False)
    stacks = (Stack(count, layer),)
    patches = channels * patch * patch * d
    return Architecture(name, family, d, stacks, 1, False, tokens, labels, False, tokens, patches)


def resnet(f: Fields, name: str, family: str) -> Architecture:
    """Basic or bottleneck blocks; a k x k convolution is a linear of k k times the input's width."""
    sizes, depths = f.values.get("hidden_sizes"), f.values.get("depths")
    if not isinstance(sizes, list) or not isinstance(depths, list) or len(sizes) != len(depths):
        raise UsageError(f"{f.where}: `hidden_sizes` and `depths` must be lists of one length", None)
    width, channels = f.size("embedding_size", default=64), f.size("num_channels", default=3)
    labels, image = f.labels(1000), f.size("image_size", default=224)
    bottleneck = f.values.get("layer_type", "bottleneck") == "bottleneck"
    stacks = [_stage((Linear("embedder.convolution", channels * 49, width),), width, (image // 2) ** 2)]
    before, side = width, image // 4
    for i, (size, depth) in enumerate(zip(sizes, depths, strict=True)):
        side = side // 2 if i else side
        first, later = _block(before, size, bottleneck, i > 0), _block(size, size, bottleneck, False)
        stacks.append(_stage(first, size, side * side))
        if depth > 1:
            stacks += [_stage(later, size, side * side)] * (depth - 1)
        before = size
    note = "convolutions are counted as matrix products over the positions of their output"
    return Architecture(name, family, before, tuple(stacks), 1, False, 0, labels, False, 1, notes=(note,))


def _block(before: int, size: int, bottleneck: bool, strided: bool) -> tuple[Linear, ...]:
    path: tuple[Linear, ...]
    if bottleneck:
        inner = size // 4
        path = (Linear("layer.0.convolution", before, inner), Linear("layer.1.convolution", 9 * inner, inner),
                Linear("layer.2.convolution", inner, size))  # fmt: skip
    else:
        path = (Linear("layer.0.convolution", 9 * before, size), Linear("layer.1.convolution", 9 * size, size))
    return (*path, Linear("shortcut.convolution", before, size)) if before != size or strided else path


def _stage(linears: tuple[Linear, ...], width: int, positions: int) -> Stack:
    at = tuple(Linear(n.name, n.k, n.n, share=positions) for n in linears)
    layer = Layer(at, width, len(at), "batch", "relu", width * len(at), attentions=0, causal=False, share=positions)
    return Stack(1, layer)
