"""A convolution with what follows it: bias, residual addition, activation.

On a CPU in float32, oneDNN applies them while a block of the result is still in cache; a pass of its own over the
result would cost up to as much as a 1x1 convolution.
"""

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
        y = y + residual if y.requires_grad else y.add_(residual)
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
    operands = [t for t in (x, weight, residual) if t is not None]
    onednn = torch.backends.mkldnn
    return bool(
        x.device.type == "cpu"
        and all(t.dtype == torch.float32 for t in operands)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in operands))
        and x.numel() > 0
        and activation in (_FUSED if residual is None else ("none", "relu"))
        and onednn.is_available()  # type: ignore[no-untyped-call]
        and onednn.enabled
    )
