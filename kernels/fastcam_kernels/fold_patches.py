"""Partial maps of overlapping crops, put together where they lie: one launch.

    output[n, t](y, x) = sum_p s[n, p, t] V[n, p, t](y - tops[p], x - lefts[p]) / D(y, x)

V is the map of a patch resized bilinearly to the crop, the sum is over the patches that cover pixel (y, x), and D is
their number. A program owns a tile of the output and walks the patches in their order, passing over those that do not
touch its tile; it interpolates the map at its pixels where they lie in the crop and adds. Resized maps are never
written, no two programs write the same pixel, and the order of every sum is that of the patches: no atomics, the same
bits in every run.

With maps at the network's resolution (relevance at the input, 322 x 322 for crops of 124) the launch is bound by
reading them. With maps at a layer's resolution, of some 10 x 10, there is little to read, and it is bound by the
interpolation: on average 11 patches cover a pixel (36 patches, crop 124 of 224), four loads each, from the caches.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.bilinear import source_position
from fastcam_kernels.launch import Launch, processors, require_runnable
from fastcam_kernels.unfold_patches import check_crop, check_offsets

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Positions in a map are computed in 32-bit integers, (2 * pixel + 1) * source: exact up to here.
LARGEST_SIDE = 32_767


@dataclass(frozen=True)
class FoldPatchesConfig:
    """How the launch is cut up, into tiles of rows x columns. `default_config` computes one from the shapes."""

    rows: int
    columns: int
    num_warps: int = 4


def default_config(*, maps: int, size: tuple[int, int], multiprocessors: int) -> FoldPatchesConfig:
    """Compute a configuration: the larger a tile, the fewer positions per pixel; enough programs fill the device."""
    rows, columns = 32, 32
    tiles = maps * triton.cdiv(size[1], columns)
    while rows > 8 and tiles * triton.cdiv(size[0], rows) < 4 * multiprocessors:
        rows //= 2
    return FoldPatchesConfig(rows=rows, columns=columns)


@triton.jit
def fold_patches_kernel(
    maps,
    confidences,
    tops,
    lefts,
    output,
    patches,
    targets,
    source_height,
    source_width,
    crop_height,
    crop_width,
    height,
    width,
    stride_mn,
    stride_mp,
    stride_mt,
    stride_mh,
    stride_mw,
    stride_sn,
    stride_sp,
    stride_st,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Write one tile of one output map."""
    number = output.dtype.element_ty
    column_tiles = tl.cdiv(width, BLOCK_X)
    tiles = tl.cdiv(height, BLOCK_Y) * column_tiles
    program = tl.program_id(0)
    index = (program // tiles).to(tl.int64)
    first_row = program % tiles // column_tiles * BLOCK_Y
    first_column = program % column_tiles * BLOCK_X
    y = first_row + tl.arange(0, BLOCK_Y)[:, None]
    x = first_column + tl.arange(0, BLOCK_X)[None, :]

    image = index // targets
    target = index % targets
    one_map = maps + image * stride_mn + target * stride_mt
    confidence = confidences + image * stride_sn + target * stride_st
    total = tl.zeros((BLOCK_Y, BLOCK_X), dtype=number)
    duplicates = tl.zeros((BLOCK_Y, BLOCK_X), dtype=tl.int32)
    # An argument of one is a constant, which has no `to`: hence the sum with a number that is none.
    y_scale = 1.0 / (program * 0 + 2 * crop_height).to(number)
    x_scale = 1.0 / (program * 0 + 2 * crop_width).to(number)
    for patch in range(patches):
        top = tl.load(tops + patch).to(tl.int32)
        left = tl.load(lefts + patch).to(tl.int32)
        touches_rows = (top < first_row + BLOCK_Y) & (first_row < top + crop_height)
        touches_columns = (left < first_column + BLOCK_X) & (first_column < left + crop_width)
        if touches_rows & touches_columns:
            row = y - top
            column = x - left
            inside = (row >= 0) & (row < crop_height) & (column >= 0) & (column < crop_width)
            # Outside the crop the positions are those of its border: addresses that exist, values not used.
            y_low, y_high, y_remainder = source_position(row, source_height, crop_height)
            x_low, x_high, x_remainder = source_position(column, source_width, crop_width)
            y_fraction = y_remainder.to(number) * y_scale
            x_fraction = x_remainder.to(number) * x_scale
            upper = one_map + y_low.to(tl.int64) * stride_mh
            lower = one_map + y_high.to(tl.int64) * stride_mh
            x_low = x_low.to(tl.int64) * stride_mw
            x_high = x_high.to(tl.int64) * stride_mw
            upper_left = tl.load(upper + x_low).to(number)
            lower_left = tl.load(lower + x_low).to(number)
            above = upper_left + x_fraction * (tl.load(upper + x_high).to(number) - upper_left)
            below = lower_left + x_fraction * (tl.load(lower + x_high).to(number) - lower_left)
            value = above + y_fraction * (below - above)
            weighted = tl.load(confidence).to(number) * value
            total += tl.where(inside, weighted, 0.0)
            duplicates += inside.to(tl.int32)
        one_map += stride_mp
        confidence += stride_sp

    mean = total / tl.maximum(duplicates, 1).to(number)
    out = output + index * height * width + y.to(tl.int64) * width + x
    tl.store(out, mean, mask=(y < height) & (x < width))


def fold_patches(
    maps: Tensor,
    confidences: Tensor,
    tops: Tensor,
    lefts: Tensor,
    crop: tuple[int, int],
    size: tuple[int, int],
    *,
    config: FoldPatchesConfig | None = None,
) -> Tensor:
    """Return sum_p s_p V_p / D, the maps of whole images, shape (N, T, *size).

    Args:
        maps: (N, P, T, h, w), any strides; floating point.
        confidences: s, (N, P, T), any strides; floating point.
        tops, lefts: (P,), int32 or int64. What of a crop lies beyond the image is left out.
        crop: height and width of the crops in the image.
        size: height and width of the image.
        config: block sizes; None computes them.

    Returns:
        float32, or float64 if maps or confidences are; contiguous; 0 where no crop lies.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton.
        TypeError: maps or confidences other than float16, bfloat16, float32 and float64; offsets other than int32
            and int64.
    """
    _check(maps, confidences, tops, lefts, crop, size)
    require_runnable(maps.device, fold_patches_kernel)
    launch, output = plan(maps, confidences, tops, lefts, crop, size, config=config)
    launch.run()
    return output


def plan(
    maps: Tensor,
    confidences: Tensor,
    tops: Tensor,
    lefts: Tensor,
    crop: tuple[int, int],
    size: tuple[int, int],
    *,
    config: FoldPatchesConfig | None = None,
) -> tuple[Launch, Tensor]:
    """Return the launch that `fold_patches` would make and the tensor it writes. Works on meta tensors."""
    batch, patches, targets, source_height, source_width = maps.shape
    number = torch.promote_types(torch.promote_types(maps.dtype, confidences.dtype), torch.float32)
    output = maps.new_empty((batch, targets, *size), dtype=number)
    if config is None:
        config = default_config(maps=batch * targets, size=size, multiprocessors=processors(maps.device))
    tiles = triton.cdiv(size[0], config.rows) * triton.cdiv(size[1], config.columns)
    launch = Launch(
        kernel=fold_patches_kernel,
        programs=batch * targets * tiles,
        arguments={
            "maps": maps,
            "confidences": confidences,
            "tops": tops.contiguous(),
            "lefts": lefts.contiguous(),
            "output": output,
            "patches": patches,
            "targets": targets,
            "source_height": source_height,
            "source_width": source_width,
            "crop_height": crop[0],
            "crop_width": crop[1],
            "height": size[0],
            "width": size[1],
            **{f"stride_m{axis}": stride for axis, stride in zip("npthw", maps.stride(), strict=True)},
            **{f"stride_s{axis}": stride for axis, stride in zip("npt", confidences.stride(), strict=True)},
        },
        constants={"BLOCK_Y": config.rows, "BLOCK_X": config.columns},
        num_warps=config.num_warps,
    )
    return launch, output


def _check(
    maps: Tensor,
    confidences: Tensor,
    tops: Tensor,
    lefts: Tensor,
    crop: tuple[int, int],
    size: tuple[int, int],
) -> None:
    for name, tensor in (("maps", maps), ("confidences", confidences)):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float16, bfloat16, float32 and float64")
    if confidences.device != maps.device:
        raise ValueError(f"confidences is on {confidences.device} and maps on {maps.device}: move one")
    check_offsets(tops, lefts, maps.device, "maps")
    if maps.ndim != 5 or min(maps.shape[2:]) < 1:
        raise ValueError(
            f"maps has shape {tuple(maps.shape)}; (N, P, T, h, w) is needed, no axis empty but the first two"
        )
    if tops.shape[0] != maps.shape[1] or confidences.shape != maps.shape[:3]:
        raise ValueError(
            f"maps has shape {tuple(maps.shape)}, confidences {tuple(confidences.shape)} and tops {tuple(tops.shape)};"
            " (N, P, T, h, w), (N, P, T) and (P,) are needed"
        )
    sides = (*size, *maps.shape[3:])
    if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"size is {tuple(size)} and the maps' is {tuple(maps.shape[3:])}; the kernel takes sides of 1 to"
            f" {LARGEST_SIDE}"
        )
    check_crop(crop, size)


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernel is specialised."""
    single, half, bfloat, double = torch.float32, torch.float16, torch.bfloat16, torch.float64
    cases = [
        # batch, targets, side of the maps, dtype, side of the image
        (256, 1, 322, single, 224),
        (256, 1, 322, bfloat, 224),
        (256, 1, 10, single, 224),
        (256, 5, 10, half, 224),
        (256, 1, 322, double, 224),
        (1, 1, 10, single, 224),
        (256, 1, 429, single, 299),
    ]
    offsets = torch.empty(36, dtype=torch.int64, device="meta")
    for batch, targets, side, dtype, image in cases:
        maps = torch.empty((batch, 36, targets, side, side), dtype=dtype, device="meta")
        crop = round(124 / 224 * image)
        launch, _ = plan(maps, maps[..., 0, 0].float(), offsets, offsets, (crop, crop), (image, image))
        kind = str(dtype).removeprefix("torch.")
        yield f"fold_patches batch={batch} {side}x{side} {kind} targets={targets} {image}x{image}", launch
