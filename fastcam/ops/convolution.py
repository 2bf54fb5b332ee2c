"""A convolution with what follows it (bias, residual addition, activation), and the transposed convolution.

On a CPU in float32 and bfloat16, oneDNN applies what follows while a block of the result is still in cache, before it
is rounded; a pass of its own over the result would cost up to as much as a 1x1 convolution. oneDNN's ReLU takes a NaN
for 0, and its blocks of weights outlive a call, so it is asked only where the weights are known to be finite and to
stay (`fastcam.ops.packing.keep`).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops.activation import activate
from fastcam.ops.packing import is_kept, packed, packed_transposed

# oneDNN's names, and the numbers that they take. Those that it computes to the last bit as PyTorch does.
_FUSED: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
# Those that it computes behind an addition.
_FUSED_WITH_RESIDUAL = {"none": None, "relu": "relu"}


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    *,
    overwrite: bool = False,
) -> Tensor:
    """Return activation(conv(x, W) + b + residual), in the dtype of the weights; residual: like the result.

    oneDNN's results are channels-last. overwrite: the residual is nobody else's, and its memory may take the result:
    a large result's own memory comes from the system page by page, which costs about as much as filling it.
    """
    if not _onednn_serves(x, weight, residual):
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        return activate(y if residual is None else y.add_(residual), activation)
    blocks = packed(weight, x.shape, (stride, padding, dilation, groups))
    fused = torch.ops.mkldnn._convolution_pointwise
    geometry = (padding, stride, dilation, groups)
    if residual is None:
        inside = activation if activation in _FUSED else "none"
        y = fused.default(x, blocks, bias, *geometry, *_FUSED[inside], "")
    elif residual.shape[1] == 1 or residual.shape[2:] == (1, 1):
        # Of one channel or position the layout is nobody's: torch takes it for another than it is, or refuses it
        # (2.11: "could not create a memory"). There is nothing to save either.
        inside = "none"
        y = fused.default(x, blocks, bias, *geometry, *_FUSED[inside], "").add_(residual)
    else:
        inside = activation if activation in _FUSED_WITH_RESIDUAL else "none"
        behind: tuple[Any, ...] = ("add", 1.0, _FUSED_WITH_RESIDUAL[inside], [], "")
        if groups == 1 and not (overwrite and residual.is_contiguous(memory_format=torch.channels_last)):
            y = fused.binary(x, residual, blocks, bias, *geometry, *behind)
        else:
            # With groups, torch fuses an addition only into the residual's memory.
            into = residual if overwrite else residual.clone()
            into = into.contiguous(memory_format=torch.channels_last)
            y = torch.ops.mkldnn._convolution_pointwise_.binary(into, x, blocks, bias, *geometry, *behind)
    return y if inside == activation else activate(y, activation)


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    extra: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Return conv_transpose(x, W); extra: rows and columns added to the result's lower right (output padding)."""
    if not _onednn_serves(x, weight, None):
        return F.conv_transpose2d(x, weight, None, stride, padding, extra, groups, dilation)
    blocks = packed_transposed(weight, x.shape, (stride, padding, dilation, groups), extra)
    transpose = torch.ops.mkldnn._convolution_transpose_pointwise.default
    y: Tensor = transpose(x, blocks, None, padding, extra, stride, dilation, groups, "none", [], "")
    return y


def _onednn_serves(x: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    like = x if residual is None else residual
    return bool(
        x.is_cpu
        and x.dtype == weight.dtype == like.dtype
        and x.numel() > 0
        and is_kept(weight)
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or like.requires_grad))
        and torch.backends.mkldnn.enabled
        and _onednn_works(weight.dtype)
    )


@cache
def _onednn_works(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch, on this processor, has all that is asked for here: tried once, on four pixels."""
    x = torch.ones(1, 2, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(2, 2, 1, 1, dtype=dtype)
    zero, one = [0, 0], [1, 1]
    mkldnn = torch.ops.mkldnn
    try:
        blocks = mkldnn._reorder_convolution_weight(weight, zero, one, one, 1, list(x.shape))
        plain = mkldnn._convolution_pointwise.default(-x, blocks, None, zero, one, one, 1, "relu", [], "")
        behind: tuple[Any, ...] = (zero, one, one, 1, "add", 1.0, "relu", [], "")
        added = mkldnn._convolution_pointwise.binary(x, x, blocks, None, *behind)
        mkldnn._convolution_pointwise_.binary(added, x, blocks, None, *behind)
        blocks = mkldnn._reorder_convolution_transpose_weight(weight, zero, zero, one, one, 1, list(x.shape))
        back = mkldnn._convolution_transpose_pointwise(x, blocks, None, zero, zero, one, one, 1, "none", [], "")
    except (AttributeError, RuntimeError):  # a build without oneDNN, or for a processor that it does not serve
        return False
    return bool((plain == 0).all() and (added == 5).all() and (back == 2).all())
