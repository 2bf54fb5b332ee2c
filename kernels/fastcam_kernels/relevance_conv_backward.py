"""The z+ rule's way back through a convolution on the GPU, and its reduction to channel weights.

    S = Q G_a,   G_x = conv_transpose(S, W+) + residual                              for x >= 0
                 G_x = [x > 0] conv_transpose(S, W+) + [x < 0] conv_transpose(S, W-) + residual
    alpha_c = sum over positions of x_c G_x,c                                        instead of writing G_x

S is formed in float32 and rounded once to the gate's dtype. Everything is channels-last: a signal is a matrix
(positions, K), a weight (K, taps, C / groups), so that rows of both are contiguous where they are read.

A position y of x is reached by tap i of an axis from the output (y + padding - i dilation) / stride, where that is
a whole number. Positions of one class, those with the same remainder of y by the stride, share their taps: a
program owns a block of positions of one class, and loops over the taps that reach the class alone, channels
inside. All classes are one launch. A class without taps gets zeros (and the residual).

There are two algorithms; `choose` says which serves.

"triton": one launch. Two accumulators, with W+ and W-, where x has both signs. Channels of a group are a block of
    a block-diagonal matrix: a block of channels may span several groups, and multiplies the outputs of these groups
    alone. Depthwise convolutions have nothing to multiply matrices for and add their taps up as they are.
"composition": S, then cuDNN's transposed convolution, then the choice by sign, the residual, and the reduction.

Where S is formed. In the operand's load path it costs no memory traffic, but shared memory, and is repeated for every
tap and every block of channels that reads it. A 1x1 convolution reads it once per block of channels: there the
product stands in the load path. So it does in depthwise convolutions of up to nine taps: what taps share comes from the
cache, and S would cost as much traffic as the convolution. Elsewhere a launch of its own writes S first.

The reduction is two launches: each program writes its sum over its positions of one image; then these are added in a
fixed order. Nothing is added by atomics, so that results do not depend on timing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from fastcam_kernels import tuning
from fastcam_kernels.launch import Launch, alignment, processors, require_runnable
from fastcam_kernels.tuning import Choice, Layer

# Of signals, gates and weights. float16 does not hold what gates and signals span on real weights.
SIGNAL_DTYPES = (torch.bfloat16, torch.float32)
VALUE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Positions are numbered in 32-bit integers, elements in 64.
POSITIONS_LIMIT = 2**31 - 2**16
ELEMENTS = 4096  # per program of the launch that forms S


@dataclass(frozen=True)
class BackwardConfig(Choice):
    """How a backward pass is computed and cut up. `choose` finds one for a problem.

    Attributes:
        algorithm: "triton", one fused launch, or "composition", cuDNN between fused elementwise launches.
        positions, channels: the block of G that one program computes.
        outputs: how many of K one step of a matrix product multiplies ("triton", not depthwise).
        gate_first: a launch of its own writes S before the product ("composition": always).
    """

    gate_first: bool = False


@dataclass(frozen=True)
class Problem:
    """Checked arguments of a backward pass, tensors in channels-last memory.

    signal: (T N, K, h, w). gate: (N, K, h, w). x: (N, C, H, W) or None. positive, negative: (K, C / groups, kh, kw).
    residual: (T N, C, H, W) or None. size: (H, W). reduce: to channel weights.
    """

    signal: Tensor
    gate: Tensor
    x: Tensor | None
    positive: Tensor
    negative: Tensor | None
    residual: Tensor | None
    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    reduce: bool

    @property
    def images(self) -> int:
        """T N."""
        return self.signal.shape[0]

    @property
    def channels(self) -> int:
        """C."""
        return self.positive.shape[1] * self.groups

    @property
    def outputs(self) -> int:
        """K."""
        return self.positive.shape[0]

    @property
    def kernel(self) -> tuple[int, int]:
        """(kh, kw)."""
        return self.positive.shape[2], self.positive.shape[3]

    @property
    def signed(self) -> bool:
        """Whether x may be negative."""
        return self.negative is not None

    @property
    def depthwise(self) -> bool:
        """Whether each channel is a group of its own."""
        return self.groups > 1 and self.positive.shape[1] == 1

    @property
    def pointwise(self) -> bool:
        """Whether the position of an output is that of its only input."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


def choose(problem: Problem, *, tf32: bool) -> BackwardConfig:
    """Return how a problem is solved, as the device's table has it or else as computed."""
    layer = Layer(
        dtype=problem.gate.dtype,
        tf32=tf32 and problem.gate.dtype == torch.float32,
        batch=problem.images,
        channels=problem.channels,
        outputs=problem.outputs,
        kernel=problem.kernel,
        stride=problem.stride,
        groups=problem.groups,
        size=problem.size,
        signed=problem.signed,
    )
    found = tuning.choose(
        "relevance_conv_backward", layer, problem.signal.device, lambda _: default_config(problem, tf32=tf32)
    )
    return complete(problem, found)


def complete(problem: Problem, choice: Choice) -> BackwardConfig:
    """Return a table's choice with what follows from the problem."""
    if isinstance(choice, BackwardConfig):
        return choice
    if choice.algorithm == "composition":
        return elementwise_config(problem, "composition")
    return BackwardConfig(**asdict(choice), gate_first=gates_first(problem))


def gates_first(problem: Problem) -> bool:
    """Say whether S is read so often that a launch of its own should form it: once a tap, but for 1x1."""
    return math.prod(problem.kernel) > (9 if problem.depthwise else 1)


def default_config(problem: Problem, *, tf32: bool) -> BackwardConfig:
    """Compute how a problem is solved where nothing was measured.

    A 1x1 convolution is bound by memory, where one launch is what counts; a depthwise or narrowly grouped one is,
    too, and is what cuDNN is weakest at in channels-last. Dense larger kernels are bound by
    arithmetic, where cuDNN is strongest. So is float32 without tensor cores.
    """
    exact = problem.gate.dtype == torch.float32 and not tf32
    dense = problem.groups == 1
    composed = not problem.depthwise and (exact or (dense and problem.kernel != (1, 1)))
    return elementwise_config(problem, "composition") if composed else triton_config(problem, exact=exact)


def elementwise_config(problem: Problem, algorithm: Literal["triton", "composition"]) -> BackwardConfig:
    """Compute blocks for kernels that multiply no matrices: two 128-bit loads a thread of 16-bit signals, or half."""
    channels = min(64, max(16, triton.next_power_of_2(problem.channels)))
    narrow = problem.gate.dtype == torch.bfloat16 and not problem.signed
    return BackwardConfig(
        algorithm=algorithm,
        positions=(2048 if narrow else 1024) // channels,
        channels=channels,
        outputs=1,
        gate_first=algorithm == "composition" or gates_first(problem),
        num_warps=4,
        num_stages=3,
    )


def triton_config(problem: Problem, *, exact: bool) -> BackwardConfig:
    """Compute the block sizes of the Triton algorithm; `exact`: float32 without tensor cores."""
    wide = problem.gate.dtype == torch.float32
    if problem.depthwise:
        return elementwise_config(problem, "triton")
    wide = problem.gate.dtype == torch.float32
    per_group = problem.channels // problem.groups
    # Blocks of several groups multiply zeros between them: the narrowest that tensor cores do well.
    narrowest = per_group if per_group >= 32 or problem.groups == 1 else 32
    channels = _channel_block(narrowest, 32 if exact else 64 if wide or problem.signed else 128)
    # Tensor cores of sm_90 multiply 64 rows at a time.
    while channels > 32 and _programs(problem, 64, channels) < processors(problem.signal.device):
        channels //= 2
    # 64 x 128 and 128 x 32 fill the registers of four warps, and so do less where S is formed on the way, two
    # products are formed, or numbers are wide.
    filled = wide or channels == 128 or (channels == 64 and (problem.pointwise or problem.signed))
    return BackwardConfig(
        algorithm="triton",
        positions=64 if filled else 128,
        channels=channels,
        outputs=min(
            16 if exact else 32 if wide else 64, max(16, triton.next_power_of_2(problem.outputs // problem.groups))
        ),
        gate_first=gates_first(problem),
        num_warps=8 if channels == 64 and not filled else 4,
        # A third stage is worth more than it costs in registers only where products are not what takes the time; of
        # two weights it takes more shared memory than gfx942 has.
        num_stages=2 if exact or problem.signed else 3,
    )


def _channel_block(channels: int, most: int) -> int:
    """Return the block that wastes least: a block costs its width, and 32 for reading the signal once more."""
    blocks = [block for block in (128, 64, 32, 16) if block <= most]
    best: int = min(blocks, key=lambda block: (triton.cdiv(channels, block) * (block + 32), -block))
    return best


def _programs(problem: Problem, positions: int, channels: int) -> int:
    """Return how many programs cover G, or its sums, in blocks of that size."""
    programs: int = _position_blocks(problem, positions) * triton.cdiv(problem.channels, channels)
    return programs


def _position_blocks(problem: Problem, positions: int) -> int:
    """Return how many blocks of positions there are: of all images together, or per image where each is reduced."""
    rows, columns = (triton.cdiv(side, step) for side, step in zip(problem.size, problem.stride, strict=True))
    classes = math.prod(problem.stride)
    per_class: int = triton.cdiv(rows * columns if problem.reduce else problem.images * rows * columns, positions)
    return classes * per_class * (problem.images if problem.reduce else 1)


@triton.jit
def gate_kernel(signal, gate, result, units, blocks, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    """S = Q G: signal (T, units * UNIT) times gate (units * UNIT), elementwise."""
    program = tl.program_id(0)
    target = (program // blocks).to(tl.int64)
    element = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < units * UNIT
    offset = target * units * UNIT + element
    g = tl.load(signal + offset, mask=inside, other=0.0).to(tl.float32)
    q = tl.load(gate + element, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + offset, (g * q).to(result.dtype.element_ty), mask=inside)


@triton.jit
def locate(
    images,
    height,
    width,
    channel_blocks,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    REDUCE: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Return what this program owns: a block of channels; image, y and x of its positions, whether they exist; a part.

    The part is where its sums belong: (image, class, block of positions). Neighbours in the grid share their positions,
    then the outputs that reach them (the classes): their signal stays in the cache.
    """
    program = tl.program_id(0)
    channel_block = program % channel_blocks
    residue = program // channel_blocks % (STRIDE_Y * STRIDE_X)
    block = program // channel_blocks // (STRIDE_Y * STRIDE_X)
    rows = tl.cdiv(height, STRIDE_Y)
    columns = tl.cdiv(width, STRIDE_X)
    positions = rows * columns
    if REDUCE:
        blocks = tl.cdiv(positions, BLOCK_P)
        position = block % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        image = block // blocks + position * 0
        inside = position < positions
    else:
        position = block * BLOCK_P + tl.arange(0, BLOCK_P)
        image = position // positions
        position = position % positions
        inside = image < images
    y = position // columns * STRIDE_Y + residue // STRIDE_X
    x = position % columns * STRIDE_X + residue % STRIDE_X
    part = block * (STRIDE_Y * STRIDE_X) + residue
    return channel_block, image, y, x, inside & (y < height) & (x < width), part


@triton.jit
def first_tap(residue, SIZE: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr):
    """Return the first tap i with i DILATION = residue modulo STRIDE; SIZE where there is none."""
    first = residue * 0 + SIZE
    for back in tl.static_range(STRIDE):
        first = tl.where(residue == (STRIDE - 1 - back) * DILATION % STRIDE, STRIDE - 1 - back, first)
    return first


@triton.jit
def finish(
    above,
    below,
    x,
    residual,
    result,
    row,
    x_row,
    part,
    inside,
    channel,
    channels,
    SIGNED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    REDUCE: tl.constexpr,
):
    """Choose by the sign of x, add the residual, and write G or its sum with x over the positions."""
    column = channel[None, :]
    mask = inside[:, None] & (column < channels)
    offset = row.to(tl.int64)[:, None] * channels + column
    g = above
    if SIGNED or REDUCE:
        x_offset = x_row.to(tl.int64)[:, None] * channels + column
        value = tl.load(x + x_offset, mask=mask, other=0.0).to(tl.float32)
    if SIGNED:
        g = tl.where(value > 0, above, tl.where(value < 0, below, 0.0))
    if RESIDUAL:
        g += tl.load(residual + offset, mask=mask, other=0.0).to(tl.float32)
    if REDUCE:
        total = tl.sum(g * value, axis=0)
        tl.store(result + part.to(tl.int64) * channels + channel, total, mask=channel < channels)
    else:
        tl.store(result + offset, g.to(result.dtype.element_ty), mask=mask)


@triton.jit
def load_signal(signal, gate, offset, gate_offset, mask, GATED: tl.constexpr, OPERAND: tl.constexpr):
    """Load a block of S, or form it from G and Q."""
    s = tl.load(signal + offset, mask=mask, other=0.0)
    if GATED:
        q = tl.load(gate + gate_offset, mask=mask, other=0.0)
        s = (s.to(tl.float32) * q.to(tl.float32)).to(OPERAND)
    return s


@triton.jit
def add_products(
    above,
    below,
    signal,
    gate,
    positive,
    negative,
    row,
    gate_row,
    inside,
    tap,
    channel,
    groups,
    group_inputs,
    group_outputs,
    first_output,
    last_output,
    SIGNED: tl.constexpr,
    GATED: tl.constexpr,
    GROUPED: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TF32: tl.constexpr,
):
    """Add to the accumulators what one tap brings: S (positions, outputs) times W (outputs, channels)."""
    OPERAND: tl.constexpr = positive.dtype.element_ty
    rows = row.to(tl.int64)[:, None] * (groups * group_outputs)
    gate_rows = gate_row.to(tl.int64)[:, None] * (groups * group_outputs)
    column = channel[None, :]
    for start in range(first_output, last_output, BLOCK_K):
        output = start + tl.arange(0, BLOCK_K)
        line = output[:, None]
        s_mask = inside[:, None] & (output < groups * group_outputs)[None, :]
        s = load_signal(signal, gate, rows + output[None, :], gate_rows + output[None, :], s_mask, GATED, OPERAND)
        w_mask = (line < groups * group_outputs) & (column < groups * group_inputs)
        if GROUPED:
            w_mask = w_mask & (line // group_outputs == column // group_inputs)
            column_inside = column % group_inputs
        else:
            column_inside = column
        w_offset = (line.to(tl.int64) * TAPS + tap) * group_inputs + column_inside
        w = tl.load(positive + w_offset, mask=w_mask, other=0.0)
        above = tl.dot(s, w, above, input_precision="tf32" if TF32 else "ieee")
        if SIGNED:
            w = tl.load(negative + w_offset, mask=w_mask, other=0.0)
            below = tl.dot(s, w, below, input_precision="tf32" if TF32 else "ieee")
    return above, below


@triton.jit
def product_kernel(
    signal,
    gate,
    x,
    positive,
    negative,
    residual,
    result,
    images,
    shared_images,
    height,
    width,
    signal_height,
    signal_width,
    groups,
    input_units,
    output_units,
    channel_blocks,
    INPUT_UNIT: tl.constexpr,
    OUTPUT_UNIT: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    STEP_Y: tl.constexpr,
    STEP_X: tl.constexpr,
    SIGNED: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    REDUCE: tl.constexpr,
    GROUPED: tl.constexpr,
    POINTWISE: tl.constexpr,
    TF32: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """G for a block of positions of one class and a block of channels, by matrix products."""
    # Multiples of a constant, so that the compiler knows how rows are aligned where 16 does not divide them.
    group_inputs = input_units * INPUT_UNIT
    group_outputs = output_units * OUTPUT_UNIT
    channels = groups * group_inputs
    channel_block, image, y, column, inside, part = locate(
        images, height, width, channel_blocks, STRIDE_Y, STRIDE_X, REDUCE, BLOCK_P
    )
    channel = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    row = (image * height + y) * width + column
    x_row = (image % shared_images * height + y) * width + column
    if GROUPED:
        last_channel = tl.minimum((channel_block + 1) * BLOCK_C, channels) - 1
        first_output = channel_block * BLOCK_C // group_inputs * group_outputs
        last_output = (last_channel // group_inputs + 1) * group_outputs
    else:
        first_output = 0
        last_output = group_outputs

    above = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.float32)
    below = above
    if POINTWISE:
        above, below = add_products(
            above,
            below,
            signal,
            gate,
            positive,
            negative,
            row,
            x_row,
            inside,
            0,
            channel,
            groups,
            group_inputs,
            group_outputs,
            first_output,
            last_output,
            SIGNED,
            GATED,
            GROUPED,
            1,
            BLOCK_K,
            TF32,
        )
    else:
        residue = tl.program_id(0) // channel_blocks % (STRIDE_Y * STRIDE_X)
        remainder_y = (residue // STRIDE_X + PADDING_Y) % STRIDE_Y
        remainder_x = (residue % STRIDE_X + PADDING_X) % STRIDE_X
        for i in range(first_tap(remainder_y, KERNEL_Y, STRIDE_Y, DILATION_Y), KERNEL_Y, STEP_Y):
            # A whole number; of either sign, so the remainder is taken off first: division truncates.
            s_y = (y + PADDING_Y - remainder_y) // STRIDE_Y - (i * DILATION_Y - remainder_y) // STRIDE_Y
            for j in range(first_tap(remainder_x, KERNEL_X, STRIDE_X, DILATION_X), KERNEL_X, STEP_X):
                s_x = (column + PADDING_X - remainder_x) // STRIDE_X - (j * DILATION_X - remainder_x) // STRIDE_X
                reached = inside & (s_y >= 0) & (s_y < signal_height) & (s_x >= 0) & (s_x < signal_width)
                above, below = add_products(
                    above,
                    below,
                    signal,
                    gate,
                    positive,
                    negative,
                    (image * signal_height + s_y) * signal_width + s_x,
                    (image % shared_images * signal_height + s_y) * signal_width + s_x,
                    reached,
                    i * KERNEL_X + j,
                    channel,
                    groups,
                    group_inputs,
                    group_outputs,
                    first_output,
                    last_output,
                    SIGNED,
                    GATED,
                    GROUPED,
                    KERNEL_Y * KERNEL_X,
                    BLOCK_K,
                    TF32,
                )
    finish(above, below, x, residual, result, row, x_row, part, inside, channel, channels, SIGNED, RESIDUAL, REDUCE)


@triton.jit
def depthwise_kernel(
    signal,
    gate,
    x,
    positive,
    negative,
    residual,
    result,
    images,
    shared_images,
    height,
    width,
    signal_height,
    signal_width,
    channel_units,
    channel_blocks,
    CHANNEL_UNIT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    KERNEL_Y: tl.constexpr,
    KERNEL_X: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    STEP_Y: tl.constexpr,
    STEP_X: tl.constexpr,
    SIGNED: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    REDUCE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """G for a block of positions of one class and a block of channels, each of which has MULTIPLIER outputs."""
    OPERAND: tl.constexpr = positive.dtype.element_ty
    channels = channel_units * CHANNEL_UNIT
    channel_block, image, y, column, inside, part = locate(
        images, height, width, channel_blocks, STRIDE_Y, STRIDE_X, REDUCE, BLOCK_P
    )
    channel = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    row = (image * height + y) * width + column
    x_row = (image % shared_images * height + y) * width + column
    channel_inside = (channel < channels)[None, :]
    residue = tl.program_id(0) // channel_blocks % (STRIDE_Y * STRIDE_X)
    remainder_y = (residue // STRIDE_X + PADDING_Y) % STRIDE_Y
    remainder_x = (residue % STRIDE_X + PADDING_X) % STRIDE_X

    above = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.float32)
    below = above
    for i in range(first_tap(remainder_y, KERNEL_Y, STRIDE_Y, DILATION_Y), KERNEL_Y, STEP_Y):
        s_y = (y + PADDING_Y - remainder_y) // STRIDE_Y - (i * DILATION_Y - remainder_y) // STRIDE_Y
        for j in range(first_tap(remainder_x, KERNEL_X, STRIDE_X, DILATION_X), KERNEL_X, STEP_X):
            s_x = (column + PADDING_X - remainder_x) // STRIDE_X - (j * DILATION_X - remainder_x) // STRIDE_X
            reached = inside & (s_y >= 0) & (s_y < signal_height) & (s_x >= 0) & (s_x < signal_width)
            s_row = ((image * signal_height + s_y) * signal_width + s_x).to(tl.int64)[:, None]
            gate_row = ((image % shared_images * signal_height + s_y) * signal_width + s_x).to(tl.int64)[:, None]
            for copy in range(MULTIPLIER):
                output = channel[None, :] * MULTIPLIER + copy
                outputs = channels * MULTIPLIER
                mask = reached[:, None] & channel_inside
                s = load_signal(
                    signal, gate, s_row * outputs + output, gate_row * outputs + output, mask, GATED, OPERAND
                ).to(tl.float32)
                w_offset = output.to(tl.int64) * (KERNEL_Y * KERNEL_X) + (i * KERNEL_X + j)
                above += s * tl.load(positive + w_offset, mask=channel_inside, other=0.0).to(tl.float32)
                if SIGNED:
                    below += s * tl.load(negative + w_offset, mask=channel_inside, other=0.0).to(tl.float32)
    finish(above, below, x, residual, result, row, x_row, part, inside, channel, channels, SIGNED, RESIDUAL, REDUCE)


@triton.jit
def finish_kernel(
    above,
    below,
    x,
    residual,
    result,
    images,
    shared_images,
    positions,
    channel_units,
    channel_blocks,
    CHANNEL_UNIT: tl.constexpr,
    HALVES: tl.constexpr,
    SIGNED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    REDUCE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """`finish` of products that lie in memory, in rows of HALVES times the channels."""
    channels = channel_units * CHANNEL_UNIT
    channel_block, image, _, position, inside, part = locate(
        images, 1, positions, channel_blocks, 1, 1, REDUCE, BLOCK_P
    )
    channel = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    row = image * positions + position
    x_row = image % shared_images * positions + position
    offset = row.to(tl.int64)[:, None] * (channels * HALVES) + channel[None, :]
    mask = inside[:, None] & (channel < channels)[None, :]
    first = tl.load(above + offset, mask=mask, other=0.0).to(tl.float32)
    second = first
    if SIGNED:
        second = tl.load(below + offset, mask=mask, other=0.0).to(tl.float32)
    finish(first, second, x, residual, result, row, x_row, part, inside, channel, channels, SIGNED, RESIDUAL, REDUCE)


@triton.jit
def add_parts_kernel(
    parts,
    result,
    parts_per_image,
    channel_units,
    channel_blocks,
    CHANNEL_UNIT: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Channel weights: the sum of one image's parts, in their order."""
    program = tl.program_id(0)
    channels = channel_units * CHANNEL_UNIT
    image = (program // channel_blocks).to(tl.int64)
    channel = (program % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.float32)
    for start in range(0, parts_per_image, BLOCK_P):
        part = start + tl.arange(0, BLOCK_P)
        offset = (image * parts_per_image + part)[:, None] * channels + channel[None, :]
        total += tl.load(
            parts + offset, mask=(part < parts_per_image)[:, None] & (channel < channels)[None, :], other=0.0
        )
    tl.store(result + image * channels + channel, tl.sum(total, axis=0), mask=channel < channels)


def relevance_conv_backward(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    allow_tf32: bool = False,
    config: Choice | None = None,
) -> Tensor:
    """Return G_x (T N, C, H, W), channels-last, in the gate's dtype.

    Args:
        signal: G_a (T N, K, h, w), the targets outermost; bfloat16 or float32. Tensors that are not channels-last
            are copied first.
        gate: Q (N, K, h, w), bfloat16 or float32.
        x: (N, C, H, W), needed with `negative` only; bfloat16, float16 or float32.
        positive: W+ (K, C / groups, kh, kw) in the gate's dtype.
        negative: W-, where x may be negative.
        residual: (T N, C, H, W), added to G_x; bfloat16, float16 or float32.
        size: (H, W).
        stride, padding, dilation, groups: of the convolution.
        allow_tf32: multiply float32 numbers as TF32.
        config: the algorithm and its block sizes; None asks the device's table.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton.
        TypeError: a dtype that is not among these.
    """
    problem = _problem(
        signal, gate, x, positive, negative, residual, size, stride, padding, dilation, groups, reduce=False
    )
    return _solve(problem, config, tf32=allow_tf32)


def relevance_conv_weights(
    signal: Tensor,
    gate: Tensor,
    x: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    allow_tf32: bool = False,
    config: Choice | None = None,
) -> Tensor:
    """Return alpha (T N, C), float32: sums over positions of x G_x. Arguments as of `relevance_conv_backward`."""
    size = (x.shape[-2], x.shape[-1])
    problem = _problem(
        signal, gate, x, positive, negative, residual, size, stride, padding, dilation, groups, reduce=True
    )
    return _solve(problem, config, tf32=allow_tf32)


def _solve(problem: Problem, given: Choice | None, *, tf32: bool) -> Tensor:
    require_runnable(problem.signal.device, product_kernel)
    config = choose(problem, tf32=tf32) if given is None else complete(problem, given)
    if config.algorithm == "triton":
        launches, result = plan(problem, config, tf32=tf32)
    else:
        gate_launch, s = plan_gate(problem)
        gate_launch.run()
        above, below = transposed_products(problem, s, tf32=tf32)
        launches, result = plan_finish(problem, above, below, config)
    for launch in launches:
        launch.run()
    return result


def plan(problem: Problem, config: BackwardConfig, *, tf32: bool) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches of the Triton algorithm and the tensor they write. Works on meta tensors."""
    launches: tuple[Launch, ...] = ()
    signal = problem.signal
    if config.gate_first:
        launch, signal = plan_gate(problem)
        launches = (launch,)
    (height, width), (signal_height, signal_width) = problem.size, problem.signal.shape[2:]
    flat = problem.pointwise
    target, parts_per_image = _target(problem, _position_blocks(problem, config.positions))
    arguments: dict[str, Tensor | int] = {
        "signal": signal,
        "gate": problem.gate,
        "x": _or(problem.x, signal),
        "positive": problem.positive,
        "negative": _or(problem.negative, problem.positive),
        "residual": _or(problem.residual, signal),
        "result": target,
        "images": problem.images,
        "shared_images": problem.gate.shape[0],
        # Without taps the positions of an image are a row.
        "height": 1 if flat else height,
        "width": height * width if flat else width,
        "signal_height": 1 if flat else signal_height,
        "signal_width": signal_height * signal_width if flat else signal_width,
        "channel_blocks": triton.cdiv(problem.channels, config.channels),
    }
    constants: dict[str, int | float | bool] = {
        **_axes("KERNEL", problem.kernel),
        **_axes("STRIDE", problem.stride),
        **_axes("PADDING", problem.padding),
        **_axes("DILATION", problem.dilation),
        # Taps of one class are this far apart.
        **_axes("STEP", [s // math.gcd(s, d) for s, d in zip(problem.stride, problem.dilation, strict=True)]),
        "SIGNED": problem.signed,
        "GATED": not config.gate_first,
        "RESIDUAL": problem.residual is not None,
        "REDUCE": problem.reduce,
        "BLOCK_P": config.positions,
        "BLOCK_C": config.channels,
    }
    if problem.depthwise:
        arguments |= {"channel_units": _units(problem.channels)[0]}
        constants |= {"CHANNEL_UNIT": _units(problem.channels)[1], "MULTIPLIER": problem.outputs // problem.channels}
    else:
        inputs, outputs = problem.channels // problem.groups, problem.outputs // problem.groups
        arguments |= {"groups": problem.groups, "input_units": _units(inputs)[0], "output_units": _units(outputs)[0]}
        constants |= {
            "INPUT_UNIT": _units(inputs)[1],
            "OUTPUT_UNIT": _units(outputs)[1],
            "GROUPED": problem.groups > 1,
            "POINTWISE": flat,
            "TF32": tf32,
            "BLOCK_K": config.outputs,
        }
    product = Launch(
        kernel=depthwise_kernel if problem.depthwise else product_kernel,
        programs=_programs(problem, config.positions, config.channels),
        arguments=arguments,
        constants=constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    launches = (*launches, product)
    if not problem.reduce:
        return launches, target
    addition, result = _plan_addition(problem, target, parts_per_image)
    return (*launches, addition), result


def plan_gate(problem: Problem) -> tuple[Launch, Tensor]:
    """Return the launch that forms S (T N, K, h, w) and the tensor it writes."""
    s = torch.empty_like(problem.signal, dtype=problem.positive.dtype, memory_format=torch.channels_last)
    elements = problem.gate.numel()
    units, unit = _units(elements)
    blocks = triton.cdiv(elements, ELEMENTS)
    launch = Launch(
        kernel=gate_kernel,
        programs=problem.images // max(problem.gate.shape[0], 1) * blocks,
        arguments={"signal": problem.signal, "gate": problem.gate, "result": s, "units": units, "blocks": blocks},
        constants={"UNIT": unit, "BLOCK": ELEMENTS},
        num_warps=8,
    )
    return launch, s


def transposed_products(problem: Problem, s: Tensor, *, tf32: bool) -> tuple[Tensor, Tensor | None]:
    """Return conv_transpose(S, W+) and, for signed x, conv_transpose(S, W-), as the library computes them.

    Without groups the two are one product with both weights side by side, halves of the channels of one tensor.
    """
    if problem.negative is None:
        return _transposed_product(problem, s, problem.positive, tf32), None
    if problem.groups > 1:
        above, below = (_transposed_product(problem, s, w, tf32) for w in (problem.positive, problem.negative))
        return above, below
    both = _transposed_product(problem, s, torch.cat([problem.positive, problem.negative], dim=1), tf32)
    return both, both[:, problem.channels :]


def _transposed_product(problem: Problem, s: Tensor, weight: Tensor, tf32: bool) -> Tensor:
    extra = [
        full - ((small - 1) * step - 2 * pad + d * (k - 1) + 1)
        for full, small, step, pad, d, k in zip(
            problem.size,
            s.shape[2:],
            problem.stride,
            problem.padding,
            problem.dilation,
            problem.kernel,
            strict=True,
        )
    ]
    if s.device.type == "cuda" and torch.backends.cudnn.is_available() and s.numel() > 0:
        # The operator behind conv_transpose2d, since it alone takes `deterministic` as an argument.
        product = torch.ops.aten.cudnn_convolution_transpose(
            s,
            weight,
            problem.padding,
            extra,
            problem.stride,
            problem.dilation,
            problem.groups,
            torch.backends.cudnn.benchmark,
            True,
            tf32,
        )
    else:
        product = F.conv_transpose2d(
            s, weight, None, problem.stride, problem.padding, extra, problem.groups, problem.dilation
        )
    return _channels_last(product)


def plan_finish(
    problem: Problem, above: Tensor, below: Tensor | None, config: BackwardConfig
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches behind the transposed products, and what they write; none where the product is G itself."""
    if below is None and problem.residual is None and not problem.reduce:
        return (), above
    positions = math.prod(problem.size)
    blocks = triton.cdiv(positions, config.positions)
    total = problem.images * blocks if problem.reduce else triton.cdiv(problem.images * positions, config.positions)
    # Without signs, G has the product's shape and is written in its place.
    target, parts_per_image = (above, 0) if below is None and not problem.reduce else _target(problem, total)
    units, unit = _units(problem.channels)
    channel_blocks = triton.cdiv(problem.channels, config.channels)
    finishing = Launch(
        kernel=finish_kernel,
        programs=total * channel_blocks,
        arguments={
            "above": above,
            "below": _or(below, above),
            "x": _or(problem.x, above),
            "residual": _or(problem.residual, above),
            "result": target,
            "images": problem.images,
            "shared_images": problem.gate.shape[0],
            "positions": positions,
            "channel_units": units,
            "channel_blocks": channel_blocks,
        },
        constants={
            "CHANNEL_UNIT": unit,
            "HALVES": above.shape[1] // problem.channels,
            "SIGNED": problem.signed,
            "RESIDUAL": problem.residual is not None,
            "REDUCE": problem.reduce,
            "BLOCK_P": config.positions,
            "BLOCK_C": config.channels,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if not problem.reduce:
        return (finishing,), target
    addition, result = _plan_addition(problem, target, parts_per_image)
    return (finishing, addition), result


def _target(problem: Problem, position_blocks: int) -> tuple[Tensor, int]:
    """Return the tensor that the last product writes, G or parts of its sums, and the parts per image."""
    if problem.reduce:
        parts = position_blocks // max(problem.images, 1)
        shape = (problem.images, parts, problem.channels)
        return torch.empty(shape, dtype=torch.float32, device=problem.signal.device), parts
    g = torch.empty(
        (problem.images, problem.channels, *problem.size),
        dtype=problem.gate.dtype,
        device=problem.signal.device,
        memory_format=torch.channels_last,
    )
    return g, 0


def _plan_addition(problem: Problem, parts: Tensor, parts_per_image: int) -> tuple[Launch, Tensor]:
    result = parts.new_empty((problem.images, problem.channels))
    units, unit = _units(problem.channels)
    block = min(64, max(16, triton.next_power_of_2(problem.channels)))
    launch = Launch(
        kernel=add_parts_kernel,
        programs=problem.images * triton.cdiv(problem.channels, block),
        arguments={
            "parts": parts,
            "result": result,
            "parts_per_image": parts_per_image,
            "channel_units": units,
            "channel_blocks": triton.cdiv(problem.channels, block),
        },
        constants={"CHANNEL_UNIT": unit, "BLOCK_P": 16, "BLOCK_C": block},
        num_warps=2,
    )
    return launch, result


def _axes(name: str, values: tuple[int, ...] | list[int]) -> Mapping[str, int]:
    return {f"{name}_{axis}": value for axis, value in zip("YX", values, strict=True)}


def _units(number: int) -> tuple[int, int]:
    """Return (n, unit) with n unit = number; the unit is the largest power of two up to 16 for that."""
    unit = alignment(number)
    return number // unit, unit


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Return a tensor to stand where a kernel, as specialised, reads none."""
    return other if tensor is None else tensor


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _problem(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    residual: Tensor | None,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    *,
    reduce: bool,
) -> Problem:
    """Return the arguments as a problem, channels-last; raise on what the kernels do not take."""
    _check_tensors(signal, gate, x, positive, negative, residual)
    _check_geometry(gate, positive, size, stride, padding, dilation, groups)
    images, channels = signal.shape[0], positive.shape[1] * groups
    _check_shape("gate", gate, (gate.shape[0], positive.shape[0], *gate.shape[2:]))
    shared = gate.shape[0]
    if signal.shape[1:] != gate.shape[1:] or images % max(shared, 1) != 0 or (shared == 0) != (images == 0):
        raise ValueError(
            f"signal has shape {tuple(signal.shape)}; with gate {tuple(gate.shape)} it must be (T * {shared},"
            f" {', '.join(map(str, gate.shape[1:]))})"
        )
    if x is not None:
        _check_shape("x", x, (shared, channels, *size))
    elif negative is not None:
        raise ValueError("x is None; where negative is given, the signs of x (N, C, H, W) are needed")
    if negative is not None:
        _check_shape("negative", negative, tuple(positive.shape))
    if residual is not None:
        _check_shape("residual", residual, (images, channels, *size))
    for name, sides in (("signal", signal.shape[2:]), ("size", size)):
        if images * math.prod(sides) > POSITIONS_LIMIT:
            raise ValueError(
                f"{name} has {images} images of {tuple(sides)}; the kernel takes up to {POSITIONS_LIMIT} positions"
            )
    return Problem(
        signal=_channels_last(signal),
        gate=_channels_last(gate),
        x=None if x is None else _channels_last(x),
        positive=_channels_last(positive),
        negative=None if negative is None else _channels_last(negative),
        residual=None if residual is None else _channels_last(residual),
        size=size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        reduce=reduce,
    )


def _check_tensors(
    signal: Tensor, gate: Tensor, x: Tensor | None, positive: Tensor, negative: Tensor | None, residual: Tensor | None
) -> None:
    same = (gate.dtype,)
    tensors = {
        "gate": (gate, SIGNAL_DTYPES),
        "signal": (signal, SIGNAL_DTYPES),
        "x": (x, VALUE_DTYPES),
        "positive": (positive, same),
        "negative": (negative, same),
        "residual": (residual, VALUE_DTYPES),
    }
    for name, (tensor, dtypes) in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in dtypes:
            valid = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes {valid} there")
        if tensor.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; four dimensions are needed")
        if tensor.device != signal.device:
            raise ValueError(f"{name} is on {tensor.device} and signal on {signal.device}: move one")


def _check_geometry(
    gate: Tensor,
    positive: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    if min(positive.shape) < 1 or groups < 1 or positive.shape[0] % groups != 0:
        raise ValueError(
            f"positive has shape {tuple(positive.shape)} and groups is {groups}; (K, C / groups, kh, kw) with K"
            " divisible by groups and no empty axis is needed"
        )
    for name, pair, least in (
        ("size", size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"{name} is {tuple(pair)}; two numbers of at least {least} are needed")
    fitting = tuple(
        (full + 2 * pad - d * (k - 1) - 1) // step + 1
        for full, pad, d, k, step in zip(size, padding, dilation, positive.shape[2:], stride, strict=True)
    )
    if tuple(gate.shape[2:]) != fitting:
        raise ValueError(
            f"gate has shape {tuple(gate.shape)}; a convolution of an input of size {tuple(size)} with this kernel,"
            f" stride, padding and dilation has outputs of size {fitting}"
        )


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {expected} is needed")


_KINDS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class _Layer:
    """A real layer: C inputs of one side, K outputs, a square kernel with the padding that keeps sizes."""

    channels: int
    outputs: int
    side: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        step = f"/{self.stride}" if self.stride > 1 else ""
        split = "" if self.groups == 1 else " dw" if self.groups == self.channels else f" g{self.groups}"
        return f"{self.kernel}x{self.kernel}{step} {self.channels}->{self.outputs}{split} {self.side}"

    def problem(self, batch: int, dtype: torch.dtype, *, signed: bool, residual: bool, reduce: bool) -> Problem:
        """Return the layer's way back as a problem on meta tensors."""
        padding = self.kernel // 2
        side = (self.side + 2 * padding - self.kernel) // self.stride + 1

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)

        weight = empty(self.outputs, self.channels // self.groups, self.kernel, self.kernel)
        x = empty(batch, self.channels, self.side, self.side)
        return _problem(
            empty(batch, self.outputs, side, side),
            empty(batch, self.outputs, side, side),
            x if signed or reduce else None,
            weight,
            weight if signed else None,
            empty(batch, *x.shape[1:]) if residual else None,
            (self.side, self.side),
            (self.stride, self.stride),
            (padding, padding),
            (1, 1),
            self.groups,
            reduce=reduce,
        )


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    half, single = torch.bfloat16, torch.float32
    cases = [
        # layer, dtype, tf32, signed, residual, reduce
        (_Layer(256, 64, 56), half, False, False, True, False),  # ResNet-50
        (_Layer(64, 256, 56), half, False, False, False, False),
        (_Layer(1024, 2048, 14, stride=2), half, False, False, True, False),
        (_Layer(2048, 512, 7), half, False, False, True, True),
        (_Layer(128, 128, 28, kernel=3), half, False, False, False, False),
        (_Layer(256, 256, 28, kernel=3, stride=2), half, False, False, False, False),
        (_Layer(256, 256, 56, kernel=3), half, False, False, False, False),  # VGG
        (_Layer(512, 512, 14, kernel=3), half, False, False, False, True),
        (_Layer(416, 128, 28), half, False, True, False, False),  # DenseNet-121
        (_Layer(24, 144, 56), half, False, True, True, False),  # EfficientNet-Lite0
        (_Layer(192, 1152, 7), half, False, True, False, True),
        (_Layer(32, 32, 112, kernel=3, groups=32), half, False, False, False, False),
        (_Layer(96, 96, 112, kernel=3, stride=2, groups=96), half, False, False, False, False),
        (_Layer(240, 240, 28, kernel=5, groups=240), half, False, False, False, False),
        (_Layer(128, 128, 56, kernel=3, groups=32), half, False, False, False, False),  # ResNeXt-50 32x4d
        (_Layer(1024, 1024, 7, kernel=3, groups=32), half, False, False, False, False),
        (_Layer(256, 64, 56), single, False, False, True, False),
        (_Layer(256, 64, 56), single, True, False, True, False),
        (_Layer(128, 128, 28, kernel=3), single, False, False, False, False),
        (_Layer(96, 96, 112, kernel=3, stride=2, groups=96), single, False, False, False, False),
    ]
    for layer, dtype, tf32, signed, residual, reduce in cases:
        problem = layer.problem(32, dtype, signed=signed, residual=residual, reduce=reduce)
        config = triton_config(problem, exact=dtype == single and not tf32)
        launches, _ = plan(problem, config, tf32=tf32)
        kind = "tf32" if tf32 else _KINDS[dtype]
        yield f"relevance_conv_backward {layer.name} {kind}{_flags(problem)}", launches[-2 if reduce else -1]
    yield from _shipped_elementwise()


def _flags(problem: Problem) -> str:
    flags = {"signed": problem.signed, "residual": problem.residual is not None, "weights": problem.reduce}
    return "".join(f" {word}" for word, given in flags.items() if given)


def _shipped_elementwise() -> Iterator[tuple[str, Launch]]:
    """Yield the launches around cuDNN's product, and the one that ends a reduction."""
    cases = [
        # dtype, signed, residual, reduce
        (torch.bfloat16, False, True, False),
        (torch.bfloat16, True, True, False),
        (torch.bfloat16, True, True, True),
        (torch.float32, True, True, True),
    ]
    layer = _Layer(128, 128, 28, kernel=3)
    for dtype, signed, residual, reduce in cases:
        problem = layer.problem(32, dtype, signed=signed, residual=residual, reduce=reduce)
        product = torch.empty(
            (32, 256 if signed else 128, 28, 28), dtype=dtype, device="meta", memory_format=torch.channels_last
        )
        below = product[:, 128:] if signed else None
        launches, _ = plan_finish(problem, product, below, elementwise_config(problem, "composition"))
        yield f"relevance_conv_backward finish {_KINDS[dtype]}{_flags(problem)}", launches[0]
        if reduce:
            yield f"relevance_conv_backward gate {_KINDS[dtype]}", plan_gate(problem)[0]
    yield "relevance_conv_backward sum of parts", launches[1]
