"""Masks made of channels: their range once upsampled, and the images multiplied by them."""

import torch
from torch import Tensor

from fastcam.network.portions import chunks
from fastcam.ops.maps import flat_tolerance, upsample


def live_channels(activation: Tensor) -> Tensor:
    """Whether a channel is anything but 0 everywhere: (N, K, h, w) -> (N, K)."""
    return activation.abs().amax(dim=(2, 3)) != 0


def upsampled_range(maps: Tensor, size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each map of (N, K, h, w) upsampled to `size`, both (N, K).

    At most `batch` upsampled maps are in memory at a time.
    """
    flat = maps.reshape(-1, 1, *maps.shape[2:])
    found = [torch.aminmax(upsample(flat[chunk], size).flatten(1), dim=1) for chunk in chunks(len(flat), batch)]
    low, high = (torch.cat([pair[i] for pair in found]).view(maps.shape[:2]) for i in (0, 1))
    return low, high


def span_of(low: Tensor, high: Tensor) -> Tensor:
    """max - min; infinity for a flat map (see `fastcam.ops.maps.min_max_`), which min-max scaling makes 0."""
    span = high - low
    floor = flat_tolerance(low.dtype) * torch.maximum(low.abs(), high.abs())
    return torch.where(span > floor, span, torch.inf)


def unit_masks(maps: Tensor, size: tuple[int, int], batch: int) -> Tensor:
    """M (N, K, h, w) at the maps' own resolution: upsampled to `size`, M is the min-max of the upsampled maps.

    Min-max is affine and upsampling keeps constants, so (U - min U) / (max U - min U) with U the upsampled map is
    the upsampling of (A - min U) / (max U - min U): a sum of masks needs no tensor of (N, K, H, W).
    """
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    low, high = upsampled_range(wide, size, batch)
    return (wide - low[..., None, None]).div_(span_of(low, high)[..., None, None])


def layer_masks(maps: Tensor) -> Tensor:
    """Min-max of each map of (N, K, h, w) at its own resolution, in at least float32."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    low, high = wide.amin(dim=(2, 3), keepdim=True), wide.amax(dim=(2, 3), keepdim=True)
    return (wide - low).div_(span_of(low, high))


def times(images: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    """x[n] * M: images (N, C, H, W) at `index` (P,) times masks (P, H, W), rounded to the images' dtype."""
    picked = images if len(images) == 1 else images[index]
    return picked * masks.unsqueeze(1).to(images.dtype)
