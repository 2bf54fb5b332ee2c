"""unfold_patches: overlapping crops of images, resized straight into a network's batch (UCAG, eq. 1).

    output[n P + p] = resize(x[n, :, tops[p] : tops[p] + h, lefts[p] : lefts[p] + w])       crop [h, w]

A crop is resized on its own: what the filter would read beyond the crop's border is the border's value, not the
image's. Half-pixel centres (align_corners=False), no antialiasing; "bilinear", or "bicubic" with a = -0.75, both as
`torch.nn.functional.interpolate` has them.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.ops.backend import kernels_serve

MODES = ("bilinear", "bicubic")


def patch_offsets(length: int, crop: int, patches: int) -> list[int]:
    """Return where the patches along one axis start: round(linspace(0, length - crop, patches)).

    Halves are rounded to the even neighbour, as `round` does in Python, NumPy and PyTorch, and exactly: no division
    in floating point decides what is a half. One patch starts at 0. With more patches than places, starts repeat.

    Raises:
        ValueError: a crop below 1 or larger than the axis, fewer patches than 1.
    """
    if not 1 <= crop <= length:
        raise ValueError(f"crop is {crop}; along an axis of length {length} it must be 1 to {length}")
    if patches < 1:
        raise ValueError(f"patches is {patches}; at least 1 is needed")
    return [round(Fraction(i * (length - crop), max(patches - 1, 1))) for i in range(patches)]


def unfold_patches_reference(
    images: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int], mode: str
) -> Tensor:
    """Return the resized crops (N P, C, H', W'), in plain PyTorch; image outermost, patch within.

    Args:
        images: x, (N, C, H, W), floating point, any memory format.
        tops, lefts: (P,), int64 or int32, on the images' device: each crop's first row and column.
        crop: (h, w) of the crops.
        size: (H', W') of the result.
        mode: "bilinear" or "bicubic".

    Returns:
        The images' dtype, channels-last; not differentiable. Computed in float32 (float64 for float64 images) and
        rounded once.

    Raises:
        ValueError: shapes that do not fit each other, a crop larger than the images, another mode, tensors on
            different devices.
        TypeError: images that are not floating point, offsets other than int64 and int32.
        IndexError: a crop that reaches beyond the images. Found on the CPU only: on CUDA the check would wait for the
            device, and offsets out of range are the caller's concern.
    """
    _check(images, tops, lefts, crop, size, mode)
    check_offsets(tops, lefts, crop, (images.shape[2], images.shape[3]))
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        number = torch.promote_types(images.dtype, torch.float32)
        # Every place where a crop could lie, as a view, (N, H - h + 1, W - w + 1, C, h, w); then the P of them.
        places = images.permute(0, 2, 3, 1).unfold(1, crop[0], 1).unfold(2, crop[1], 1)
        crops = places[:, tops, lefts].flatten(0, 1).to(number)
        if crops.shape[0] == 0:
            return _empty_batch(images, tops, size)
        batch = F.interpolate(crops, size=(size[0], size[1]), mode=mode, align_corners=False)
        return batch.to(images.dtype, memory_format=torch.channels_last)


def check_offsets(tops: Tensor, lefts: Tensor, crop: Sequence[int], image: tuple[int, int]) -> None:
    """Refuse crops that reach beyond the image, where looking at the offsets costs no wait: on the CPU.

    Raises:
        IndexError: an offset below 0 or above the image's side less the crop's.
    """
    if tops.device.type != "cpu" or tops.shape[0] == 0:
        return
    for name, offsets, length, side in (("tops", tops, image[0], crop[0]), ("lefts", lefts, image[1], crop[1])):
        low, high = (int(extreme) for extreme in offsets.aminmax())
        if low < 0 or high > length - side:
            raise IndexError(
                f"{name} has values from {low} to {high}; a crop of {side} pixels along an axis of {length} may"
                f" start at 0 to {length - side}"
            )


def check_places(tops: Tensor, lefts: Tensor, crop: Sequence[int], image: tuple[int, int]) -> None:
    """Refuse offsets and crops whose shapes and types do not fit.

    Raises:
        ValueError: shapes other than (P,) and (P,), a crop that is not two numbers from 1 to the image's sides.
        TypeError: offsets other than int64 and int32.
    """
    for name, offsets in (("tops", tops), ("lefts", lefts)):
        if offsets.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {offsets.dtype}; int64 or int32 is needed")
        if offsets.ndim != 1 or offsets.shape != tops.shape:
            raise ValueError(f"{name} has shape {tuple(offsets.shape)} and tops {tuple(tops.shape)}; both must be (P,)")
    if len(crop) != 2 or not (1 <= crop[0] <= image[0] and 1 <= crop[1] <= image[1]):
        raise ValueError(f"crop is {tuple(crop)}; (height, width) from 1 to the image's {tuple(image)} are needed")


def _empty_batch(images: Tensor, tops: Tensor, size: Sequence[int]) -> Tensor:
    shape = (images.shape[0] * tops.shape[0], images.shape[1], *size)
    return torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)


def _check(images: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int], mode: str) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images is {images.dtype}; a floating-point tensor is needed")
    if images.ndim != 4 or min(images.shape[1:]) < 1:
        raise ValueError(f"images has shape {tuple(images.shape)}; (N, C, H, W) is needed, no axis empty but N")
    for name, offsets in (("tops", tops), ("lefts", lefts)):
        if offsets.device != images.device:
            raise ValueError(f"{name} is on {offsets.device} and images on {images.device}: move one")
    check_places(tops, lefts, crop, (images.shape[2], images.shape[3]))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}; two positive numbers (height, width) are needed")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; valid: {', '.join(map(repr, MODES))}")


unfold_patches = torch.library.custom_op("fastcam::unfold_patches", mutates_args=())(unfold_patches_reference)


@unfold_patches.register_kernel("cuda")
def _(images: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int], mode: str) -> Tensor:
    if not kernels_serve(images.device):
        return unfold_patches_reference(images, tops, lefts, crop, size, mode)
    from fastcam_kernels import unfold_patches as kernel

    _check(images, tops, lefts, crop, size, mode)
    return kernel.unfold_patches(images, tops, lefts, (crop[0], crop[1]), (size[0], size[1]), mode)


@unfold_patches.register_fake
def _(images: Tensor, tops: Tensor, lefts: Tensor, crop: Sequence[int], size: Sequence[int], mode: str) -> Tensor:
    _check(images, tops, lefts, crop, size, mode)
    return _empty_batch(images, tops, size)
