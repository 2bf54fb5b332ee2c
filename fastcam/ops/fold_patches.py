"""fold_patches: partial maps of overlapping crops, put together where they lie (UCAG, eq. 5-6).

    V[n, p, t] = bilinear resizing of m[n, p, t] to the crop                     (align_corners=False)
    U[n, t](y, x) = sum_p s[n, p, t] V[n, p, t](y - tops[p], x - lefts[p]) / D(y, x)

over the patches p whose crop covers pixel (y, x); D, the duplication count, is how many these are. Where none lies, U
is 0. s is the confidence of a patch, exp(p_c) in UCAG (eq. 4). Nothing is normalised or clipped: signed maps stay
signed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.ops.backend import kernels_serve
from fastcam.ops.maps import upsample
from fastcam.ops.unfold_patches import check_offsets, check_places


def fold_patches_reference(
    maps: Tensor, confidences: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Return the maps of whole images (N, T, H, W), in plain PyTorch.

    Args:
        maps: m, (N, P, T, h, w), floating point: what a method gives for the batch of `unfold_patches`, (N P, T, h, w)
            with its first axis split; at the layer's resolution, the network's, or any other.
        confidences: s, (N, P, T), floating point.
        tops, lefts: (P,), int64 or int32, on the maps' device: each crop's first row and column.
        crop: (height, width) of the crops in the image.
        size: (H, W) of the image.

    Returns:
        float32, or float64 if maps or confidences are, contiguous; not differentiable. The sum over patches gathers
        for each pixel: it does not depend on timing, on any device.

    Raises:
        ValueError: shapes that do not fit each other, a crop larger than the image, tensors on different devices.
        TypeError: maps or confidences that are not floating point, offsets other than int64 and int32.
        IndexError: a crop that reaches beyond the image. Found on the CPU only: on CUDA the check would wait for the
            device, and offsets out of range are the caller's concern.
    """
    number = _check(maps, confidences, tops, lefts, crop, size)
    check_offsets(tops, lefts, crop, (size[0], size[1]))
    with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
        batch, patches, targets = maps.shape[:3]
        resized = upsample(maps.to(number).flatten(0, 1), (crop[0], crop[1])).view(batch, patches, targets, *crop)
        weighted = (resized * confidences.to(number)[..., None, None]).transpose(1, 2)
        # A row and a column of zeros behind each map: what pixels read that it does not cover.
        padded = F.pad(weighted, (0, 1, 0, 1))
        rows, columns = _places(tops, crop[0], size[0]), _places(lefts, crop[1], size[1])
        patch = torch.arange(patches, device=maps.device)
        index = (patch[:, None, None] * (crop[0] + 1) + rows[:, :, None]) * (crop[1] + 1) + columns[:, None, :]
        # On a CPU `gather` takes a sixth of the time of indexing or index_select.
        laid = padded.flatten(2).gather(2, index.flatten().expand(batch, targets, -1))
        laid = laid.view(batch, targets, patches, *size)
        covered_rows, covered_columns = (
            (place < end).to(number) for place, end in zip((rows, columns), crop, strict=True)
        )
        return laid.sum(dim=2).div_((covered_rows.T @ covered_columns).clamp_(min=1))


def _places(offsets: Tensor, side: int, length: int) -> Tensor:
    """Return (P, length): which of a crop's `side` pixels lies where in the image; `side` where none does."""
    place = torch.arange(length, device=offsets.device) - offsets[:, None]
    return torch.where((place >= 0) & (place < side), place, side)


def _check(
    maps: Tensor, confidences: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int]
) -> torch.dtype:
    """Return the dtype of the result; raise on inputs that do not fit."""
    for name, tensor in (("maps", maps), ("confidences", confidences)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}; a floating-point tensor is needed")
    for name, tensor in (("confidences", confidences), ("tops", tops), ("lefts", lefts)):
        if tensor.device != maps.device:
            raise ValueError(f"{name} is on {tensor.device} and maps on {maps.device}: move one")
    if maps.ndim != 5 or min(maps.shape[2:]) < 1:
        raise ValueError(f"maps has shape {tuple(maps.shape)}; (N, P, T, h, w) is needed, no axis empty but N and P")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}; two positive numbers (height, width) are needed")
    check_places(tops, lefts, crop, (size[0], size[1]))
    if tops.shape[0] != maps.shape[1] or confidences.shape != maps.shape[:3]:
        raise ValueError(
            f"maps has shape {tuple(maps.shape)}, confidences {tuple(confidences.shape)} and tops {tuple(tops.shape)};"
            " (N, P, T, h, w), (N, P, T) and (P,) are needed"
        )
    return torch.promote_types(torch.promote_types(maps.dtype, confidences.dtype), torch.float32)


fold_patches = torch.library.custom_op("fastcam::fold_patches", mutates_args=())(fold_patches_reference)


@fold_patches.register_kernel("cuda")
def _(
    maps: Tensor, confidences: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int]
) -> Tensor:
    if not kernels_serve(maps.device):
        return fold_patches_reference(maps, confidences, tops, lefts, crop, size)
    from fastcam_kernels import fold_patches as kernel

    _check(maps, confidences, tops, lefts, crop, size)
    return kernel.fold_patches(maps, confidences, tops, lefts, (crop[0], crop[1]), (size[0], size[1]))


@fold_patches.register_fake
def _(
    maps: Tensor, confidences: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int]
) -> Tensor:
    number = _check(maps, confidences, tops, lefts, crop, size)
    return maps.new_empty((maps.shape[0], maps.shape[2], *size), dtype=number)
