"""Bilinear upsampling inside kernels: where a pixel lies in the source, and where the extremes lie.

Half-pixel centres (align_corners=False), edges clamped. A cell of the source is what lies between two neighbouring
positions: along each axis the upsampled map is linear in it, so that the extremes of the whole map are found
at the first and last pixels of the cells, 4 * h * w points instead of H * W.
"""

import triton
import triton.language as tl

# Source positions are computed in 32-bit integers, (2 * pixel + 1) * source: exact up to here.
LARGEST_SIDE = 32_767


@triton.jit
def first_pixel(cell, source, size):
    """Return the first pixel y with source position ((2 y + 1) source - size) / (2 size) >= cell."""
    # The first cell also takes the pixels in front of it, the last one those behind.
    bound = size * (2 * cell + 1) - source
    pixel = (tl.where(bound > 0, bound, 0) + 2 * source - 1) // (2 * source)
    return tl.where(cell <= 0, 0, tl.where(cell >= source, size, pixel))


@triton.jit
def corner_pixel(corner, source, size):
    """Return the pixel of a corner: 2 i and 2 i + 1 are the first and the last pixel of cell i."""
    # Together the cells hold all pixels. Where corners are no saving, every pixel is its own corner.
    cell = corner // 2
    first = first_pixel(cell, source, size)
    last = first_pixel(cell + 1, source, size) - 1
    pixel = tl.where(corner % 2 == 0, first, last)
    pixel = tl.where(2 * source < size, pixel, corner)
    pixel = tl.where(pixel < 0, 0, pixel)
    return tl.where(pixel < size, pixel, size - 1)


@triton.jit
def source_position(pixel, source, size):
    """Return the two source positions around a pixel, and 2 size times the fraction between them."""
    # In integers, so the fraction is exact.
    numerator = (2 * pixel + 1) * source - size
    numerator = tl.where(numerator > 0, numerator, 0)
    low = numerator // (2 * size)
    remainder = numerator - low * (2 * size)
    low = tl.where(low < source, low, source - 1)
    high = tl.where(low + 1 < source, low + 1, source - 1)
    return low, high, remainder


@triton.jit
def fraction(remainder, size, number: tl.constexpr):
    """Return remainder / (2 size) in the floating-point type `number`."""
    return remainder.to(number) / (remainder * 0 + 2 * size).to(number)


@triton.jit
def rows_around(upper, lower, x_low, x_high, x_fraction, stride_w, number: tl.constexpr):
    """Return the source's rows `upper` and `lower`, interpolated between their positions x_low and x_high."""
    # a + f (b - a) keeps a flat map flat.
    upper_left = tl.load(upper + x_low * stride_w).to(number)
    lower_left = tl.load(lower + x_low * stride_w).to(number)
    top = upper_left + x_fraction * (tl.load(upper + x_high * stride_w).to(number) - upper_left)
    bottom = lower_left + x_fraction * (tl.load(lower + x_high * stride_w).to(number) - lower_left)
    return top, bottom


@triton.jit
def upsample(
    image,
    y,
    x,
    source_height,
    source_width,
    height,
    width,
    stride_h,
    stride_w,
    RELU: tl.constexpr,
    number: tl.constexpr,
):
    """Return pixels y and x, which broadcast against each other and against `image`, of the upsampled map."""
    y_low, y_high, y_remainder = source_position(y, source_height, height)
    x_low, x_high, x_remainder = source_position(x, source_width, width)
    y_fraction = fraction(y_remainder, height, number)
    x_fraction = fraction(x_remainder, width, number)
    top, bottom = rows_around(
        image + y_low * stride_h, image + y_high * stride_h, x_low, x_high, x_fraction, stride_w, number
    )
    value = top + y_fraction * (bottom - top)
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # and a NaN stays one
    return value


@triton.jit
def corner_extremes(
    image,
    rows,
    columns,
    low,
    high,
    source_height,
    source_width,
    height,
    width,
    stride_h,
    stride_w,
    RELU: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Return low and high, lowered and raised to the upsampled map at all corners; NaN where one was met.

    rows and columns: 0 to BLOCK_Y - 1 and 0 to BLOCK_X - 1, along the tile's last two axes; low and high: tiles.
    """
    corner_rows = tl.minimum(2 * source_height, height)
    corner_columns = tl.minimum(2 * source_width, width)
    column_tiles = tl.cdiv(corner_columns, BLOCK_X)
    for tile in range(tl.cdiv(corner_rows, BLOCK_Y) * column_tiles):
        # Beyond the last corner: that corner again, which changes no extreme.
        row = tl.minimum(tile // column_tiles * BLOCK_Y + rows, corner_rows - 1)
        column = tl.minimum(tile % column_tiles * BLOCK_X + columns, corner_columns - 1)
        y = corner_pixel(row, source_height, height)
        x = corner_pixel(column, source_width, width)
        value = upsample(image, y, x, source_height, source_width, height, width, stride_h, stride_w, RELU, low.dtype)
        low = tl.minimum(low, value, propagate_nan=tl.PropagateNan.ALL)
        high = tl.maximum(high, value, propagate_nan=tl.PropagateNan.ALL)
    return low, high
