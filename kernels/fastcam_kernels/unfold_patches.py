"""Overlapping crops of images, resized straight into a network's batch: one launch.

    output[n P + p, y, x, c] = sum_ij v[y, i] u[x, j] images[n, c, tops[p] + i, lefts[p] + j]

with the two or four taps per axis of bilinear or bicubic resizing (a = -0.75), clamped at the crop's border. The
output is channels-last, and a program owns some elements of its rows, (x, c) flattened, and a band of rows. It walks
the rows of the crop from top to bottom, resizes each along x once, keeps the last four of these in registers, and
writes every output row that lies between the two in the middle. When crops are enlarged, as UCAG does, an
output row costs two or four products per element that way, and the loads and the products along x come once per row
of the crop. It writes N P C H' W' numbers and reads little beside that, N C H W. By a count in the machine code for
sm_90, crops of 124 to 322, an element takes some 20 instructions: less than the time of writing it in 32 bits, about as
much as that in 16.

Along each axis output pixel y lies at s = (y + 1/2) h / H' - 1/2, cell i = floor(s), fraction t = s - i, both from
integers and exact. Taps are at i, i + 1 (bilinear) and i - 1 ... i + 2 (bicubic). Bilinear resizing is usually
written with s clamped to 0: the clamped taps say the same, both being the border's value there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.launch import Launch, processors, require_runnable

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
MODES = ("bilinear", "bicubic")
# Positions in the crop are computed in 32-bit integers, (2 * pixel + 1) * crop + size: exact up to here.
LARGEST_SIDE = 32_767


@dataclass(frozen=True)
class UnfoldPatchesConfig:
    """How the launch is cut up. `default_config` computes one from the shapes.

    Attributes:
        elements: a program's share of an output row.
        rows: a program's share of the output rows.
    """

    elements: int
    rows: int
    num_warps: int


def default_config(
    *, crops: int, row_length: int, height: int, item_size: int, multiprocessors: int
) -> UnfoldPatchesConfig:
    """Compute a configuration: little of a block beyond the row's end, bands as tall as a full device allows."""
    # One store of 128 bits a thread where rows are aligned to it. The weights along y are computed once per thread and
    # row: 16-bit numbers, written twice as fast, need twice the elements to share them.
    per_thread = 16 // item_size
    sizes = [32 * per_thread * warps for warps in (4, 2, 1)]
    elements = min(sizes, key=lambda size: (triton.cdiv(row_length, size) * size, -size))
    strips = crops * triton.cdiv(row_length, elements)
    # A band starts with three rows of the crop that write nothing: not too short, and not more than needed to fill
    # the device several times over.
    rows = height
    while rows > 16 and strips * triton.cdiv(height, rows) < 8 * multiprocessors:
        rows = triton.cdiv(rows, 2)
    return UnfoldPatchesConfig(elements=elements, rows=rows, num_warps=elements // (32 * per_thread))


@triton.jit
def resized_position(pixel, source, size):
    """Return the cell floor(s) in which a pixel lies, from -1 on, and 2 size times the fraction s - floor(s)."""
    # Integer division rounds to zero: 2 size more keeps what is divided positive.
    numerator = (2 * pixel + 1) * source + size
    cell = numerator // (2 * size)
    return cell - 1, numerator - cell * (2 * size)


@triton.jit
def between(before, low, high, behind, t, CUBIC: tl.constexpr):
    """Return the value at the fraction t between low and high, by Keys' cubic with a = -0.75 or linearly."""
    if CUBIC:
        A: tl.constexpr = -0.75
        u = 1.0 - t
        near = ((A + 2) * t - (A + 3)) * t * t + 1.0
        far = ((A + 2) * u - (A + 3)) * u * u + 1.0
        value = A * t * u * u * before + near * low + far * high + A * t * u * t * behind
    else:
        value = low + t * (high - low)  # keeps a flat crop flat
    return value


@triton.jit
def resized_row(
    crop, row, crop_height, stride_h, x_before, x_low, x_high, x_behind, t, number: tl.constexpr, CUBIC: tl.constexpr
):
    """Return one row of the crop, resized along x; beyond the border, the border's row. x_...: where the taps are."""
    row = tl.minimum(tl.maximum(row, 0), crop_height - 1)
    start = crop + row.to(tl.int64) * stride_h
    low = tl.load(start + x_low).to(number)
    high = tl.load(start + x_high).to(number)
    before = low
    behind = high
    if CUBIC:
        before = tl.load(start + x_before).to(number)
        behind = tl.load(start + x_behind).to(number)
    return between(before, low, high, behind, t, CUBIC)


@triton.jit
def unfold_patches_kernel(
    images,
    tops,
    lefts,
    output,
    patches,
    channels,
    crop_height,
    crop_width,
    height,
    width,
    row_length,
    strips,
    bands,
    rows,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    CUBIC: tl.constexpr,
    DOUBLE: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write a strip of a band of output rows of one crop."""
    number: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    program = tl.program_id(0)
    strip = program % strips
    band = program // strips % bands
    index = program // (strips * bands)
    image = (index // patches).to(tl.int64)
    top = tl.load(tops + index % patches).to(tl.int64)
    left = tl.load(lefts + index % patches).to(tl.int64)
    crop = images + image * stride_n + top * stride_h + left * stride_w

    element = strip * BLOCK + tl.arange(0, BLOCK)
    # Groups of ALIGNED elements start aligned and are inside or outside together: what triton must know to
    # store them as one.
    inside = tl.max_constancy(element < row_length, ALIGNED)
    clamped = tl.minimum(element, row_length - 1)
    x = clamped // channels
    # 32 bits where the launcher has seen that they do: half the registers, and one instruction per address.
    offset: tl.constexpr = tl.int64 if WIDE else tl.int32
    channel = (clamped % channels).to(offset) * stride_c
    cell, remainder = resized_position(x, crop_width, width)
    x_before = channel + tl.maximum(cell - 1, 0).to(offset) * stride_w
    x_low = channel + tl.maximum(cell, 0).to(offset) * stride_w
    x_high = channel + tl.minimum(cell + 1, crop_width - 1).to(offset) * stride_w
    x_behind = channel + tl.minimum(cell + 2, crop_width - 1).to(offset) * stride_w
    t = remainder.to(number) / (remainder * 0 + 2 * width).to(number)

    y = band * rows
    end = tl.minimum(y + rows, height)
    cell, remainder = resized_position(y, crop_height, height)
    last_cell, _ = resized_position(end - 1, crop_height, height)
    scale = 1.0 / (y * 0 + 2 * height).to(number)
    # Four rows of the crop, each resized along x: those around the cell, the one before and the one behind. The walk
    # begins three cells early, to fetch three of them before there is something to write.
    cell -= 3
    remainder += 3 * (2 * height)
    # Each name has zeros of its own: triton takes names for one tensor as one variable of the loop, and the shift of
    # the rows at its end would be lost (seen in 3.9; the interpreter does not show it).
    before = tl.zeros((BLOCK,), dtype=number)
    low = tl.zeros((BLOCK,), dtype=number)
    high = tl.zeros((BLOCK,), dtype=number)
    while cell <= last_cell:
        behind = resized_row(crop, cell + 2, crop_height, stride_h, x_before, x_low, x_high, x_behind, t, number, CUBIC)
        while (y < end) & (remainder < 2 * height):
            value = between(before, low, high, behind, remainder.to(number) * scale, CUBIC)
            start = tl.multiple_of((index.to(tl.int64) * height + y) * row_length, ALIGNED)
            tl.store(output + start + element, value.to(output.dtype.element_ty), mask=inside)
            y += 1
            remainder += 2 * crop_height
        remainder -= 2 * height
        cell += 1
        before = low
        low = high
        high = behind


def unfold_patches(
    images: Tensor,
    tops: Tensor,
    lefts: Tensor,
    crop: tuple[int, int],
    size: tuple[int, int],
    mode: str,
    *,
    config: UnfoldPatchesConfig | None = None,
) -> Tensor:
    """Return the crops at (tops[p], lefts[p]) of every image, resized: (N P, C, *size), the patches within an image.

    Args:
        images: (N, C, H, W), any strides; floating point.
        tops, lefts: (P,), int32 or int64; a crop that reaches beyond the image reads memory that is not its own.
        crop: height and width of the crops.
        size: height and width of the result.
        mode: "bilinear" or "bicubic".
        config: block sizes; None computes them.

    Returns:
        The images' dtype, channels-last; computed in float32 (float64 for float64) and rounded once.

    Raises:
        ValueError: shapes that do not fit each other, another mode, tensors on different devices or on one without
            Triton.
        TypeError: images other than float16, bfloat16, float32 and float64; offsets other than int32 and int64.
    """
    _check(images, tops, lefts, crop, size, mode)
    require_runnable(images.device, unfold_patches_kernel)
    launch, output = plan(images, tops, lefts, crop, size, mode, config=config)
    launch.run()
    return output


def plan(
    images: Tensor,
    tops: Tensor,
    lefts: Tensor,
    crop: tuple[int, int],
    size: tuple[int, int],
    mode: str,
    *,
    config: UnfoldPatchesConfig | None = None,
) -> tuple[Launch, Tensor]:
    """Return the launch that `unfold_patches` would make and the tensor it writes. Works on meta tensors."""
    batch, channels = images.shape[:2]
    patches = tops.shape[0]
    crops = batch * patches
    output = torch.empty(
        (crops, channels, *size), dtype=images.dtype, device=images.device, memory_format=torch.channels_last
    )
    row_length = size[1] * channels
    aligned = math.gcd(row_length, 16 // images.element_size())
    if config is None:
        config = default_config(
            crops=crops,
            row_length=row_length,
            height=size[0],
            item_size=images.element_size(),
            multiprocessors=processors(images.device),
        )
    strips = triton.cdiv(row_length, config.elements)
    bands = triton.cdiv(size[0], config.rows)
    strides = [stride if length > 1 else 0 for length, stride in zip(images.shape, images.stride(), strict=True)]
    farthest_in_row = (channels - 1) * strides[1] + (crop[1] - 1) * strides[3]
    launch = Launch(
        kernel=unfold_patches_kernel,
        programs=crops * strips * bands,
        arguments={
            "images": images,
            "tops": tops.contiguous(),
            "lefts": lefts.contiguous(),
            "output": output,
            "patches": patches,
            "channels": channels,
            "crop_height": crop[0],
            "crop_width": crop[1],
            "height": size[0],
            "width": size[1],
            "row_length": row_length,
            "strips": strips,
            "bands": bands,
            "rows": config.rows,
            **{f"stride_{axis}": stride for axis, stride in zip("nchw", strides, strict=True)},
        },
        constants={
            "CUBIC": mode == "bicubic",
            "DOUBLE": images.dtype == torch.float64,
            "WIDE": farthest_in_row >= 2**31,
            "ALIGNED": aligned,
            "BLOCK": config.elements,
        },
        num_warps=config.num_warps,
    )
    return launch, output


def check_offsets(tops: Tensor, lefts: Tensor, device: torch.device, other: str) -> None:
    """Refuse offsets of other shapes, types or devices than the kernels take; `other` names what is on `device`."""
    for name, offsets in (("tops", tops), ("lefts", lefts)):
        if offsets.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} is {offsets.dtype}; the kernel takes int32 and int64")
        if offsets.device != device:
            raise ValueError(f"{name} is on {offsets.device} and {other} on {device}: move one")
        if offsets.ndim != 1 or offsets.shape != tops.shape:
            raise ValueError(f"{name} has shape {tuple(offsets.shape)} and tops {tuple(tops.shape)}; both must be (P,)")


def check_crop(crop: tuple[int, int], image: tuple[int, int]) -> None:
    """Refuse a crop that is not two numbers from 1 to the image's sides."""
    if len(crop) != 2 or not (1 <= crop[0] <= image[0] and 1 <= crop[1] <= image[1]):
        raise ValueError(f"crop is {tuple(crop)}; (height, width) from 1 to the image's {tuple(image)} are needed")


def _check(
    images: Tensor, tops: Tensor, lefts: Tensor, crop: tuple[int, int], size: tuple[int, int], mode: str
) -> None:
    if images.dtype not in DTYPES:
        raise TypeError(f"images is {images.dtype}; the kernel takes float16, bfloat16, float32 and float64")
    if images.ndim != 4 or min(images.shape[1:]) < 1:
        raise ValueError(f"images has shape {tuple(images.shape)}; (N, C, H, W) is needed, no axis empty but the first")
    check_offsets(tops, lefts, images.device, "images")
    check_crop(crop, (images.shape[2], images.shape[3]))
    if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in (*size, *crop)):
        raise ValueError(f"size is {tuple(size)} and crop {tuple(crop)}; the kernel takes sides of 1 to {LARGEST_SIDE}")
    if size[1] * images.shape[1] >= 2**31:
        raise ValueError(
            f"size is {tuple(size)} with {images.shape[1]} channels; the kernel takes rows of less than 2^31 numbers"
        )
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; valid: {', '.join(map(repr, MODES))}")


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernel is specialised."""
    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    single, half, bfloat, double = torch.float32, torch.float16, torch.bfloat16, torch.float64
    cases = [
        # batch, layout, dtype, side of the result, mode
        (256, "nhwc", single, 322, "bicubic"),
        (1, "nhwc", single, 322, "bicubic"),
        (256, "nhwc", bfloat, 322, "bicubic"),
        (256, "nchw", half, 322, "bicubic"),
        (256, "nhwc", double, 322, "bicubic"),
        (256, "nhwc", single, 224, "bicubic"),
        (256, "nhwc", bfloat, 224, "bicubic"),
        (256, "nhwc", single, 299, "bicubic"),
        (256, "nhwc", single, 322, "bilinear"),
        (256, "nhwc", bfloat, 224, "bilinear"),
    ]
    offsets = torch.empty(36, dtype=torch.int64, device="meta")
    for batch, layout, dtype, side, mode in cases:
        images = torch.empty((batch, 3, 224, 224), dtype=dtype, device="meta", memory_format=layouts[layout])
        launch, _ = plan(images, offsets, offsets, (124, 124), (side, side), mode)
        kind = str(dtype).removeprefix("torch.")
        yield f"unfold_patches batch={batch} {layout} {kind} {side}x{side} {mode}", launch
