"""What the operators' references share: bilinear upsampling and min-max scaling of maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

# The upsampling of a constant map is constant up to a few roundings, and min-max would blow those up to
# [0, 1]. A range of less than 16 roundings of the largest magnitude counts as flat.
FLAT_ROUNDINGS = 16


def flat_tolerance(dtype: torch.dtype) -> float:
    """Return the range, relative to the largest magnitude, up to which a map of this dtype is flat."""
    return FLAT_ROUNDINGS * torch.finfo(dtype).eps


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, T, h, w) to (N, T, *size), bilinear with half-pixel centres (align_corners=False).

    Along each axis, output pixel y lies at s = max((y + 1/2) h / H - 1/2, 0) of the input and is
    (1 - f) a[i] + f a[min(i + 1, h - 1)] with i = floor(s) and f = s - i. At its own size a tensor is
    returned as it is.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    if maps.shape[0] == 0:
        return maps.new_empty((*maps.shape[:2], *size))
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def min_max_(maps: Tensor) -> Tensor:
    """Scale each map of (..., H, W) to [0, 1] in place: (m - min m) / (max m - min m); a flat map to zeros.

    A NaN in a map makes that whole map NaN.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    high = maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    floor = flat_tolerance(maps.dtype) * torch.maximum(low.abs(), high.abs())
    # Decided on one number per map: a comparison and a select over all pixels cost more than the rest here.
    span = torch.where(span > floor, span, torch.inf)
    return maps.sub_(low).div_(span)


def is_flat(maps: Tensor) -> Tensor:
    """Whether a map is flat, by the rule of `min_max_`: booleans (...) for maps (..., H, W)."""
    low, high = maps.amin(dim=(-2, -1)), maps.amax(dim=(-2, -1))
    return high - low <= flat_tolerance(maps.dtype) * torch.maximum(low.abs(), high.abs())
