"""The elementwise half of a convolution's z+ relevance, around a library's convolutions: up to three launches.

    y = activation(c + b + residual),  Q = y / Z, or 1 / Z, or [y != 0] (c + b) / Z with a residual

from c = conv(x, W) and Z, which lie side by side in one tensor (a convolution with stacked weights [W; W+], group
by group) or in two.

1. For signed x, before the convolution: [x+, x-], group by group, for a convolution with [W+, W-].
2. Each image's largest Z, by integer maxima of bit patterns: the order of the programs does not matter.
3. y and Q, which is 0 where Z is at most a share of its image's largest: some convolution algorithms leave
   residues of either sign where a sum is exactly 0.

Each is bound by memory; every number is read once a launch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.activation import activate
from fastcam_kernels.launch import Launch, alignment, require_runnable

ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class GateConfig:
    """A program takes a block of `positions` times `channels`. `default_config` computes one from the shapes."""

    positions: int
    channels: int
    num_warps: int = 4


def default_config(channels: int) -> GateConfig:
    """Compute a configuration: 2,048 elements a program, 16 a thread, along channels as far as they go."""
    width = min(256, triton.next_power_of_2(channels))
    return GateConfig(positions=2048 // width, channels=width)


def signal_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of gates beside activations of `dtype`: bfloat16, for its range, beside 16-bit ones."""
    return torch.bfloat16 if dtype.itemsize < 4 else dtype


@triton.jit
def quotient(y, c, z, HAS_RESIDUAL: tl.constexpr, RECIPROCAL: tl.constexpr):
    """Return what the gate is where Z is not 0. y: as it is stored; c, z: float32."""
    if RECIPROCAL:
        return 1.0 / z
    if HAS_RESIDUAL:
        return tl.where(y.to(tl.float32) == 0, 0.0, c) / z
    return y.to(tl.float32) / z


@triton.jit
def keep_largest(image_largest, bits, position_block, positions, positions_per_image, BLOCK_M: tl.constexpr):
    """Raise the largest bit patterns of the images that a block of positions has a part in.

    bits (BLOCK_M, ...): of float32 numbers; order and bit patterns agree from 0 up, a NaN is above all.
    """
    row_largest = tl.max(bits, axis=1)
    row_image = (position_block * BLOCK_M + tl.arange(0, BLOCK_M)) // positions_per_image
    first_image = position_block * BLOCK_M // positions_per_image
    last_position = tl.minimum((position_block + 1) * BLOCK_M, positions) - 1
    for image in range(first_image, last_position // positions_per_image + 1):
        # As a column of two axes: what was reduced to one axis triton 3.6 cannot reduce again on sm_100, where bits
        # come from a matrix product.
        largest = tl.max(tl.where((row_image == image)[:, None], row_largest[:, None], 0))
        tl.atomic_max(image_largest + image, largest, sem="relaxed")


@triton.jit
def split_signs_kernel(
    x,
    halves,
    positions,
    channels,
    channels_per_group,
    ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Launch 1: rows of [x+, x-], for each group its own halves side by side."""
    channel_blocks = tl.cdiv(channels, BLOCK_K)
    program = tl.program_id(0)
    position = program // channel_blocks * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    channel = program % channel_blocks * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    inside = (position < positions) & tl.max_constancy(channel < channels, (1, ALIGNED))
    row = tl.multiple_of(position.to(tl.int64) * channels, (ALIGNED, ALIGNED))
    value = tl.load(x + (row + channel), mask=inside, other=0.0)
    shift = tl.multiple_of(channel // channels_per_group * channels_per_group, (1, ALIGNED))
    shift = tl.max_constancy(shift, (1, ALIGNED))
    number = halves.dtype.element_ty
    out = halves + (2 * row + shift + channel)
    tl.store(out, tl.where(value < 0, 0.0, value).to(number), mask=inside)
    tl.store(out + channels_per_group, tl.where(value > 0, 0.0, value).to(number), mask=inside)


@triton.jit
def largest_kernel(
    z,
    image_largest,
    positions,
    positions_per_image,
    outputs,
    outputs_per_group,
    row_stride,
    z_start,
    STACKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Launch 2: the bit pattern of each image's largest Z."""
    output_blocks = tl.cdiv(outputs, BLOCK_K)
    program = tl.program_id(0)
    position_block = program // output_blocks
    position = position_block * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    k = program % output_blocks * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    inside = (position < positions) & tl.max_constancy(k < outputs, (1, ALIGNED))
    source = place(position, k, z_start, row_stride, outputs_per_group, STACKED, ALIGNED)
    bits = tl.load(z + source, mask=inside, other=0.0).to(tl.float32).to(tl.int32, bitcast=True)
    keep_largest(image_largest, bits, position_block, positions, positions_per_image, BLOCK_M)


@triton.jit
def place(position, k, start, row_stride, outputs_per_group, STACKED: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the 64-bit offset of output k, `start` into a row; in a stacked tensor each group's Z follows its c."""
    # Told of both terms: with start 0 the sum folds away, and what it carries with it.
    row = tl.multiple_of(position.to(tl.int64) * row_stride, (ALIGNED, ALIGNED))
    row = tl.multiple_of(row + start, (ALIGNED, ALIGNED))
    if STACKED:
        shift = tl.multiple_of(k // outputs_per_group * outputs_per_group, (1, ALIGNED))
        return row + tl.max_constancy(shift, (1, ALIGNED)) + k
    return row + k


@triton.jit
def gate_kernel(
    c,
    z,
    bias,
    residual,
    y,
    gate,
    image_largest,
    positions,
    positions_per_image,
    outputs,
    outputs_per_group,
    row_stride,
    z_start,
    STACKED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RECIPROCAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ZERO_SHARE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Launch 3: y and the gate for a block of positions and outputs."""
    output_blocks = tl.cdiv(outputs, BLOCK_K)
    program = tl.program_id(0)
    position = program // output_blocks * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    k = program % output_blocks * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    k_inside = tl.max_constancy(k < outputs, (1, ALIGNED))
    inside = (position < positions) & k_inside
    of_c = place(position, k, 0, row_stride, outputs_per_group, STACKED, ALIGNED)
    of_z = place(position, k, z_start, row_stride, outputs_per_group, STACKED, ALIGNED)
    offset = tl.multiple_of(position.to(tl.int64) * outputs, (ALIGNED, ALIGNED)) + k

    sums = tl.load(c + of_c, mask=inside, other=0.0).to(tl.float32)
    denominators = tl.load(z + of_z, mask=inside, other=0.0).to(tl.float32)
    largest = tl.load(image_largest + position // positions_per_image, mask=position < positions, other=0)
    floor = largest.to(tl.float32, bitcast=True) * ZERO_SHARE
    if HAS_BIAS:
        sums += tl.load(bias + k, mask=k_inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        added = tl.load(residual + offset, mask=inside, other=0.0).to(tl.float32)
        a = activate(sums + added, ACTIVATION).to(y.dtype.element_ty)
    else:
        a = activate(sums, ACTIVATION).to(y.dtype.element_ty)
    tl.store(y + offset, a, mask=inside)
    q = quotient(a, sums, denominators, HAS_RESIDUAL, RECIPROCAL)
    tl.store(gate + offset, tl.where(denominators <= floor, 0.0, q).to(gate.dtype.element_ty), mask=inside)


def split_signs(x: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Return [x+, x-], (N, 2 C, H, W) in channels-last memory: the halves of each group side by side.

    Raises:
        ValueError: channels that the groups do not divide, or a device without Triton.
        TypeError: a dtype that the kernels do not take.
    """
    for name, given in (("x", x.dtype), ("dtype", dtype)):
        if given not in DTYPES:
            raise TypeError(f"{name} is {given}; the kernel takes float16, bfloat16 and float32")
    if x.ndim != 4 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"x has shape {tuple(x.shape)}; (N, C, H, W) is needed, C a multiple of groups={groups}")
    require_runnable(x.device, split_signs_kernel)
    launch, halves = split_plan(x, groups, dtype)
    launch.run()
    return halves


def split_plan(x: Tensor, groups: int, dtype: torch.dtype) -> tuple[Launch, Tensor]:
    """Return the launch that `split_signs` would make and the tensor it writes. Works on meta tensors."""
    batch, channels, height, width = x.shape
    halves = torch.empty(
        (batch, 2 * channels, height, width), dtype=dtype, device=x.device, memory_format=torch.channels_last
    )
    config = default_config(channels)
    positions = batch * height * width
    launch = Launch(
        kernel=split_signs_kernel,
        programs=triton.cdiv(positions, config.positions) * triton.cdiv(channels, config.channels),
        arguments={
            "x": x.contiguous(memory_format=torch.channels_last),
            "halves": halves,
            "positions": positions,
            "channels": channels,
            "channels_per_group": channels // groups,
        },
        constants={
            "ALIGNED": alignment(channels // groups, config.channels),
            "BLOCK_M": config.positions,
            "BLOCK_K": config.channels,
        },
        num_warps=config.num_warps,
    )
    return launch, halves


def gate_sums(
    c: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    groups: int,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
) -> tuple[Tensor, Tensor]:
    """Return y and its gate from a convolution's sums.

    Args:
        c: conv(x, W), (N, K, h, w); without z (N, 2 K, h, w), the Z of each group behind its conv(x, W).
        z: Z, of the shape of c.
        bias: (K,).
        residual: of the shape and the dtype of c; with activation "none" or "relu" and not `reciprocal`.
        groups: of the convolution.
        activation: one of ACTIVATIONS.
        reciprocal: the gate is 1 / Z.
        zero_share: Z counts as 0 up to this share of its image's largest.

    Returns:
        y in the dtype of c and the gate (bfloat16 for a 16-bit c), both in channels-last memory.

    Raises:
        ValueError: shapes that do not fit each other, an unknown activation, a device without Triton.
        TypeError: a dtype that the kernels do not take.
    """
    _check(c, z, bias, residual, groups)
    check_activation(activation, residual, reciprocal)
    require_runnable(c.device, gate_kernel)
    launches, outputs = gate_plan(c, z, bias, residual, groups, activation, reciprocal, zero_share=zero_share)
    for launch in launches:
        launch.run()
    return outputs


def gate_plan(
    c: Tensor,
    z: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    groups: int,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
) -> tuple[tuple[Launch, ...], tuple[Tensor, Tensor]]:
    """Return the launches that `gate_sums` would make and the tensors they write. Works on meta tensors."""
    batch, width_of_c, height, width = c.shape
    outputs = width_of_c // 2 if z is None else width_of_c
    positions = batch * height * width
    c = c.contiguous(memory_format=torch.channels_last)
    y = torch.empty((batch, outputs, height, width), dtype=c.dtype, device=c.device, memory_format=torch.channels_last)
    gate = torch.empty_like(y, dtype=signal_dtype(c.dtype))
    image_largest = torch.zeros(batch, dtype=torch.int32, device=c.device)
    config = default_config(outputs)
    shared_arguments: dict[str, Tensor | int] = {
        "z": c if z is None else z.contiguous(memory_format=torch.channels_last),
        "image_largest": image_largest,
        "positions": positions,
        "positions_per_image": height * width,
        "outputs": outputs,
        "outputs_per_group": outputs // groups,
        "row_stride": width_of_c,
        "z_start": outputs // groups if z is None else 0,
    }
    shared_constants: dict[str, int | float | bool | str] = {
        "STACKED": z is None,
        "ALIGNED": alignment(outputs // groups if z is None else outputs, config.channels),
        "BLOCK_M": config.positions,
        "BLOCK_K": config.channels,
    }
    programs = triton.cdiv(positions, config.positions) * triton.cdiv(outputs, config.channels)
    largest = Launch(
        kernel=largest_kernel,
        programs=programs,
        arguments=shared_arguments,
        constants=shared_constants,
        num_warps=config.num_warps,
    )
    finish = Launch(
        kernel=gate_kernel,
        programs=programs,
        arguments={
            **shared_arguments,
            "c": c,
            # A pointer that is never read stands where there is nothing to add.
            "bias": c if bias is None else bias.contiguous(),
            "residual": c if residual is None else residual.contiguous(memory_format=torch.channels_last),
            "y": y,
            "gate": gate,
        },
        constants={
            **shared_constants,
            "HAS_BIAS": bias is not None,
            "HAS_RESIDUAL": residual is not None,
            "RECIPROCAL": reciprocal,
            "ACTIVATION": activation,
            "ZERO_SHARE": zero_share,
        },
        num_warps=config.num_warps,
    )
    return (largest, finish), (y, gate)


def check_activation(activation: str, residual: Tensor | None, reciprocal: bool) -> None:
    """Refuse an activation that does not exist, and what has no gate behind a residual addition."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {activation!r} given, one of {', '.join(map(repr, ACTIVATIONS))} is valid")
    if residual is not None and (activation not in ("none", "relu") or reciprocal):
        raise ValueError(
            f"residual: given with activation {activation!r} and reciprocal={reciprocal}; a residual takes activation "
            "'none' or 'relu' and no reciprocal"
        )


def check_added(bias: Tensor | None, residual: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a bias or a residual that does not fit outputs of `shape`, in the dtype and on the device of `like`."""
    if bias is not None and tuple(bias.shape) != (shape[1],):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; ({shape[1]},) is needed")
    if bias is not None and bias.dtype not in DTYPES:
        raise TypeError(f"bias is {bias.dtype}; the kernel takes float16, bfloat16 and float32")
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; that of the output, {shape}, is needed")
    if residual is not None and residual.dtype != like.dtype:
        raise TypeError(f"residual is {residual.dtype}; {like.dtype}, as the input, is needed")
    for name, tensor in (("bias", bias), ("residual", residual)):
        if tensor is not None and tensor.device != like.device:
            raise ValueError(f"{name} is on {tensor.device} and the input on {like.device}: move one")


def _check(c: Tensor, z: Tensor | None, bias: Tensor | None, residual: Tensor | None, groups: int) -> None:
    for name, tensor in (("c", c), ("z", z)):
        if tensor is not None and tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float16, bfloat16 and float32")
    halves = 2 if z is None else 1
    if c.ndim != 4 or min(c.shape[1:]) < 1 or groups < 1 or c.shape[1] % (halves * groups):
        raise ValueError(
            f"c has shape {tuple(c.shape)}; (N, K, h, w) is needed, no axis empty but N, K a multiple of"
            f" {halves * groups}"
        )
    if z is not None and (z.shape != c.shape or z.device != c.device):
        raise ValueError(f"z has shape {tuple(z.shape)} on {z.device}; c has {tuple(c.shape)} on {c.device}")
    check_added(bias, residual, c, (c.shape[0], c.shape[1] // halves, *c.shape[2:]))


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    single, half, brain = torch.float32, torch.float16, torch.bfloat16
    cases = [
        # name, dtype of c, dtype of Z (None: stacked), outputs, groups, side, activation, bias, residual
        ("3x3 256 56x56 bfloat16 relu", brain, None, 256, 1, 56, "relu", True, False),
        ("3x3 128 28x28 bfloat16 residual", brain, None, 128, 1, 28, "relu", True, True),
        ("3x3 128 28x28 float32 relu", single, None, 128, 1, 28, "relu", True, False),
        ("3x3 128 28x28 float16 relu", half, brain, 128, 1, 28, "relu", True, False),
        ("3x3 32 groups of 4 bfloat16", brain, None, 128, 32, 56, "relu", True, False),
        ("1x1 40 28x28 bfloat16 none", brain, brain, 40, 1, 28, "none", False, False),
    ]
    for name, dtype, of_z, outputs, groups, side, activation, biased, added in cases:
        stacked = 2 * outputs if of_z is None else outputs
        c = torch.empty((64, stacked, side, side), dtype=dtype, device="meta")
        z = None if of_z is None else torch.empty_like(c, dtype=of_z)
        residual = torch.empty((64, outputs, side, side), dtype=dtype, device="meta") if added else None
        bias = torch.empty(outputs, dtype=dtype, device="meta") if biased else None
        launches, _ = gate_plan(c, z, bias, residual, groups, activation, False, zero_share=1e-6)
        stages = dict(zip(("largest", "finish"), launches, strict=True))
        # The first launch depends on dtype and stacking alone.
        for stage, launch in stages.items() if biased and not added else [("finish", stages["finish"])]:
            yield f"relevance_gate {stage} {name}", launch
    for dtype, to in ((brain, brain), (half, brain)):
        launch, _ = split_plan(torch.empty((64, 96, 56, 56), dtype=dtype, device="meta"), 1, to)
        yield f"relevance_gate split 96 56x56 {str(dtype).removeprefix('torch.')}", launch
