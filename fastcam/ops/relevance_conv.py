"""z+ relevance of a convolution: forward with its gate, and the gated backward pass.

With relevance written as R_t = t G_t, the z+ rule (relevance-cam, eq. 5-6)

    R_i = sum_j  x_i w_ij+ / (sum_i x_i w_ij+)  R_j

is, for x >= 0, a backward pass with clamped weights and a gated signal:

    Z = conv(x, W+),   Q = a / Z,   S = Q G_a,   G_x = conv_transpose(S, W+),

where a is the layer's final output, behind a folded batch norm and an activation (both pass R unchanged).
For signed x the denominator is Z = conv(x+, W+) + conv(x-, W-) and
G_x = [x > 0] conv_transpose(S, W+) + [x < 0] conv_transpose(S, W-).

A residual addition right behind the batch norm belongs to the same step: with c = conv(x, W) + b and
a = activation(c + residual), G_a passes to c and to the residual where a is not 0, hence Q = [a != 0] c / Z. On the way
back the residual branch's own G is added to G_x.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops.activation import activate
from fastcam.ops.backend import kernels_serve
from fastcam.ops.convolution import convolution, transposed_convolution
from fastcam.ops.gate import gate, signal_dtype, zero_share


def relevance_conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    reciprocal: bool,
) -> tuple[Tensor, Tensor]:
    """Return a = activation(conv(x, W) + b + residual) and its gate.

    The gate is Q = a / Z (1 / Z if `reciprocal`), with a residual Q = [a != 0] (conv(x, W) + b) / Z.

    x: (N, C, H, W). weight: (K, C / groups, kh, kw), folded; positive, negative: W+ and W- of the layer's
    own weight, of the same shape; negative is None where x >= 0 is known. residual: like a, of the dtype of x;
    activation "none" or "relu" then, and not `reciprocal`.
    The convolutions run in their weights' dtype. a has the dtype of x; Q is bfloat16 for 16-bit x.
    """
    geometry = (stride, padding, dilation, groups)
    if residual is None:
        a = c = convolution(x.to(weight.dtype), weight, bias, None, *geometry, activation).to(x.dtype)
    else:
        check_residual(activation, reciprocal)
        c = convolution(x.to(weight.dtype), weight, bias, None, *geometry, "none")
        a = activate(c + residual, activation).to(x.dtype)
        c = torch.where(a == 0, 0.0, c)
    operand = x.to(positive.dtype)
    if negative is None:
        z = convolution(operand, positive, None, None, *geometry, "none")
    else:
        z = convolution(operand.clamp(min=0), positive, None, None, *geometry, "none")
        z = convolution(operand.clamp(max=0), negative, None, z, *geometry, "none")
    return a, gate(c, z, reciprocal=reciprocal, dtype=signal_dtype(x.dtype))


def check_residual(activation: str, reciprocal: bool) -> None:
    """Refuse what has no gate behind a residual addition."""
    if activation not in ("none", "relu") or reciprocal:
        raise ValueError(
            f"residual: given with activation {activation!r} and reciprocal={reciprocal}; a residual takes activation "
            "'none' or 'relu' and no reciprocal"
        )


def relevance_conv_backward_reference(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Return G_x (T N, C, H, W), channels-last, for the signals of T targets per image.

    signal: (T N, K, h, w), G_a or R_a, the targets outermost. gate: (N, K, h, w), from the forward pass.
    x: (N, C, H, W), needed with `negative` only. residual: (T N, C, H, W), added to G_x. size: [H, W].
    """
    operand = gated(signal, gate).to(positive.dtype)
    geometry = (size, stride, padding, dilation, groups)
    if negative is None and residual is not None and _is_spread(positive, stride, padding):
        g = residual.to(gate.dtype, memory_format=torch.channels_last, copy=True)
        g[:, :, :: stride[0], :: stride[1]].add_(_unspread(operand, positive, groups))
        return g
    g = _adjoint(operand, positive, *geometry).to(gate.dtype)
    if negative is not None:
        assert x is not None
        g = split_by_sign(g, _adjoint(operand, negative, *geometry).to(gate.dtype), x)
    g = g if residual is None else g.add_(residual)
    return g.contiguous(memory_format=torch.channels_last)


def relevance_conv_weights_reference(
    signal: Tensor,
    gate: Tensor,
    x: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Return alpha_k = sum_xy x_k G_k (T N, C), the channel weights of relevance-cam, eq. 9, at the layer that made x.

    Arguments as of `relevance_conv_backward_reference`. float32, or float64 where the gate is.
    """
    if residual is None and _is_spread(positive, stride, padding):
        # What lies between the strides adds nothing to the sum.
        x, stride = x[:, :, :: stride[0], :: stride[1]], [1, 1]
    size = list(x.shape[2:])
    g = relevance_conv_backward_reference(
        signal, gate, x, positive, negative, residual, size, stride, padding, dilation, groups
    )
    # x G, rounded as G was: a sum over positions evens it out, and float32 copies would be twice as large as both.
    g = g.view(-1, *x.shape)
    relevance = g.mul_(x) if g.dtype == x.dtype else g * x
    return relevance.sum(dim=(3, 4), dtype=torch.promote_types(gate.dtype, torch.float32)).flatten(0, 1)


def _adjoint(
    s: Tensor,
    weight: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """conv_transpose(s, weight) onto an input of `size`: the adjoint of conv(., weight)."""
    kernel = list(weight.shape[2:])
    if _is_spread(weight, stride, padding):
        g = _unspread(s, weight, groups)
        shape = (g.shape[0], g.shape[1], *size)
        spread = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last).zero_()
        spread[:, :, :: stride[0], :: stride[1]] = g
        return spread
    extra = [
        full - ((small - 1) * step - 2 * pad + d * (k - 1) + 1)
        for full, small, step, pad, d, k in zip(size, s.shape[2:], stride, padding, dilation, kernel, strict=True)
    ]
    return transposed_convolution(s, weight, stride, padding, extra, dilation, groups)


def _is_spread(weight: Tensor, stride: list[int], padding: list[int]) -> bool:
    """Whether every input between the strides gets 0."""
    return list(weight.shape[2:]) == [1, 1] and padding == [0, 0] and stride != [1, 1]


def _unspread(s: Tensor, weight: Tensor, groups: int) -> Tensor:
    """What the inputs at the strides get."""
    return transposed_convolution(s, weight, [1, 1], [0, 0], [0, 0], [1, 1], groups)


def gated(signal: Tensor, gate: Tensor) -> Tensor:
    """S = Q G, formed in at least float32 and rounded once."""
    targets = signal.shape[0] // max(gate.shape[0], 1)
    if targets == 1:
        return signal * gate
    return (signal.view(targets, *gate.shape) * gate).flatten(0, 1)


def split_by_sign(above: Tensor, below: Tensor, x: Tensor) -> Tensor:
    """Take `above` where x > 0, `below` where x < 0, and 0 where x is 0; x is shared by the targets."""
    targets = above.shape[0] // max(x.shape[0], 1)
    if targets > 1:
        x = x.repeat(targets, *[1] * (x.dim() - 1))
    # The same dtype on both sides, or bfloat16 signals beside float16 activations would come out as float32.
    x = x.to(above.dtype)
    g: Tensor = torch.ops.aten.threshold_backward(above, x, 0.0)
    return g.add_(torch.ops.aten.threshold_backward(below, -x, 0.0))


relevance_conv = torch.library.custom_op("fastcam::relevance_conv", mutates_args=())(relevance_conv_reference)


@relevance_conv.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    # float64, and convolutions in another dtype than that of x, have no kernel.
    if x.dtype == torch.float64 or weight.dtype != x.dtype or not kernels_serve(x.device):
        return relevance_conv_reference(x, weight, *others)
    from fastcam_kernels import relevance_conv as kernel

    bias, positive, negative, residual, stride, padding, dilation, groups, activation, reciprocal = others
    geometry = kernel.Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    operands = (x, weight, bias, positive, negative, residual)
    a, q = kernel.relevance_conv(*operands, geometry, activation, reciprocal, zero_share=zero_share(x.dtype))
    # In memory as the reference's, which is what the fake kernel promises.
    layout = torch.channels_last if _channels_last(x) or _channels_last(weight) else torch.contiguous_format
    return a.contiguous(memory_format=layout), q.contiguous(memory_format=layout)


@relevance_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    y = F.conv2d(x.to(weight.dtype), weight, bias, stride, padding, dilation, groups)
    return y.to(x.dtype), torch.empty_like(y, dtype=signal_dtype(x.dtype))


relevance_conv_backward = torch.library.custom_op("fastcam::relevance_conv_backward", mutates_args=())(
    relevance_conv_backward_reference
)


@relevance_conv_backward.register_kernel("cuda")
def _(signal: Tensor, gate: Tensor, *others: Any) -> Tensor:
    if gate.dtype == torch.float64 or not kernels_serve(signal.device):
        return relevance_conv_backward_reference(signal, gate, *others)
    from fastcam_kernels import relevance_conv_backward as kernel

    x, positive, negative, residual, size, stride, padding, dilation, groups = others
    sides = (_pair(size), _pair(stride), _pair(padding), _pair(dilation))
    tf32 = torch.backends.cudnn.allow_tf32
    return kernel.relevance_conv_backward(
        signal, gate, x, positive, negative, residual, *sides, groups, allow_tf32=tf32
    )


@relevance_conv_backward.register_fake
def _(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    shape = (signal.shape[0], positive.shape[1] * groups, *size)
    return torch.empty(shape, dtype=gate.dtype, device=signal.device, memory_format=torch.channels_last)


relevance_conv_weights = torch.library.custom_op("fastcam::relevance_conv_weights", mutates_args=())(
    relevance_conv_weights_reference
)


@relevance_conv_weights.register_kernel("cuda")
def _(signal: Tensor, gate: Tensor, *others: Any) -> Tensor:
    if gate.dtype == torch.float64 or not kernels_serve(signal.device):
        return relevance_conv_weights_reference(signal, gate, *others)
    from fastcam_kernels import relevance_conv_backward as kernel

    x, positive, negative, residual, stride, padding, dilation, groups = others
    sides = (_pair(stride), _pair(padding), _pair(dilation))
    tf32 = torch.backends.cudnn.allow_tf32
    return kernel.relevance_conv_weights(signal, gate, x, positive, negative, residual, *sides, groups, allow_tf32=tf32)


@relevance_conv_weights.register_fake
def _(signal: Tensor, gate: Tensor, x: Tensor, *_: Any) -> Tensor:
    number = torch.promote_types(gate.dtype, torch.float32)
    return signal.new_empty((signal.shape[0], x.shape[1]), dtype=number)


def _channels_last(tensor: Tensor) -> bool:
    """Whether a convolution takes a tensor for channels-last: its strides grow in the order C, W, H, N."""
    least = 1
    for axis in (1, 3, 2, 0):
        if tensor.stride(axis) < least or (axis == 0 and least == tensor.stride(1)):
            return False
        least = tensor.stride(axis) * tensor.shape[axis]
    return True


def _pair(sides: list[int]) -> tuple[int, int]:
    return sides[0], sides[1]
