"""A convolution with what follows it: bias, residual addition, activation.

On a CPU in float32, oneDNN applies them while a block of the result is still in cache; a pass of its own over the
result would cost up to as much as a 1x1 convolution.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops.activation import activate

# oneDNN's names, and the numbers that they take. Those that it computes to the last bit as PyTorch does.
_FUSED: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


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
) -> Tensor:
    """Return activation(conv(x, W) + b + residual), in the dtype of the weights; residual: like the result."""
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if residual is not None:
        y = y.add_(residual)
    return activate(y, activation)


def fused_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> Tensor:
    """Return `convolution` of the same arguments, by oneDNN in one step where it can.

    oneDNN's ReLU takes a NaN for 0. This is for networks whose weights and images are known to be finite.
    """
    if _fuses(x, weight, residual, activation):
        name, numbers = _FUSED[activation]
        geometry = (padding, stride, dilation, groups)
        fused = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            y: Tensor = fused.default(x, weight, bias, *geometry, name, numbers, "")
        else:
            behind = None if activation == "none" else name
            y = fused.binary(x, residual, weight, bias, *geometry, "add", 1.0, behind, numbers, "")
        return y
    return convolution(x, weight, bias, residual, stride, padding, dilation, groups, activation)


def _fuses(x: Tensor, weight: Tensor, residual: Tensor | None, activation: str) -> bool:
    like = x if residual is None else residual
    return bool(
        x.is_cpu
        and x.dtype == weight.dtype == like.dtype == torch.float32
        and activation in (_FUSED if residual is None else ("none", "relu"))
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or like.requires_grad))
        and torch.backends.mkldnn.enabled
        and _onednn_fuses()
    )


@cache
def _onednn_fuses() -> bool:
    """Whether this build of PyTorch fuses what is asked for here: tried once, on one pixel."""
    one = torch.ones(1, 1, 1, 1)
    geometry = ([0, 0], [1, 1], [1, 1], 1)
    try:
        fused = torch.ops.mkldnn._convolution_pointwise
        plain = fused.default(one, -one, None, *geometry, "relu", [], "")
        added = fused.binary(one, one, one, None, *geometry, "add", 1.0, "relu", [], "")
    except (AttributeError, RuntimeError):  # a build without oneDNN, or for a processor on which it fuses nothing
        return False
    return bool(plain.item() == 0 and added.item() == 2)
