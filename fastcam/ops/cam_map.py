"""cam_map: activations and channel weights to class activation maps.

    S[n, t] = sum_k alpha[n, t, k] A[n, k]           at layer resolution, alpha per channel or per position
    U = bilinear upsampling of S                      (align_corners=False)
    V = max(U, 0)                                     if relu
    M = (V - min V) / (max V - min V)                 if normalize; 0 for a flat map

Upsampling is linear, so the sum is taken before it: h * w positions instead of H * W.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.ops.backend import kernels_serve
from fastcam.ops.maps import flat_tolerance, min_max_, upsample


def cam_map_reference(activations: Tensor, weights: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> Tensor:
    """Return class activation maps (N, T, H, W), in plain PyTorch.

    Args:
        activations: A, (N, K, h, w), floating point, any memory format.
        weights: alpha, (N, T, K) per channel or (N, T, K, h, w) per position, floating point.
        size: (H, W) of the maps.
        relu: cut negative values to zero, after upsampling.
        normalize: scale each map to [0, 1]; a flat map (range within 16 roundings) gives zeros.

    Returns:
        float32, or float64 if either input is float64, contiguous; not differentiable.

    Raises:
        ValueError: shapes that do not fit each other, an empty axis, tensors on different devices.
        TypeError: a dtype that is not floating point.
    """
    number = _check(activations, weights, size)
    with torch.no_grad(), torch.autocast(activations.device.type, enabled=False):
        sums = _weighted_sum(activations.to(number), weights.to(number))
        maps = upsample(sums, (size[0], size[1]))
        if relu:
            maps = maps.clamp_(min=0)
        return min_max_(maps) if normalize else maps


def _weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    batch, _, height, width = activations.shape
    if weights.ndim == 3:
        # A view in either memory format, which the matrix product takes as it is.
        sums = torch.bmm(weights, activations.flatten(2)).view(batch, weights.shape[1], height, width)
    else:
        sums = (weights * activations.unsqueeze(1)).sum(dim=2)
    return sums.contiguous()


def _check(activations: Tensor, weights: Tensor, size: Sequence[int]) -> torch.dtype:
    """Return the dtype of the maps; raise on inputs that do not fit."""
    for name, tensor in (("activations", activations), ("weights", weights)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; a floating-point tensor is needed")
    if activations.device != weights.device:
        raise ValueError(f"activations is on {activations.device} and weights on {weights.device}: move one")
    if activations.ndim != 4 or min(activations.shape[1:]) < 1:
        raise ValueError(
            f"activations has shape {tuple(activations.shape)}; (N, K, h, w) is needed, no axis empty but N"
        )
    batch, channels, height, width = activations.shape
    expected = (batch, channels) if weights.ndim == 3 else (batch, channels, height, width)
    if weights.ndim not in (3, 5) or (weights.shape[0], *weights.shape[2:]) != expected:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; with activations {tuple(activations.shape)} it must"
            f" be ({batch}, T, {channels}) or ({batch}, T, {channels}, {height}, {width})"
        )
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}; two positive numbers (height, width) are needed")
    return torch.promote_types(torch.promote_types(activations.dtype, weights.dtype), torch.float32)


cam_map = torch.library.custom_op("fastcam::cam_map", mutates_args=())(cam_map_reference)


@cam_map.register_kernel("cuda")
def _(activations: Tensor, weights: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> Tensor:
    if not kernels_serve(activations.device):
        return cam_map_reference(activations, weights, size, relu, normalize)
    from fastcam_kernels import cam_map as kernel

    number = _check(activations, weights, size)
    return kernel.cam_map(
        activations, weights, (size[0], size[1]), relu, normalize, flat_tolerance=flat_tolerance(number)
    )


@cam_map.register_fake
def _(activations: Tensor, weights: Tensor, size: Sequence[int], relu: bool, normalize: bool) -> Tensor:
    number = _check(activations, weights, size)
    return activations.new_empty((*weights.shape[:2], *size), dtype=number)
