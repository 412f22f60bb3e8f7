"""Convolutions: 2 x output elements x (input channels / groups) x filter taps FLOPs, per gradient in backward.

Output length per axis: floor((in + 2 pad - dilation (filter - 1) - 1) / stride) + 1 (torch.nn.Conv2d); a
transposed one: (in - 1) stride - 2 pad + dilation (filter - 1) + output_pad + 1.
"""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from loraprof.analysis.work.gemm import Problem
from loraprof.analysis.work.rule import Rule, Work, present, product
from loraprof.analysis.work.tensors import Inputs, Tensor, UnknownInput, dense


class Layout(NamedTuple):
    """Positions of the arguments of one convolution op; None: it has none."""

    bias: int | None
    stride: int
    padding: int
    dilation: int | None
    transposed: int | None = None
    output_padding: int | None = None


LAYOUTS = {
    "conv1d": Layout(2, 3, 4, 5), "conv2d": Layout(2, 3, 4, 5), "conv3d": Layout(2, 3, 4, 5),
    "convolution": Layout(2, 3, 4, 5, 6, 7), "_convolution": Layout(2, 3, 4, 5, 6, 7),
    "convolution_overrideable": Layout(2, 3, 4, 5, 6, 7),
    "mkldnn_convolution": Layout(2, 4, 3, 5), "miopen_convolution": Layout(2, 4, 3, 5),
    "cudnn_convolution": Layout(None, 3, 2, 4), "miopen_depthwise_convolution": Layout(2, 4, 3, 5),
    "_slow_conv2d_forward": Layout(3, 4, 5, None), "thnn_conv2d": Layout(3, 4, 5, None),
    "_conv_depthwise2d": Layout(3, 4, 5, 6),
}  # fmt: skip


def _out_dims(x: Tensor, w: Tensor, inputs: Inputs, at: Layout) -> tuple[tuple[int, ...], bool]:
    axes = len(w.dims) - 2
    if axes < 1 or len(x.dims) != axes + 2:
        raise UnknownInput("layout")
    stride, pad = _axes(inputs, at.stride, axes, 1), _axes(inputs, at.padding, axes, 0)
    dilation = _axes(inputs, at.dilation, axes, 1)
    spans = [d * (taps - 1) for d, taps in zip(dilation, w.dims[2:], strict=True)]
    if at.transposed is not None and inputs.flag(at.transposed):
        groups, extra = int(inputs.text(at.transposed + 2)), _axes(inputs, at.output_padding, axes, 0)
        grown = zip(x.dims[2:], stride, pad, spans, extra, strict=True)
        spatial = [(size - 1) * s - 2 * p + span + e + 1 for size, s, p, span, e in grown]
        return (x.dims[0], w.dims[1] * groups, *spatial), True
    shrunk = zip(x.dims[2:], stride, pad, spans, strict=True)
    spatial = [(size + 2 * p - span - 1) // s + 1 for size, s, p, span in shrunk]
    return (x.dims[0], w.dims[0], *spatial), False


def _axes(inputs: Inputs, i: int | None, axes: int, default: int) -> list[int]:
    values = [] if i is None else inputs.ints(i)
    return values * axes if len(values) == 1 else values or [default] * axes


def _winograd(flops: int, w: Tensor) -> int:
    """F(4x4, 3x3) needs 36 products where the direct sum needs 144."""
    return flops // 4 if w.dims[2:] == (3, 3) else flops


def forward(op: str, inputs: Inputs) -> Work:
    at = LAYOUTS[op]
    x, w = inputs.tensor(0), inputs.tensor(1)
    dims, transposed = _out_dims(x, w, inputs, at)
    flops = 2 * (x.numel if transposed else prod(dims)) * prod(w.dims[1:])
    reads = [x, w, *present(None if at.bias is None else inputs.optional(at.bias))]
    return product(flops, reads, [dense(dims, x.dtype)], "conv", x.dtype, _winograd(flops, w))


def _gradients(dy: Tensor, x: Tensor, w: Tensor, mask: list[bool], transposed: bool) -> Work:
    """dX reads dY and W, dW reads dY and X, db reads dY; each product costs as much as the forward one."""
    one = 2 * (x.numel if transposed else dy.numel) * prod(w.dims[1:])
    flops = one * (mask[0] + mask[1])
    reads = [dy] * any(mask) + [w] * mask[0] + [x] * mask[1]
    writes = [dense(x.dims, x.dtype)] * mask[0] + [dense(w.dims, w.dtype)] * mask[1]
    writes += [dense((dy.dims[1],), dy.dtype)] * mask[2]
    return product(flops, reads, writes, "conv", x.dtype, _winograd(flops, w))


def backward(op: str, inputs: Inputs) -> Work:
    dy, x, w = inputs.tensor(0), inputs.tensor(1), inputs.tensor(2)
    return _gradients(dy, x, w, inputs.flags(10), inputs.flag(7))


def backward_input(op: str, inputs: Inputs) -> Work:
    """Older torch: (input size, dY, W, ...)."""
    dy, w, dims = inputs.tensor(1), inputs.tensor(2), tuple(inputs.ints(0))
    return _gradients(dy, dense(dims, dy.dtype), w, [True, False, False], False)


def backward_weight(op: str, inputs: Inputs) -> Work:
    """Older torch: (weight size, dY, X, ...)."""
    dy, x, dims = inputs.tensor(1), inputs.tensor(2), tuple(inputs.ints(0))
    return _gradients(dy, x, dense(dims, x.dtype), [False, True, False], False)


def conv_problem(op: str, inputs: Inputs) -> Problem:
    """The implicit GEMM of a forward convolution: m output positions, n output channels, k taps."""
    x, w = inputs.tensor(0), inputs.tensor(1)
    dims, transposed = _out_dims(x, w, inputs, LAYOUTS[op])
    if transposed:
        return 1, x.numel // x.dims[1], prod(w.dims[1:]), x.dims[1]
    return 1, prod(dims) // dims[1], dims[1], prod(w.dims[1:])


RULES: Mapping[str, Rule] = dict.fromkeys(LAYOUTS, forward) | {
    "convolution_backward": backward,
    "cudnn_convolution_backward_input": backward_input,
    "cudnn_convolution_backward_weight": backward_weight,
}
