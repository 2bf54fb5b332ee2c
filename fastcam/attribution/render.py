"""From evidence to maps: sum, upsampling, ReLU, normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam import ops
from fastcam.attribution.method import Weighted, Whole
from fastcam.ops.maps import min_max_, upsample


def render(part: Weighted | Whole, size: Sequence[int], *, relu: bool, normalize: bool, signed: bool = False) -> Tensor:
    """Maps (N, T, H, W) in at least float32, in memory of their own.

    The sum is taken at the evidence's own resolution, then upsampled bilinearly (align_corners false) and cut at 0
    if `relu`. normalize: per map min-max to [0, 1]; for signed maps division by the largest magnitude, to [-1, 1].
    """
    height, width = size
    if isinstance(part, Weighted):
        maps: Tensor = ops.cam_map(part.activation, part.weights, [height, width], relu, normalize and not signed)
        return scale_signed_(maps) if normalize and signed else maps
    given = part.map.to(torch.promote_types(part.map.dtype, torch.float32))
    maps = upsample(given, (height, width))
    maps = maps.clone() if maps is part.map else maps
    if relu:
        maps = maps.clamp_(min=0)
    if not normalize:
        return maps
    return scale_signed_(maps) if signed else min_max_(maps)


def scale_signed_(maps: Tensor) -> Tensor:
    """Divide each map of (..., H, W) by its largest magnitude, in place; a map of zeros stays."""
    largest = maps.abs().amax(dim=(-2, -1), keepdim=True)
    return maps.div_(torch.where(largest > 0, largest, 1))
