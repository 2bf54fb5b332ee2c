"""Masked images on the GPU: one launch, or two where the extremes are looked for apart.

For pair p with n = image_index[p] and k = channel_index[p], U = upsample(A[n, k]):

    M = (U - min U) / (max U - min U),    output[p] = x[n] * M + baseline[n] * (1 - M)

What has to move is the output, P * C * H * W, and the images once; U is never written. A program takes a few
pairs, a block of a row's W * C contiguous numbers and a range of rows, and walks through the cells of the source
that its rows lie in. Inside a cell M is linear in y: one value and one slope for each pair and column, found
once, and then one multiply-add a pixel. The pairs of a program lie side by side, so that pairs of one
image, as Score-CAM has them, find its rows in the first-level cache.

The extremes (see `bilinear`) are two numbers a pair, so that bytes do not decide where they are found. Time does:
each program that writes a part of a mask would have to find them. Where that is little against its writing, as
with 7 x 7 positions, it does, and a launch is saved; elsewhere a launch of its own finds them once.

An index that is out of range reads nothing and makes the whole masked image NaN.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.bilinear import (
    LARGEST_SIDE,
    corner_extremes,
    first_pixel,
    fraction,
    rows_around,
    source_position,
)
from fastcam_kernels.launch import Launch, alignment, processors, require_runnable

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class MaskedInputsConfig:
    """How the work is cut up. `default_config` computes one from the shapes.

    Attributes:
        pairs, columns: one step writes this block of one row; a column is one number of the row's W * C.
        parts: the rows of a mask are spread over this many programs.
        search_rows, search_columns: corners are looked at in tiles of this size.
        search_apart: find the extremes in a launch of its own, not in every program that writes.
    """

    pairs: int
    columns: int
    parts: int
    search_rows: int
    search_columns: int
    search_apart: bool
    num_warps: int


def default_config(
    *,
    pairs: int,
    source: tuple[int, int],
    size: tuple[int, int],
    colours: int,
    item_size: int,
    multiprocessors: int,
) -> MaskedInputsConfig:
    """Compute a configuration: a pair a warp, 128 bits a lane, and eight programs a multiprocessor."""
    row = size[1] * colours
    columns = min(512 // item_size, triton.next_power_of_2(row))
    together = min(4, triton.next_power_of_2(max(pairs, 1)))
    blocks = triton.cdiv(pairs, together) * triton.cdiv(row, columns)
    parts = min(triton.cdiv(8 * multiprocessors, max(blocks, 1)), triton.cdiv(size[0], 16))

    corners = [min(2 * old, new) for old, new in zip(source, size, strict=True)]
    rows_searched, columns_searched = (triton.cdiv(number, 16) * 16 for number in corners)
    searched = rows_searched * columns_searched
    # A corner takes two to three times the work of a pixel's number. About a seventh more work is accepted, and
    # on a device that is not full anything that takes few steps.
    repeated = searched * parts * triton.cdiv(row, columns)
    idle = blocks * parts <= multiprocessors and searched <= 1024
    search_apart = repeated * 16 > size[0] * row and not idle
    return MaskedInputsConfig(
        pairs=together,
        columns=columns,
        parts=parts,
        search_rows=min(16, triton.next_power_of_2(corners[0])),
        search_columns=min(64 if search_apart else 16, triton.next_power_of_2(corners[1])),
        search_apart=search_apart,
        num_warps=together,
    )


@triton.jit
def plane_stride(stride, WIDE: tl.constexpr):
    """Return a stride inside planes of activations, in 64 bits only where offsets need them: they fill registers."""
    return tl.cast(stride, tl.int64) if WIDE else stride


@triton.jit
def chosen_planes(
    image_index,
    channel_index,
    pair,
    pairs,
    batch,
    channels,
    stride_an,
    stride_ak,
):
    """Return the images n, where the planes A[n, k] start and whether both indices exist, for the pairs `pair`."""
    inside = pair < pairs
    n = tl.load(image_index + pair, mask=inside, other=0).to(tl.int64)
    k = tl.load(channel_index + pair, mask=inside, other=0).to(tl.int64)
    known = (n >= 0) & (n < batch) & (k >= 0) & (k < channels)
    n = tl.where(known, n, 0)
    k = tl.where(known, k, 0)
    return n, n * stride_an + k * stride_ak, known


@triton.jit
def lowest_and_span(
    planes,
    known,
    source_height,
    source_width,
    height,
    width,
    stride_ah,
    stride_aw,
    number: tl.constexpr,
    FLAT_TOLERANCE: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Return min U and max U - min U of each pair: infinity for a flat map, NaN for a broken or unknown one."""
    rows = tl.arange(0, BLOCK_Y)[None, :, None]
    columns = tl.arange(0, BLOCK_X)[None, None, :]
    low = tl.full((PAIRS, BLOCK_Y, BLOCK_X), float("inf"), dtype=number)
    high = tl.full((PAIRS, BLOCK_Y, BLOCK_X), float("-inf"), dtype=number)
    low, high = corner_extremes(
        planes[:, None, None],
        rows,
        columns,
        low,
        high,
        source_height,
        source_width,
        height,
        width,
        stride_ah,
        stride_aw,
        False,
        BLOCK_Y,
        BLOCK_X,
    )
    low = tl.reshape(low, (PAIRS, BLOCK_Y * BLOCK_X))
    high = tl.reshape(high, (PAIRS, BLOCK_Y * BLOCK_X))
    # Reductions drop NaN; a map with one is NaN as a whole, as in the reference.
    broken = tl.max((low != low).to(tl.int32), axis=1) > 0
    lowest = tl.min(low, axis=1)
    highest = tl.max(high, axis=1)
    lowest = tl.where(broken | (known == 0), float("nan"), lowest).to(number)
    span = highest - lowest
    largest = tl.maximum(tl.abs(lowest), tl.abs(highest))
    return lowest, tl.where(span > FLAT_TOLERANCE * largest, span, float("inf")).to(number)


@triton.jit
def extremes_kernel(
    activations,
    image_index,
    channel_index,
    extremes,
    pairs,
    batch,
    channels,
    source_height,
    source_width,
    height,
    width,
    stride_an,
    stride_ak,
    stride_ah,
    stride_aw,
    WIDE_PLANES: tl.constexpr,
    FLAT_TOLERANCE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """extremes[p] = min U, max U - min U: one pair a program."""
    pair = tl.program_id(0) + tl.arange(0, 1)
    _, start, known = chosen_planes(image_index, channel_index, pair, pairs, batch, channels, stride_an, stride_ak)
    lowest, span = lowest_and_span(
        activations + start,
        known,
        source_height,
        source_width,
        height,
        width,
        plane_stride(stride_ah, WIDE_PLANES),
        plane_stride(stride_aw, WIDE_PLANES),
        extremes.dtype.element_ty,
        FLAT_TOLERANCE,
        1,
        BLOCK_Y,
        BLOCK_X,
    )
    out = extremes + 2 * pair.to(tl.int64)
    tl.store(out, lowest)
    tl.store(out + 1, span)


@triton.jit
def column_offset(e, x, stride_w, stride_c, COLOURS: tl.constexpr, FLAT: tl.constexpr):
    """Return where column e = x * C + c of a row lies behind the row's start."""
    return e if FLAT else x.to(tl.int64) * stride_w + (e % COLOURS).to(tl.int64) * stride_c


@triton.jit
def before(y, end):
    """Return y < end as a block (1,): of a block and a single truth value the interpreter makes integers."""
    return tl.full((1,), y, tl.int32) < end


@triton.jit
def spread(values, PAIRS: tl.constexpr, BLOCK_E: tl.constexpr):
    """Return each pair's value BLOCK_E times, one pair after the other."""
    return tl.reshape(tl.broadcast_to(values[:, None], (PAIRS, BLOCK_E)), (PAIRS * BLOCK_E,))


@triton.jit
def load_line(start, y, end, stride, inside, ALIGNED: tl.constexpr):
    """Return line y of the images from `start` on; 0 from line `end` on."""
    line = tl.multiple_of(y.to(tl.int64) * stride, ALIGNED)
    return tl.load(start + line, mask=inside & before(y, end), other=0.0)


@triton.jit
def blend_line(
    out,
    y,
    end,
    row,
    inside,
    image,
    shown,
    at_top,
    slope,
    position,
    base,
    BASELINE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Write line y: M = at_top + (position - base) * slope, the product with the image, the baseline's share."""
    number: tl.constexpr = at_top.dtype
    mask = at_top + (tl.maximum(position, 0) - base).to(number) * slope
    # Rounding can leave [0, 1] by a unit. A NaN stays one.
    mask = tl.maximum(mask, tl.full((), 0.0, number), propagate_nan=tl.PropagateNan.ALL)
    mask = tl.minimum(mask, tl.full((), 1.0, number), propagate_nan=tl.PropagateNan.ALL)
    value = image.to(number) * mask
    if BASELINE:
        value += shown.to(number) * (1 - mask)
    line = tl.multiple_of(y.to(tl.int64) * row, ALIGNED)
    tl.store(out + line, value.to(image.dtype), mask=inside & before(y, end))


@triton.jit
def masked_inputs_kernel(
    images,
    baseline,
    activations,
    image_index,
    channel_index,
    extremes,
    output,
    pairs,
    batch,
    channels,
    source_height,
    source_width,
    height,
    width,
    row,
    parts,
    stride_in,
    stride_ic,
    stride_ih,
    stride_iw,
    stride_bn,
    stride_bc,
    stride_bh,
    stride_bw,
    stride_an,
    stride_ak,
    stride_ah,
    stride_aw,
    COLOURS: tl.constexpr,
    BASELINE: tl.constexpr,
    FLAT_IMAGES: tl.constexpr,
    FLAT_BASELINE: tl.constexpr,
    ALIGNED_OUTPUT: tl.constexpr,
    ALIGNED_IMAGES: tl.constexpr,
    ALIGNED_BASELINE: tl.constexpr,
    SEARCH: tl.constexpr,
    WIDE_PLANES: tl.constexpr,
    FLAT_TOLERANCE: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    SEARCH_Y: tl.constexpr,
    SEARCH_X: tl.constexpr,
):
    """output[p, y, e] for a few pairs p, a range of rows y and a block of columns e = x * C + c."""
    column_blocks = tl.cdiv(row, BLOCK_E)
    program = tl.program_id(0)
    first_column = program % column_blocks * BLOCK_E
    part = program // column_blocks % parts
    first_pair = program // (column_blocks * parts) * PAIRS
    pair = first_pair + tl.arange(0, PAIRS)
    number: tl.constexpr = extremes.dtype.element_ty
    step_h = plane_stride(stride_ah, WIDE_PLANES)
    step_w = plane_stride(stride_aw, WIDE_PLANES)

    n, start, known = chosen_planes(image_index, channel_index, pair, pairs, batch, channels, stride_an, stride_ak)
    if SEARCH:
        lowest, span = lowest_and_span(
            activations + start,
            known,
            source_height,
            source_width,
            height,
            width,
            step_h,
            step_w,
            number,
            FLAT_TOLERANCE,
            PAIRS,
            SEARCH_Y,
            SEARCH_X,
        )
    else:
        found = extremes + 2 * pair.to(tl.int64)
        lowest = tl.load(found, mask=pair < pairs, other=0.0)
        span = tl.load(found + 1, mask=pair < pairs, other=1.0)
    # The pairs' columns form one axis. With two the compiler chooses which of them is the fast one for each access by
    # itself, and where the source is gathered nothing tells: triton 3.6 takes the pairs, and every line then changes
    # its layout on its way.
    lowest = spread(lowest, PAIRS, BLOCK_E)
    span = spread(span, PAIRS, BLOCK_E)
    planes = activations + spread(start, PAIRS, BLOCK_E)
    n = spread(n, PAIRS, BLOCK_E)
    place = tl.arange(0, PAIRS * BLOCK_E)
    pair = first_pair + place // BLOCK_E
    e = first_column + place % BLOCK_E
    # Groups of ALIGNED_OUTPUT columns lie inside the row or outside together.
    inside = tl.max_constancy(e < row, ALIGNED_OUTPUT) & (pair < pairs)
    x = tl.minimum(e // COLOURS, width - 1)
    x_low, x_high, x_remainder = source_position(x, source_width, width)
    x_fraction = fraction(x_remainder, width, number)

    image = images + tl.max_constancy(tl.multiple_of(n * stride_in, ALIGNED_IMAGES), BLOCK_E)
    shown = baseline + tl.max_constancy(tl.multiple_of(n * stride_bn, ALIGNED_BASELINE), BLOCK_E)
    image += column_offset(e, x, stride_iw, stride_ic, COLOURS, FLAT_IMAGES)
    shown += column_offset(e, x, stride_bw, stride_bc, COLOURS, FLAT_BASELINE)
    out = output + tl.multiple_of(pair.to(tl.int64) * height * row, ALIGNED_OUTPUT) + e

    rows_per_part = tl.cdiv(height, parts)
    first_row = part * rows_per_part
    last_row = tl.minimum(first_row + rows_per_part, height)
    # Where cells are no saving, each row counts as a cell of its own.
    by_cell = 2 * source_height < height
    first_cell = tl.where(by_cell, source_position(first_row, source_height, height)[0], first_row)
    last_cell = tl.where(by_cell, source_position(last_row - 1, source_height, height)[0], last_row - 1)
    step = 1 / (first_row * 0 + 2 * height).to(number)
    for number_of_cell in range(last_cell + 1 - first_cell):
        cell = first_cell + number_of_cell
        begin = tl.maximum(first_row, tl.where(by_cell, first_pixel(cell, source_height, height), cell))
        end = tl.minimum(last_row, tl.where(by_cell, first_pixel(cell + 1, source_height, height), cell + 1))
        y_low, y_high, _ = source_position(begin, source_height, height)
        top, bottom = rows_around(
            planes + y_low * step_h, planes + y_high * step_h, x_low, x_high, x_fraction, step_w, number
        )
        at_top = (top - lowest) / span
        slope = (bottom - top) / span * step
        # Four lines are under way at once: stores and loads may alias for all the compiler knows.
        for line in range(0, end - begin, 4):
            y = begin + line
            x0 = load_line(image, y, end, stride_ih, inside, ALIGNED_IMAGES)
            x1 = load_line(image, y + 1, end, stride_ih, inside, ALIGNED_IMAGES)
            x2 = load_line(image, y + 2, end, stride_ih, inside, ALIGNED_IMAGES)
            x3 = load_line(image, y + 3, end, stride_ih, inside, ALIGNED_IMAGES)
            b0 = x0
            b1 = x1
            b2 = x2
            b3 = x3
            if BASELINE:
                b0 = load_line(shown, y, end, stride_bh, inside, ALIGNED_BASELINE)
                b1 = load_line(shown, y + 1, end, stride_bh, inside, ALIGNED_BASELINE)
                b2 = load_line(shown, y + 2, end, stride_bh, inside, ALIGNED_BASELINE)
                b3 = load_line(shown, y + 3, end, stride_bh, inside, ALIGNED_BASELINE)
            # 2 H times the fraction between y_low and y_high, as in source_position, without its division.
            first = (2 * y + 1) * source_height - height
            base = 2 * height * y_low
            blend_line(out, y, end, row, inside, x0, b0, at_top, slope, first, base, BASELINE, ALIGNED_OUTPUT)
            first += 2 * source_height
            blend_line(out, y + 1, end, row, inside, x1, b1, at_top, slope, first, base, BASELINE, ALIGNED_OUTPUT)
            first += 2 * source_height
            blend_line(out, y + 2, end, row, inside, x2, b2, at_top, slope, first, base, BASELINE, ALIGNED_OUTPUT)
            first += 2 * source_height
            blend_line(out, y + 3, end, row, inside, x3, b3, at_top, slope, first, base, BASELINE, ALIGNED_OUTPUT)


def masked_inputs(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
    *,
    flat_tolerance: float,
    config: MaskedInputsConfig | None = None,
) -> Tensor:
    """Return images[n] * M + baseline[n] * (1 - M) for each pair, shape (P, C, H, W).

    Args:
        images: (N, C, H, W), any strides; floating point. Channels-last is fast.
        activations: (N, K, h, w), any strides; floating point.
        image_index, channel_index: (P,) int64 or int32: n and k of each pair. One out of range makes the
            masked image NaN.
        baseline: like images, in their dtype; None for zeros.
        flat_tolerance: a map is flat if its range is at most this fraction of its largest magnitude.
        config: block sizes; None computes them.

    Returns:
        The images' dtype, channels-last. M is computed in float32 (float64 if activations or images are) and
        not rounded before the product.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton.
        TypeError: dtypes other than those above.
    """
    _check(images, activations, image_index, channel_index, baseline)
    require_runnable(images.device, masked_inputs_kernel)
    launches, output = plan(
        images, activations, image_index, channel_index, baseline, flat_tolerance=flat_tolerance, config=config
    )
    for launch in launches:
        launch.run()
    return output


def plan(
    images: Tensor,
    activations: Tensor,
    image_index: Tensor,
    channel_index: Tensor,
    baseline: Tensor | None,
    *,
    flat_tolerance: float,
    config: MaskedInputsConfig | None = None,
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches that `masked_inputs` would make and the tensor they write. Works on meta tensors."""
    pairs = image_index.shape[0]
    batch, colours, height, width = images.shape
    channels, source_height, source_width = activations.shape[1:]
    row = width * colours
    number = torch.promote_types(torch.promote_types(images.dtype, activations.dtype), torch.float32)
    if config is None:
        config = default_config(
            pairs=pairs,
            source=(source_height, source_width),
            size=(height, width),
            colours=colours,
            item_size=images.element_size(),
            multiprocessors=processors(images.device),
        )
    output = torch.empty(
        (pairs, colours, height, width),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last,
    )
    extremes = activations.new_empty((pairs, 2), dtype=number)
    shown = images if baseline is None else baseline
    i_strides, b_strides, a_strides = (_strides(tensor) for tensor in (images, shown, activations))
    wide_planes = (source_height - 1) * a_strides["h"] + (source_width - 1) * a_strides["w"] >= 2**31
    chosen: dict[str, Tensor | int] = {
        "activations": activations,
        "image_index": image_index.contiguous(),
        "channel_index": channel_index.contiguous(),
        "extremes": extremes,
        "pairs": pairs,
        "batch": batch,
        "channels": channels,
        "source_height": source_height,
        "source_width": source_width,
        "height": height,
        "width": width,
        "stride_an": a_strides["n"],
        "stride_ak": a_strides["c"],
        "stride_ah": a_strides["h"],
        "stride_aw": a_strides["w"],
    }
    search = Launch(
        kernel=extremes_kernel,
        programs=pairs,
        arguments=chosen,
        constants={
            "WIDE_PLANES": wide_planes,
            "FLAT_TOLERANCE": flat_tolerance,
            "BLOCK_Y": config.search_rows,
            "BLOCK_X": config.search_columns,
        },
        num_warps=4,
    )
    extent = math.gcd(row, config.columns)
    blocks = triton.cdiv(pairs, config.pairs) * triton.cdiv(row, config.columns) * config.parts
    write = Launch(
        kernel=masked_inputs_kernel,
        programs=blocks,
        arguments={
            **chosen,
            "images": images,
            "baseline": shown,
            "output": output,
            "row": row,
            "parts": config.parts,
            **{f"stride_i{axis}": i_strides[axis] for axis in "nchw"},
            **{f"stride_b{axis}": b_strides[axis] for axis in "nchw"},
        },
        constants={
            "COLOURS": colours,
            "BASELINE": baseline is not None,
            "FLAT_IMAGES": _flat(i_strides, colours, width),
            "FLAT_BASELINE": _flat(b_strides, colours, width),
            "ALIGNED_OUTPUT": alignment(extent),
            "ALIGNED_IMAGES": alignment(extent, i_strides["n"], i_strides["h"]),
            "ALIGNED_BASELINE": alignment(extent, b_strides["n"], b_strides["h"]),
            "SEARCH": not config.search_apart,
            "WIDE_PLANES": wide_planes,
            "FLAT_TOLERANCE": flat_tolerance,
            "PAIRS": config.pairs,
            "BLOCK_E": config.columns,
            "SEARCH_Y": config.search_rows,
            "SEARCH_X": config.search_columns,
        },
        num_warps=config.num_warps,
    )
    return ((search, write) if config.search_apart else (write,)), output


def _strides(tensor: Tensor) -> dict[str, int]:
    """Return strides by axis, 0 for an axis of length one."""
    axes = zip("nchw", tensor.shape, tensor.stride(), strict=True)
    return {axis: stride if length > 1 else 0 for axis, length, stride in axes}


def _flat(strides: Mapping[str, int], colours: int, width: int) -> bool:
    """Say whether column e = x * C + c of a row lies e numbers behind its start."""
    return (colours == 1 or strides["c"] == 1) and (width == 1 or strides["w"] == colours)


def _check(
    images: Tensor, activations: Tensor, image_index: Tensor, channel_index: Tensor, baseline: Tensor | None
) -> None:
    floats = {"images": images, "activations": activations}
    if baseline is not None:
        floats["baseline"] = baseline
    indices = {"image_index": image_index, "channel_index": channel_index}
    for name, tensor in {**floats, **indices}.items():
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device} and images on {images.device}: move one")
    for name, tensor in floats.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float16, bfloat16, float32 and float64")
        if tensor.ndim != 4 or min(tensor.shape[1:]) < 1 or tensor.shape[0] != images.shape[0]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and images {tuple(images.shape)}; both need four axes,"
                " none empty but the first, and the same number of images"
            )
        if max(tensor.shape[2:]) > LARGEST_SIDE:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; the kernel takes sides of 1 to {LARGEST_SIDE}")
    for name, tensor in indices.items():
        if tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {tensor.dtype}; int64 or int32 is needed")
        if tensor.ndim != 1 or tensor.shape != image_index.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and image_index {tuple(image_index.shape)}; both must be (P,)"
            )
    if images.shape[0] == 0 and image_index.shape[0] > 0:
        raise ValueError(f"image_index has {image_index.shape[0]} entries, but images has no image")
    if images.shape[1] * images.shape[3] > 2**30:
        raise ValueError(f"images has shape {tuple(images.shape)}; the kernel takes C * W up to 2^30")
    if baseline is not None and (baseline.shape != images.shape or baseline.dtype != images.dtype):
        raise ValueError(
            f"baseline is {baseline.dtype} {tuple(baseline.shape)} and images {images.dtype}"
            f" {tuple(images.shape)}; they must agree in shape and dtype"
        )


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    sources = {"layer2": (512, 28), "layer4": (2048, 7)}
    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    single, half, double = torch.float32, torch.bfloat16, torch.float64
    cases = [
        # pairs, layer, size, images' layout, dtype, baseline
        (256, "layer4", 224, "nhwc", single, False),
        (256, "layer4", 224, "nhwc", half, False),
        (256, "layer4", 224, "nhwc", torch.float16, False),
        (256, "layer4", 224, "nhwc", half, True),
        (256, "layer4", 224, "nchw", half, False),
        (256, "layer4", 299, "nhwc", half, False),
        (256, "layer2", 224, "nhwc", single, True),
        (256, "layer2", 224, "nhwc", half, False),
        (1, "layer4", 224, "nhwc", half, False),
        (256, "layer4", 224, "nhwc", double, False),
    ]
    for pairs, layer, side, layout, dtype, baseline in cases:
        channels, source = sources[layer]
        images = torch.empty((8, 3, side, side), dtype=dtype, device="meta", memory_format=layouts[layout])
        activations = torch.empty(
            (8, channels, source, source), dtype=dtype, device="meta", memory_format=torch.channels_last
        )
        index = torch.empty(pairs, dtype=torch.int64, device="meta")
        launches, _ = plan(images, activations, index, index, images if baseline else None, flat_tolerance=2e-6)
        kind = str(dtype).removeprefix("torch.")
        name = f"{pairs} {layer} {side} {layout} {kind}{' baseline' if baseline else ''}"
        yield f"masked_inputs write {name}", launches[-1]
        if len(launches) == 2:
            yield f"masked_inputs search {name}", launches[0]
