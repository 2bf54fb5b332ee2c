"""z+ relevance of a convolution, forward, on the GPU: the convolution's output and its gate.

    y = activation(conv(x, W) + b + residual)
    Z = conv(x, W+), for signed x conv(x+, W+) + conv(x-, W-)
    Q = y / Z, or 1 / Z, or [y != 0] (conv(x, W) + b) / Z with a residual; 0 where Z counts as 0

Two algorithms, between which `fastcam_kernels.tuning` chooses layer by layer.

"triton", two launches:

1. Both sums in one walk over x: a program owns a block of positions and outputs and keeps two float32
   accumulators. Positions of all images follow each other, so that small images leave no part of a block empty. The
   loop goes over taps outside and channels inside: a row of a block of x is contiguous memory. The exceptions: up to
   15 input channels (a first layer) are taken together with the taps as one axis, which is contiguous in W; narrow
   groups are packed side by side into one block whose weights are block-diagonal; depthwise layers multiply and
   add without matrix products. The epilogue divides, with an exact test Z > 0.
2. Z counts as 0 up to a share of the image's largest Z, which is known only now. Launch 1 has left each image's
   largest Z (by integer maxima of bit patterns: the order of the programs does not matter) and each block's
   smallest Z > 0. Where the one lies above the floor, nothing is left to do, which holds nearly everywhere. The
   other blocks compute Z again, bit for bit, and write zeros over the gates that the floor takes.

"composition": a library's convolution with stacked weights [W; W+], then `fastcam_kernels.relevance_gate`.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from weakref import ReferenceType, ref

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from fastcam_kernels import relevance_gate
from fastcam_kernels.activation import activate
from fastcam_kernels.launch import Launch, alignment, processors, require_runnable
from fastcam_kernels.relevance_gate import (
    DTYPES,
    keep_largest,
    quotient,
    signal_dtype,
)
from fastcam_kernels.tuning import Choice, Layer, choose

# Fewer input channels than a matrix product takes at least are walked together with the taps.
FEW_CHANNELS = 16
# Positions of the output, over all images, are 32-bit integers; offsets into memory are 64-bit.
MOST_POSITIONS = 2**31 - 2**10


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def out_size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the output."""
        height, width = (
            (full + 2 * pad - step * (k - 1) - 1) // stride + 1
            for full, pad, step, k, stride in zip(size, self.padding, self.dilation, kernel, self.stride, strict=True)
        )
        return height, width


@triton.jit
def block_outputs(output_block, outputs, blocks_per_span, outputs_per_span, BLOCK_K: tl.constexpr):
    """Return the span of a block, and its outputs k (1, BLOCK_K) with the end of those that are its own.

    A span is the outputs that share their input channels: one group, several that are packed into one block, or all.
    """
    span = output_block // blocks_per_span
    first = span * outputs_per_span + (output_block % blocks_per_span) * BLOCK_K
    end = tl.minimum((span + 1) * outputs_per_span, outputs)
    return span, first + tl.arange(0, BLOCK_K)[None, :], end


@triton.jit
def multiply(
    c,
    z,
    x,
    x_offset,
    x_inside,
    weight,
    positive,
    negative,
    w_offset,
    w_inside,
    WITH_C: tl.constexpr,
    SIGNED: tl.constexpr,
    TF32: tl.constexpr,
):
    """Add one step's products to both accumulators. x (BLOCK_M, BLOCK_C), weights (BLOCK_C, BLOCK_K)."""
    PRECISION: tl.constexpr = "tf32" if TF32 else "ieee"
    rows = tl.load(x + x_offset, mask=x_inside, other=0.0)
    if WITH_C:
        w = tl.load(weight + w_offset, mask=w_inside, other=0.0)
        c = tl.dot(rows, w, c, input_precision=PRECISION)
    above = tl.load(positive + w_offset, mask=w_inside, other=0.0)
    operand = rows.to(above.dtype)
    if SIGNED:
        below = tl.load(negative + w_offset, mask=w_inside, other=0.0)
        # Comparisons that are false for NaN, which stays in both halves.
        z = tl.dot(tl.where(operand < 0, 0.0, operand).to(above.dtype), above, z, input_precision=PRECISION)
        z = tl.dot(tl.where(operand > 0, 0.0, operand).to(above.dtype), below, z, input_precision=PRECISION)
    else:
        z = tl.dot(operand, above, z, input_precision=PRECISION)
    return c, z


@triton.jit
def block_sums(
    x,
    weight,
    positive,
    negative,
    position_block,
    output_block,
    height,
    width,
    channels,
    outputs,
    positions,
    positions_per_image,
    out_width,
    channels_per_group,
    outputs_per_group,
    blocks_per_span,
    outputs_per_span,
    channels_per_span,
    stride_xn,
    stride_xh,
    stride_xw,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    KIND: tl.constexpr,
    FLAT: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TAPS: tl.constexpr,
    PACKED: tl.constexpr,
    WITH_C: tl.constexpr,
    SIGNED: tl.constexpr,
    TF32: tl.constexpr,
    ALIGNED_X: tl.constexpr,
    ALIGNED_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Return conv(x, W) (zeros unless WITH_C) and Z for a block of positions and outputs, both (BLOCK_M, BLOCK_K)."""
    position = position_block * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    position_inside = position < positions
    if FLAT:
        image_offset = position.to(tl.int64) * stride_xw
        top = position * 0
        left = position * 0
    else:
        image_offset = (position // positions_per_image).to(tl.int64) * stride_xn
        top = position % positions_per_image // out_width * stride_h - padding_h
        left = position % positions_per_image % out_width * stride_w - padding_w

    span, k, k_end = block_outputs(output_block, outputs, blocks_per_span, outputs_per_span, BLOCK_K)
    k_inside = k < k_end
    c = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
    z = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)

    if KIND == "depthwise":
        for tap in range(TAPS):
            row = top + tap // KERNEL_W * dilation_h
            column = left + tap % KERNEL_W * dilation_w
            inside = position_inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            offset = image_offset + row.to(tl.int64) * stride_xh + column.to(tl.int64) * stride_xw
            offset = tl.multiple_of(offset, (ALIGNED_X, ALIGNED_X))
            x_inside = inside & tl.max_constancy(k_inside, (1, ALIGNED_X))
            value = tl.load(x + (offset + k // outputs_per_group), mask=x_inside, other=0.0)
            w_offset = k.to(tl.int64) * TAPS + tap
            above = tl.load(positive + w_offset, mask=k_inside, other=0.0)
            operand = value.to(above.dtype).to(tl.float32)
            if SIGNED:
                below = tl.load(negative + w_offset, mask=k_inside, other=0.0)
                z += operand * tl.where(operand > 0, above.to(tl.float32), below.to(tl.float32))
            else:
                z += operand * above.to(tl.float32)
            if WITH_C:
                w = tl.load(weight + w_offset, mask=k_inside, other=0.0)
                c += value.to(tl.float32) * w.to(tl.float32)
    elif KIND == "few channels":
        for start in range(0, TAPS * channels, BLOCK_C):
            # The walk along an output's weights, which lie tap after tap: one axis of taps and channels.
            term = start + tl.arange(0, BLOCK_C)
            tap = term[None, :] // channels
            row = top + tap // KERNEL_W * dilation_h
            column = left + tap % KERNEL_W * dilation_w
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (tap < TAPS)
            x_offset = image_offset + row.to(tl.int64) * stride_xh + column.to(tl.int64) * stride_xw
            w_offset = k.to(tl.int64) * (TAPS * channels) + term[:, None]
            c, z = multiply(
                c,
                z,
                x,
                x_offset + term[None, :] % channels,
                position_inside & inside,
                weight,
                positive,
                negative,
                w_offset,
                (term[:, None] < TAPS * channels) & k_inside,
                WITH_C,
                SIGNED,
                TF32,
            )
    else:
        first_channel = span * channels_per_span
        end_channel = tl.minimum(first_channel + channels_per_span, channels)
        for tap in range(TAPS):
            if FLAT:
                row_offset = image_offset
                inside = position_inside
            else:
                row = top + tap // KERNEL_W * dilation_h
                column = left + tap % KERNEL_W * dilation_w
                inside = position_inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
                row_offset = image_offset + row.to(tl.int64) * stride_xh + column.to(tl.int64) * stride_xw
            # Groups of ALIGNED_... channels start aligned and are inside or outside together: what triton must
            # know to load them as one.
            row_offset = tl.multiple_of(row_offset, (ALIGNED_X, ALIGNED_X))
            for start in range(0, channels_per_span, BLOCK_C):
                local = start + tl.arange(0, BLOCK_C)
                channel = tl.multiple_of(first_channel, ALIGNED_X) + local
                channel_inside = tl.max_constancy(channel < end_channel, ALIGNED_X)
                w_channel_inside = tl.max_constancy(channel < end_channel, ALIGNED_W)[:, None]
                if PACKED:
                    # Outputs and channels of different groups meet in a weight of 0.
                    group = k // outputs_per_group
                    same = group == channel[:, None] // channels_per_group
                    w_channel_inside = w_channel_inside & tl.max_constancy(same, (ALIGNED_W, 1))
                    w_channel = channel[:, None] - group * channels_per_group
                else:
                    w_channel = local[:, None]
                # Told of both terms: with one tap the sum folds away, and what it carries with it.
                w_row = tl.multiple_of(k.to(tl.int64) * (TAPS * channels_per_group), (ALIGNED_W, ALIGNED_W))
                w_row = tl.multiple_of(w_row + tap * channels_per_group, (ALIGNED_W, ALIGNED_W))
                c, z = multiply(
                    c,
                    z,
                    x,
                    row_offset + channel[None, :],
                    inside & channel_inside[None, :],
                    weight,
                    positive,
                    negative,
                    w_row + w_channel,
                    w_channel_inside & k_inside,
                    WITH_C,
                    SIGNED,
                    TF32,
                )
    return c, z


@triton.jit
def sums_and_gate_kernel(
    x,
    weight,
    bias,
    positive,
    negative,
    residual,
    y,
    gate,
    image_largest,
    block_smallest,
    height,
    width,
    channels,
    outputs,
    positions,
    positions_per_image,
    out_width,
    channels_per_group,
    outputs_per_group,
    output_blocks,
    blocks_per_span,
    outputs_per_span,
    channels_per_span,
    stride_xn,
    stride_xh,
    stride_xw,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    KIND: tl.constexpr,
    FLAT: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TAPS: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SIGNED: tl.constexpr,
    RECIPROCAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TF32: tl.constexpr,
    ALIGNED_X: tl.constexpr,
    ALIGNED_W: tl.constexpr,
    ALIGNED_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Launch 1: y, the gate by an exact test Z > 0, each image's largest and each block's smallest Z."""
    program = tl.program_id(0)
    position_block = program // output_blocks
    output_block = program % output_blocks
    c, z = block_sums(
        x,
        weight,
        positive,
        negative,
        position_block,
        output_block,
        height,
        width,
        channels,
        outputs,
        positions,
        positions_per_image,
        out_width,
        channels_per_group,
        outputs_per_group,
        blocks_per_span,
        outputs_per_span,
        channels_per_span,
        stride_xn,
        stride_xh,
        stride_xw,
        stride_h,
        stride_w,
        padding_h,
        padding_w,
        dilation_h,
        dilation_w,
        KIND,
        FLAT,
        KERNEL_W,
        TAPS,
        PACKED,
        True,
        SIGNED,
        TF32,
        ALIGNED_X,
        ALIGNED_W,
        BLOCK_M,
        BLOCK_K,
        BLOCK_C,
    )
    position = position_block * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    _, k, k_end = block_outputs(output_block, outputs, blocks_per_span, outputs_per_span, BLOCK_K)
    inside = (position < positions) & tl.max_constancy(k < k_end, (1, ALIGNED_OUT))
    offset = tl.multiple_of(position.to(tl.int64) * outputs, (ALIGNED_OUT, ALIGNED_OUT)) + k

    bits = tl.where(inside, z, 0.0).to(tl.int32, bitcast=True)
    keep_largest(image_largest, bits, position_block, positions, positions_per_image, BLOCK_M)
    tl.store(block_smallest + program, tl.min(tl.where(bits > 0, bits, 0x7FFFFFFF)))

    if HAS_BIAS:
        c += tl.load(bias + k, mask=k < k_end, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        added = tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
        a = activate(c + added, ACTIVATION).to(y.dtype.element_ty)
    else:
        a = activate(c, ACTIVATION).to(y.dtype.element_ty)
    tl.store(y + offset, a, mask=inside)
    q = quotient(a, c, z, HAS_RESIDUAL, RECIPROCAL)
    tl.store(gate + offset, tl.where(z <= 0, 0.0, q).to(gate.dtype.element_ty), mask=inside)


@triton.jit
def clear_residues_kernel(
    x,
    positive,
    negative,
    gate,
    image_largest,
    block_smallest,
    batch,
    blocks,
    images_per_block,
    height,
    width,
    channels,
    outputs,
    positions,
    positions_per_image,
    out_width,
    channels_per_group,
    outputs_per_group,
    output_blocks,
    blocks_per_span,
    outputs_per_span,
    channels_per_span,
    stride_xn,
    stride_xh,
    stride_xw,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    KIND: tl.constexpr,
    FLAT: tl.constexpr,
    KERNEL_W: tl.constexpr,
    TAPS: tl.constexpr,
    PACKED: tl.constexpr,
    SIGNED: tl.constexpr,
    TF32: tl.constexpr,
    ZERO_SHARE: tl.constexpr,
    ALIGNED_X: tl.constexpr,
    ALIGNED_W: tl.constexpr,
    ALIGNED_OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCKS_PER_PROGRAM: tl.constexpr,
):
    """Launch 2: the gate becomes 0 where Z is at most ZERO_SHARE of its image's largest."""
    first_block = tl.program_id(0) * BLOCKS_PER_PROGRAM
    block = first_block + tl.arange(0, BLOCKS_PER_PROGRAM)
    first_image = block // output_blocks * BLOCK_M // positions_per_image
    largest = tl.zeros((BLOCKS_PER_PROGRAM,), dtype=tl.float32)
    for number in range(images_per_block):
        image = tl.minimum(first_image + number, batch - 1)
        largest = tl.maximum(largest, tl.load(image_largest + image).to(tl.float32, bitcast=True))
    # A block without a Z > 0, and one beyond the last, holds the bits of a NaN: never at most anything.
    smallest = tl.load(block_smallest + block, mask=block < blocks, other=0x7FFFFFFF).to(tl.float32, bitcast=True)
    concerned = (smallest <= largest * ZERO_SHARE).to(tl.int32)
    if tl.max(concerned, axis=0) > 0:
        for number in range(BLOCKS_PER_PROGRAM):
            if tl.max(tl.where(block == first_block + number, concerned, 0), axis=0) > 0:
                position_block = (first_block + number) // output_blocks
                output_block = (first_block + number) % output_blocks
                _, z = block_sums(
                    x,
                    positive,
                    positive,
                    negative,
                    position_block,
                    output_block,
                    height,
                    width,
                    channels,
                    outputs,
                    positions,
                    positions_per_image,
                    out_width,
                    channels_per_group,
                    outputs_per_group,
                    blocks_per_span,
                    outputs_per_span,
                    channels_per_span,
                    stride_xn,
                    stride_xh,
                    stride_xw,
                    stride_h,
                    stride_w,
                    padding_h,
                    padding_w,
                    dilation_h,
                    dilation_w,
                    KIND,
                    FLAT,
                    KERNEL_W,
                    TAPS,
                    PACKED,
                    False,
                    SIGNED,
                    TF32,
                    ALIGNED_X,
                    ALIGNED_W,
                    BLOCK_M,
                    BLOCK_K,
                    BLOCK_C,
                )
                position = position_block * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
                _, k, k_end = block_outputs(output_block, outputs, blocks_per_span, outputs_per_span, BLOCK_K)
                inside = (position < positions) & tl.max_constancy(k < k_end, (1, ALIGNED_OUT))
                offset = tl.multiple_of(position.to(tl.int64) * outputs, (ALIGNED_OUT, ALIGNED_OUT)) + k
                of_image = tl.load(image_largest + position // positions_per_image, mask=position < positions, other=0)
                residue = z <= of_image.to(tl.float32, bitcast=True) * ZERO_SHARE
                zero = tl.zeros((BLOCK_M, BLOCK_K), dtype=gate.dtype.element_ty)
                tl.store(gate + offset, zero, mask=inside & residue)


def default_choice(layer: Layer, multiprocessors: int) -> Choice:
    """Compute a choice: a library's convolution for wide kernels and full float32, the own kernel for the rest."""
    per_group, per_group_out = layer.channels // layer.groups, layer.outputs // layer.groups
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.groups > 1 and per_group == 1:
        # Bound by memory: both sums come out of one reading of x. Channels fill a row of 128 bytes.
        outputs = min(64 if layer.dtype.itemsize == 2 else 32, triton.next_power_of_2(layer.outputs))
        return Choice("triton", positions=2048 // outputs, outputs=outputs, channels=1)
    few = layer.groups == 1 and per_group < FEW_CHANNELS and taps > 1
    packed = layer.groups > 1 and max(per_group, per_group_out) <= 32
    full_float32 = layer.dtype == torch.float32 and not layer.tf32
    composed = full_float32 or (taps > 1 and not few and not packed)
    # A matrix product takes at least 16 of each.
    width = layer.outputs if packed else per_group_out
    depth = layer.channels if packed else per_group * (taps if few else 1)
    outputs = max(16, triton.next_power_of_2(width))
    channels = max(16, triton.next_power_of_2(depth))
    algorithm = "composition" if composed else "triton"
    if full_float32:
        return Choice(algorithm, positions=32, outputs=min(32, outputs), channels=16)
    if few:
        # Gathered element by element: smaller steps hold fewer addresses in registers.
        return Choice(algorithm, positions=64, outputs=min(64, outputs), channels=16, num_stages=2)
    if packed:
        # The smaller the block, the fewer of its weights are zeros between groups.
        return Choice(algorithm, positions=64, outputs=min(32, outputs), channels=min(32, channels), num_stages=2)
    outputs = min(64, outputs)
    if taps > 1 or layer.dtype == torch.float32:
        # Loops over several taps with 8 warps: only where a table says so. A public convolution template whose loop
        # over taps and channels is one came out wrong with 8 warps (pytorch issue 173068).
        return Choice(algorithm, positions=64, outputs=outputs, channels=min(32, channels))
    blocks = triton.cdiv(layer.positions, 128) * triton.cdiv(layer.outputs, 64)
    if outputs == 64 and blocks >= 4 * multiprocessors:
        return Choice(algorithm, positions=128, outputs=outputs, channels=min(64, channels), num_warps=8)
    return Choice(algorithm, positions=64, outputs=outputs, channels=min(64, channels))


def relevance_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
    allow_tf32: bool | None = None,
    choice: Choice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return activation(conv(x, W) + b + residual) and its gate.

    Args:
        x: (N, C, H, W), float32, float16 or bfloat16; copied unless its channels lie next to each other.
        weight: W, (K, C / groups, kh, kw), of the dtype of x; copied unless in channels-last memory.
        bias: (K,).
        positive: W+, of the shape of W; bfloat16 (or float16) with a float16 x, else of the dtype of x.
        negative: W-, like W+; None says that no x is negative.
        residual: of the shape of the output and the dtype of x; with activation "none" or "relu", not `reciprocal`.
        geometry: how the convolution moves.
        activation: "none", "relu", "relu6", "silu" or "hardswish".
        reciprocal: the gate is 1 / Z.
        zero_share: Z counts as 0 up to this share of its image's largest.
        allow_tf32: whether float32 numbers may be multiplied as TF32; None asks torch.backends.cuda.matmul. The
            composition's convolutions ask torch.backends.cudnn.
        choice: algorithm and block sizes; None asks the device's table.

    Returns:
        y in the dtype of x and the gate (bfloat16 for a 16-bit x), both in channels-last memory.

    Raises:
        ValueError: shapes that do not fit each other, an unknown activation, tensors on different devices or on one
            without Triton.
        TypeError: dtypes other than these.
    """
    _check(x, weight, bias, positive, negative, residual, geometry)
    relevance_gate.check_activation(activation, residual, reciprocal)
    require_runnable(x.device, sums_and_gate_kernel)
    tf32 = torch.backends.cuda.matmul.allow_tf32 if allow_tf32 is None else allow_tf32
    if choice is None:
        default = partial(default_choice, multiprocessors=processors(x.device))
        layer = describe(x, weight, geometry, tf32=tf32, signed=negative is not None)
        choice = choose("relevance_conv", layer, x.device, default)
    if choice.algorithm == "composition":
        return _compose(
            x, weight, bias, positive, negative, residual, geometry, activation, reciprocal, zero_share=zero_share
        )
    launches, outputs = plan(
        x,
        weight,
        bias,
        positive,
        negative,
        residual,
        geometry,
        activation,
        reciprocal,
        zero_share=zero_share,
        tf32=tf32,
        choice=choice,
    )
    for launch in launches:
        launch.run()
    return outputs


def describe(x: Tensor, weight: Tensor, geometry: Geometry, *, tf32: bool, signed: bool) -> Layer:
    """Return what the choice for a convolution depends on."""
    return Layer(
        dtype=x.dtype,
        tf32=tf32 and x.dtype == torch.float32,
        batch=x.shape[0],
        channels=x.shape[1],
        outputs=weight.shape[0],
        kernel=(weight.shape[2], weight.shape[3]),
        stride=geometry.stride,
        groups=geometry.groups,
        size=(x.shape[2], x.shape[3]),
        signed=signed,
    )


def plan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
    tf32: bool,
    choice: Choice,
) -> tuple[tuple[Launch, Launch], tuple[Tensor, Tensor]]:
    """Return the two launches of the algorithm "triton" and the tensors they write. Works on meta tensors."""
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    outputs, per_group, kernel_h, kernel_w = weight.shape
    out_height, out_width = geometry.out_size((height, width), (kernel_h, kernel_w))
    positions = batch * out_height * out_width
    shape = (batch, outputs, out_height, out_width)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    gate = torch.empty_like(y, dtype=signal_dtype(x.dtype))

    kind = _kind(channels, kernel_h * kernel_w, geometry.groups)
    packed = _groups_per_block(kind, channels, outputs, geometry.groups, choice)
    spans = triton.cdiv(geometry.groups, packed) if kind == "dense" else 1
    outputs_per_span = outputs // geometry.groups * packed if spans > 1 else outputs
    channels_per_span = per_group * packed if spans > 1 else channels
    blocks_per_span = triton.cdiv(outputs_per_span, choice.outputs)
    output_blocks = spans * blocks_per_span
    blocks = triton.cdiv(positions, choice.positions) * output_blocks

    in_place = kernel_h * kernel_w == 1 and geometry.stride == (1, 1) and geometry.padding == (0, 0)
    position_stride = _position_stride(x) if in_place else None
    strides = (x.stride(0), x.stride(2), x.stride(3) if position_stride is None else position_stride)
    aligned_x = alignment(*strides, channels, channels_per_span, *([outputs] if kind == "depthwise" else []))
    # Each image's largest and each block's smallest Z > 0, as bit patterns.
    image_largest = torch.zeros(batch, dtype=torch.int32, device=x.device)
    block_smallest = torch.empty(blocks, dtype=torch.int32, device=x.device)

    arguments: dict[str, Tensor | int] = {
        "x": x,
        "positive": _tap_major(positive),
        # Pointers that are never read stand where there is no tensor.
        "negative": _tap_major(positive if negative is None else negative),
        "gate": gate,
        "image_largest": image_largest,
        "block_smallest": block_smallest,
        "height": height,
        "width": width,
        "channels": channels,
        "outputs": outputs,
        "positions": positions,
        "positions_per_image": out_height * out_width,
        "out_width": out_width,
        "channels_per_group": per_group,
        "outputs_per_group": outputs // geometry.groups,
        "output_blocks": output_blocks,
        "blocks_per_span": blocks_per_span,
        "outputs_per_span": outputs_per_span,
        "channels_per_span": channels_per_span,
        **dict(zip(("stride_xn", "stride_xh", "stride_xw"), strides, strict=True)),
        **dict(zip(("stride_h", "stride_w"), geometry.stride, strict=True)),
        **dict(zip(("padding_h", "padding_w"), geometry.padding, strict=True)),
        **dict(zip(("dilation_h", "dilation_w"), geometry.dilation, strict=True)),
    }
    constants: dict[str, int | float | bool | str] = {
        "KIND": kind,
        "FLAT": position_stride is not None,
        "KERNEL_W": kernel_w,
        "TAPS": kernel_h * kernel_w,
        "PACKED": packed > 1,
        "SIGNED": negative is not None,
        "TF32": tf32,
        "ALIGNED_X": aligned_x,
        "ALIGNED_W": alignment(per_group),
        "ALIGNED_OUT": alignment(outputs, outputs_per_span),
        "BLOCK_M": choice.positions,
        "BLOCK_K": choice.outputs,
        "BLOCK_C": choice.channels,
    }
    sums_and_gate = Launch(
        kernel=sums_and_gate_kernel,
        programs=blocks,
        arguments={
            **arguments,
            "weight": _tap_major(weight),
            "bias": x if bias is None else bias.contiguous(),
            "residual": x if residual is None else residual.contiguous(memory_format=torch.channels_last),
            "y": y,
        },
        constants={
            **constants,
            "HAS_BIAS": bias is not None,
            "HAS_RESIDUAL": residual is not None,
            "RECIPROCAL": reciprocal,
            "ACTIVATION": activation,
        },
        num_warps=choice.num_warps,
        num_stages=choice.num_stages,
    )
    # Few long programs: nearly all of them look at a row of numbers and return.
    share = min(64, max(1, blocks // (4 * processors(x.device))))
    blocks_per_program = 1 << (share.bit_length() - 1)
    clear_residues = Launch(
        kernel=clear_residues_kernel,
        programs=triton.cdiv(blocks, blocks_per_program),
        arguments={
            **arguments,
            "batch": batch,
            "blocks": blocks,
            "images_per_block": (choice.positions - 2) // (out_height * out_width) + 2,
        },
        constants={**constants, "ZERO_SHARE": zero_share, "BLOCKS_PER_PROGRAM": blocks_per_program},
        num_warps=choice.num_warps,
        num_stages=1,
    )
    return (sums_and_gate, clear_residues), (y, gate)


def _kind(channels: int, taps: int, groups: int) -> str:
    if groups > 1 and channels == groups:
        return "depthwise"
    return "few channels" if groups == 1 and channels < FEW_CHANNELS and taps > 1 else "dense"


def _groups_per_block(kind: str, channels: int, outputs: int, groups: int, choice: Choice) -> int:
    """Return how many groups' outputs and channels fit a block side by side; 1 where a group does not fit."""
    if kind != "dense" or groups == 1:
        return 1
    fitting = min(choice.outputs // (outputs // groups), choice.channels // (channels // groups), groups)
    return max(1, fitting)


def _position_stride(x: Tensor) -> int | None:
    """Return the distance between neighbouring positions if it is the same all over (N, H, W), else None."""
    step = None
    length = 1
    for axis in (3, 2, 0):
        if x.shape[axis] == 1:
            continue
        if step is None:
            step = x.stride(axis)
        elif x.stride(axis) != step * length:
            return None
        length *= x.shape[axis]
    return x.shape[1] if step is None else step


def _tap_major(weight: Tensor) -> Tensor:
    """Return a weight in memory (K, kh, kw, C / groups)."""
    return weight.contiguous(memory_format=torch.channels_last)


def _compose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
) -> tuple[Tensor, Tensor]:
    """The algorithm "composition": one convolution where the operands are the same, else two."""
    x = x.contiguous(memory_format=torch.channels_last)
    move = (None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    z = None
    if negative is None and positive.dtype == weight.dtype:
        c = F.conv2d(x, joined(weight, positive, dim=0, groups=geometry.groups), *move)
    else:
        c = F.conv2d(x, _tap_major(weight), *move)
        if negative is None:
            z = F.conv2d(x.to(positive.dtype), _tap_major(positive), *move)
        else:
            halves = relevance_gate.split_signs(x, geometry.groups, positive.dtype)
            z = F.conv2d(halves, joined(positive, negative, dim=1, groups=1), *move)
    return relevance_gate.gate_sums(
        c, z, bias, residual, geometry.groups, activation, reciprocal, zero_share=zero_share
    )


_joined: MutableMapping[Tensor, tuple[ReferenceType[Tensor], tuple[object, ...], Tensor]] = WeakTensorKeyDictionary()


def joined(first: Tensor, second: Tensor, *, dim: int, groups: int) -> Tensor:
    """Return two weights as one, joined group by group along `dim`, in channels-last memory.

    The result is kept while both live and neither is written to. (`.data` and numpy write without a trace; so do
    writes to tensors made in inference mode, of which nothing is kept.)
    """
    if first.is_inference() or second.is_inference():
        return _join(first, second, dim, groups)
    state = (dim, groups, first.data_ptr(), first._version, second.data_ptr(), second._version)
    found = _joined.get(first)
    if found is not None and found[0]() is second and found[1] == state:
        return found[2]
    made = _join(first, second, dim, groups)
    # What is made while a CUDA graph is captured holds nothing until the graph runs.
    if not (first.is_cuda and torch.cuda.is_current_stream_capturing()):
        _joined[first] = (ref(second), state, made)
    return made


def _join(first: Tensor, second: Tensor, dim: int, groups: int) -> Tensor:
    parts = [tensor.unflatten(0, (groups, -1)) for tensor in (first, second)]
    return torch.cat(parts, dim=dim + 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"x is {x.dtype}; the kernel takes float16, bfloat16 and float32")
    if weight.dtype != x.dtype:
        raise TypeError(f"weight is {weight.dtype}; {x.dtype}, as x, is needed")
    if x.ndim != 4 or min(x.shape[1:]) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; (N, C, H, W) is needed, no axis empty but N")
    groups, channels = geometry.groups, x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups is {groups}; a divisor of the {channels} channels is needed")
    if weight.ndim != 4 or min(weight.shape) < 1 or weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; (K, {channels // groups}, kh, kw) is needed, K a multiple of"
            f" {groups}"
        )
    signals = {x.dtype} if x.dtype.itemsize == 4 else {x.dtype, signal_dtype(x.dtype)}
    for name, tensor in (("positive", positive), ("negative", negative)):
        if tensor is not None and tensor.dtype not in signals:
            raise TypeError(f"{name} is {tensor.dtype}; with {x.dtype} one of {sorted(map(str, signals))} is needed")
        if tensor is not None and tensor.shape != weight.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; that of weight, {tuple(weight.shape)}, is needed"
            )
    if negative is not None and negative.dtype != positive.dtype:
        raise TypeError(f"negative is {negative.dtype}; {positive.dtype}, as positive, is needed")
    for name, tensor in (("weight", weight), ("positive", positive), ("negative", negative)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} and x on {x.device}: move one")
    for name, pair, least in (
        ("stride", geometry.stride, 1),
        ("padding", geometry.padding, 0),
        ("dilation", geometry.dilation, 1),
    ):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"{name} is {tuple(pair)}; two numbers of at least {least} are needed")
    size = geometry.out_size((x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3]))
    if min(size) < 1:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: smaller, with padding {geometry.padding}, than the kernel"
            f" {tuple(weight.shape[2:])} with dilation {geometry.dilation}"
        )
    if x.shape[0] * size[0] * size[1] > MOST_POSITIONS:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: {x.shape[0]} x {size[0]} x {size[1]} positions of the output; the kernel"
            f" takes {MOST_POSITIONS}"
        )
    relevance_gate.check_added(bias, residual, x, (x.shape[0], weight.shape[0], *size))


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for representative layers, with their default blocks."""
    single, half, brain = torch.float32, torch.float16, torch.bfloat16
    cases = [
        # name, dtype, C, K, kernel, stride, groups, side, activation, signed, residual; at a batch of 64. VGG's 3x3
        # convolutions compile to the code of ResNet's.
        ("1x1 256-64 56x56 bfloat16", brain, 256, 64, 1, 1, 1, 56, "relu", False, False),
        ("1x1 64-256 56x56 bfloat16 residual", brain, 64, 256, 1, 1, 1, 56, "relu", False, True),
        ("1x1 256-512 stride 2 bfloat16", brain, 256, 512, 1, 2, 1, 56, "none", False, False),
        ("1x1 512-128 28x28 bfloat16", brain, 512, 128, 1, 1, 1, 28, "relu", False, False),
        ("1x1 2048-512 7x7 bfloat16", brain, 2048, 512, 1, 1, 1, 7, "relu", False, False),
        ("1x1 24-144 56x56 bfloat16 relu6 signed", brain, 24, 144, 1, 1, 1, 56, "relu6", True, False),
        ("3x3 128-128 28x28 bfloat16", brain, 128, 128, 3, 1, 1, 28, "relu", False, False),
        ("3x3 256-256 stride 2 bfloat16", brain, 256, 256, 3, 2, 1, 28, "relu", False, False),
        ("3x3 256-256 56x56 bfloat16", brain, 256, 256, 3, 1, 1, 56, "relu", False, False),
        ("7x7 3-64 stride 2 bfloat16 signed", brain, 3, 64, 7, 2, 1, 224, "relu", True, False),
        ("3x3 32 groups of 4 bfloat16", brain, 128, 128, 3, 1, 32, 56, "relu", False, False),
        ("3x3 depthwise 144 bfloat16 relu6", brain, 144, 144, 3, 2, 144, 56, "relu6", False, False),
        ("5x5 depthwise 240 bfloat16 relu6", brain, 240, 240, 5, 1, 240, 28, "relu6", False, False),
        ("3x3 128-128 28x28 float16", half, 128, 128, 3, 1, 1, 28, "relu", False, False),
        ("3x3 depthwise 144 float16 silu signed", half, 144, 144, 3, 2, 144, 56, "silu", True, False),
        ("1x1 256-64 56x56 float32", single, 256, 64, 1, 1, 1, 56, "relu", False, False),
        ("1x1 256-64 56x56 tf32", single, 256, 64, 1, 1, 1, 56, "relu", False, False),
        ("3x3 depthwise 144 float32 relu6", single, 144, 144, 3, 2, 144, 56, "relu6", False, False),
    ]
    for name, dtype, channels, outputs, kernel, stride, groups, side, activation, signed, added in cases:
        geometry = Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups)
        x = torch.empty((64, channels, side, side), dtype=dtype, device="meta")
        weight = torch.empty((outputs, channels // groups, kernel, kernel), dtype=dtype, device="meta")
        own = weight.to(signal_dtype(dtype))
        size = geometry.out_size((side, side), (kernel, kernel))
        launches, _ = plan(
            x,
            weight,
            weight[:, 0, 0, 0].contiguous(),
            own,
            own if signed else None,
            torch.empty((64, outputs, *size), dtype=dtype, device="meta") if added else None,
            geometry,
            activation,
            reciprocal=False,
            zero_share=1e-6,
            tf32="tf32" in name,
            choice=default_choice(describe(x, weight, geometry, tf32="tf32" in name, signed=signed), 132),
        )
        for stage, launch in zip(("sums", "clear"), launches, strict=True):
            yield f"relevance_conv {stage} {name}", launch
