"""Class activation maps on the GPU: two launches.

1. sums[n, t, p] = sum_k weights[n, t, k] * activations[n, k, p] at layer resolution. Each program owns a
   few positions and walks all channels, so that no sum is split and the result does not depend on timing.
   It is bound by reading the activations once; several targets share each load.
2. map = min-max(relu(upsample(sums))). A bilinear function is linear along each axis between two source
   positions, so that the extremes of the upsampled map lie at the first and last pixels of each cell of the
   source: a program finds them there, 4 * h * w points instead of H * W, and then writes its pixels once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.bilinear import LARGEST_SIDE, corner_extremes, upsample
from fastcam_kernels.launch import Launch, alignment, processors, require_runnable

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class CamMapConfig:
    """How the two launches are cut up. `default_config` computes one from the shapes.

    Attributes:
        targets, channels, positions: one step of launch 1 multiplies this block of weights and activations.
        rows, columns: launch 2 writes tiles of this size.
        programs_per_map: launch 2 spreads a map's tiles over this many programs.
    """

    targets: int
    channels: int
    positions: int
    rows: int
    columns: int
    programs_per_map: int
    num_warps: int = 4


def default_config(
    *,
    batch: int,
    targets: int,
    channels: int,
    source: tuple[int, int],
    size: tuple[int, int],
    channels_last: bool,
    item_size: int,
    double: bool,
    per_position: bool,
    multiprocessors: int,
) -> CamMapConfig:
    """Compute a configuration: about 4,096 products a step, and enough programs to fill the device."""
    positions_in_all = source[0] * source[1]
    block_targets = min(8, triton.next_power_of_2(targets))
    # A weight for each product takes a register of its own: many targets do not make longer steps then.
    step = max(512 if per_position else 1024, 4096 // block_targets) // (2 if double else 1)
    # Along positions, a row of a block: 32 to 128 bytes; along channels a row is as long as it has to be.
    smallest, largest = (2, 8) if channels_last else (32 // item_size, 128 // item_size)
    block_positions = min(largest, max(triton.next_power_of_2(positions_in_all), 2))
    blocks = batch * triton.cdiv(targets, block_targets)
    while block_positions > smallest and blocks * triton.cdiv(positions_in_all, block_positions) < multiprocessors:
        block_positions //= 2
    block_channels = step // block_positions
    if not channels_last:
        # More rows of 16-bit numbers spill registers (see bench/results/aot-*.txt).
        block_channels = min(block_channels, 32 * item_size)
    block_channels = min(block_channels, max(triton.next_power_of_2(channels), 16))

    rows, columns = 16, 64 if size[1] % 64 == 0 else 32
    tiles = triton.cdiv(size[0], rows) * triton.cdiv(size[1], columns)
    # Every program looks for the extremes at all cell corners: fewer, longer programs on a full device.
    programs_per_map = min(tiles, max(1, triton.cdiv(4 * multiprocessors, max(batch * targets, 1))))
    return CamMapConfig(
        targets=block_targets,
        channels=block_channels,
        positions=block_positions,
        rows=rows,
        columns=columns,
        programs_per_map=programs_per_map,
    )


@triton.jit
def weighted_sum_kernel(
    activations,
    weights,
    sums,
    targets,
    channels,
    positions,
    width,
    stride_an,
    stride_ak,
    stride_ah,
    stride_aw,
    stride_wn,
    stride_wt,
    stride_wk,
    stride_wh,
    stride_ww,
    PER_POSITION: tl.constexpr,
    FLAT: tl.constexpr,
    ALIGNED_CHANNELS: tl.constexpr,
    ALIGNED_POSITIONS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Launch 1: sums[n, t, p] for a block of targets t and positions p of one image n."""
    position_blocks = tl.cdiv(positions, BLOCK_P)
    target_blocks = tl.cdiv(targets, BLOCK_T)
    program = tl.program_id(0)
    image = (program // (position_blocks * target_blocks)).to(tl.int64)
    first_target = (program // position_blocks % target_blocks) * BLOCK_T
    first_position = (program % position_blocks) * BLOCK_P

    t = (first_target + tl.arange(0, BLOCK_T))[:, None, None]
    k = tl.arange(0, BLOCK_K)[None, :, None]
    p = (first_position + tl.arange(0, BLOCK_P))[None, None, :]
    # Along the contiguous axis, groups of ALIGNED_... elements start aligned and are inside or outside
    # together: what triton must know to load them as one.
    ALIGNED: tl.constexpr = ALIGNED_CHANNELS * ALIGNED_POSITIONS
    p_inside = tl.max_constancy(p < positions, (1, 1, ALIGNED_POSITIONS))
    t_inside = t < targets

    if FLAT:
        a_position = tl.multiple_of(p.to(tl.int64) * stride_aw, (ALIGNED, ALIGNED, ALIGNED))
        w_position = tl.multiple_of(p.to(tl.int64) * stride_ww, (ALIGNED, ALIGNED, ALIGNED))
    else:
        a_position = (p // width).to(tl.int64) * stride_ah + (p % width).to(tl.int64) * stride_aw
        w_position = (p // width).to(tl.int64) * stride_wh + (p % width).to(tl.int64) * stride_ww
    a_image = activations + image * stride_an
    w_image = weights + image * stride_wn
    w_target = t.to(tl.int64) * stride_wt
    if PER_POSITION:
        w_target = tl.multiple_of(w_target, (ALIGNED, ALIGNED, ALIGNED))

    accumulator_type = sums.dtype.element_ty
    accumulator = tl.zeros((BLOCK_T, BLOCK_K, BLOCK_P), dtype=accumulator_type)
    for start in range(0, channels, BLOCK_K):
        channel = start + k
        channel_inside = tl.max_constancy(channel < channels, (1, ALIGNED_CHANNELS, 1))
        a_channel = tl.multiple_of(channel.to(tl.int64) * stride_ak, (ALIGNED, ALIGNED, ALIGNED))
        w_channel = channel.to(tl.int64) * stride_wk
        a = tl.load(a_image + a_channel + a_position, mask=channel_inside & p_inside, other=0.0)
        if PER_POSITION:
            w_channel = tl.multiple_of(w_channel, (ALIGNED, ALIGNED, ALIGNED))
            w_inside = t_inside & channel_inside & p_inside
            w = tl.load(w_image + w_target + w_channel + w_position, mask=w_inside, other=0.0)
        else:
            w = tl.load(w_image + w_target + w_channel, mask=t_inside & channel_inside, other=0.0)
        accumulator += a.to(accumulator_type) * w.to(accumulator_type)

    total = tl.sum(accumulator, axis=1)
    t_out = first_target + tl.arange(0, BLOCK_T)[:, None]
    p_out = first_position + tl.arange(0, BLOCK_P)[None, :]
    out = sums + (image * targets + t_out.to(tl.int64)) * positions + p_out
    tl.store(out, total, mask=(t_out < targets) & (p_out < positions))


@triton.jit
def finish_map_kernel(
    sums,
    maps,
    source_height,
    source_width,
    height,
    width,
    programs_per_map,
    RELU: tl.constexpr,
    NORMALIZE: tl.constexpr,
    FLAT_TOLERANCE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Launch 2: upsample, ReLU and min-max for a share of the tiles of one map."""
    program = tl.program_id(0)
    index = (program // programs_per_map).to(tl.int64)
    part = program % programs_per_map
    source = sums + index * source_height * source_width
    rows = tl.arange(0, BLOCK_Y)[:, None]
    columns = tl.arange(0, BLOCK_X)[None, :]
    number = sums.dtype.element_ty

    if NORMALIZE:
        low = tl.full((BLOCK_Y, BLOCK_X), float("inf"), dtype=number)
        high = tl.full((BLOCK_Y, BLOCK_X), float("-inf"), dtype=number)
        low, high = corner_extremes(
            source,
            rows,
            columns,
            low,
            high,
            source_height,
            source_width,
            height,
            width,
            source_width,
            1,
            RELU,
            BLOCK_Y,
            BLOCK_X,
        )
        # Reductions drop NaN; a map with one is NaN as a whole, as in the reference.
        broken = tl.max((low != low).to(tl.int32)) > 0
        lowest = tl.min(low)
        highest = tl.max(high)
        lowest = tl.where(broken, float("nan"), lowest).to(number)
        span = highest - lowest
        largest = tl.maximum(tl.abs(lowest), tl.abs(highest))
        span = tl.where(span > FLAT_TOLERANCE * largest, span, float("inf")).to(number)

    column_tiles = tl.cdiv(width, BLOCK_X)
    tiles = tl.cdiv(height, BLOCK_Y) * column_tiles
    tiles_per_program = tl.cdiv(tiles, programs_per_map)
    first = part * tiles_per_program
    for tile in range(first, tl.minimum(first + tiles_per_program, tiles)):
        y = tile // column_tiles * BLOCK_Y + rows
        x = tile % column_tiles * BLOCK_X + columns
        inside = (y < height) & (x < width)
        y_clamped = tl.minimum(y, height - 1)
        x_clamped = tl.minimum(x, width - 1)
        value = upsample(
            source,
            y_clamped,
            x_clamped,
            source_height,
            source_width,
            height,
            width,
            source_width,
            1,
            RELU,
            number,
        )
        if NORMALIZE:
            value = (value - lowest) / span
            # Rounding can leave a pixel inside a cell one unit beyond the cell's corners.
            value = tl.where(value < 0, 0.0, value)
            value = tl.where(value > 1, 1.0, value)
        out = maps + index * height * width + y.to(tl.int64) * width + x
        tl.store(out, value, mask=inside)


def cam_map(
    activations: Tensor,
    weights: Tensor,
    size: tuple[int, int],
    relu: bool,
    normalize: bool,
    *,
    flat_tolerance: float,
    config: CamMapConfig | None = None,
) -> Tensor:
    """Return min-max(relu(upsample(sum_k weights_k activations_k))), shape (N, T, *size).

    Args:
        activations: (N, K, h, w), any strides; floating point.
        weights: (N, T, K), or (N, T, K, h, w) for a weight per position; any strides; floating point.
        size: height and width of the maps.
        relu: cut negative values to zero after upsampling.
        normalize: scale each map to [0, 1] after that; a flat map gives zeros.
        flat_tolerance: a map is flat if its range is at most this fraction of its largest magnitude.
        config: block sizes; None computes them.

    Returns:
        float32, or float64 if either input is float64; contiguous.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton.
        TypeError: a dtype other than float16, bfloat16, float32 and float64.
    """
    _check(activations, weights, size)
    require_runnable(activations.device, weighted_sum_kernel)
    launches, maps = plan(activations, weights, size, relu, normalize, flat_tolerance=flat_tolerance, config=config)
    for launch in launches:
        launch.run()
    return maps


def plan(
    activations: Tensor,
    weights: Tensor,
    size: tuple[int, int],
    relu: bool,
    normalize: bool,
    *,
    flat_tolerance: float,
    config: CamMapConfig | None = None,
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches that `cam_map` would make and the tensor they write. Works on meta tensors."""
    batch, channels, source_height, source_width = activations.shape
    targets = weights.shape[1]
    per_position = weights.ndim == 5
    number = torch.promote_types(torch.promote_types(activations.dtype, weights.dtype), torch.float32)
    a_strides, w_strides = _strides(activations), _strides(weights)
    read = (a_strides, w_strides) if per_position else (a_strides,)
    flat = all(strides["h"] == source_width * strides["w"] for strides in read)
    if config is None:
        config = default_config(
            batch=batch,
            targets=targets,
            channels=channels,
            source=(source_height, source_width),
            size=size,
            channels_last=a_strides["k"] == 1,
            item_size=activations.element_size(),
            double=number == torch.float64,
            per_position=per_position,
            multiprocessors=processors(activations.device),
        )
    sums = activations.new_empty((batch, targets, source_height, source_width), dtype=number)
    positions = source_height * source_width
    aligned_channels = _alignment(read, "k", min(channels & -channels, config.channels)) if flat else 1
    aligned_positions = _alignment(read, "w", min(positions & -positions, config.positions)) if flat else 1
    blocks = batch * triton.cdiv(targets, config.targets) * triton.cdiv(positions, config.positions)
    weighted_sum = Launch(
        kernel=weighted_sum_kernel,
        programs=blocks,
        arguments={
            "activations": activations,
            "weights": weights,
            "sums": sums,
            "targets": targets,
            "channels": channels,
            "positions": positions,
            "width": source_width,
            **{f"stride_a{axis}": a_strides[axis] for axis in "nkhw"},
            **{f"stride_w{axis}": w_strides[axis] for axis in "ntkhw"},
        },
        constants={
            "PER_POSITION": per_position,
            "FLAT": flat,
            "ALIGNED_CHANNELS": aligned_channels,
            "ALIGNED_POSITIONS": 1 if aligned_channels > 1 else aligned_positions,
            "BLOCK_T": config.targets,
            "BLOCK_K": config.channels,
            "BLOCK_P": config.positions,
        },
        num_warps=config.num_warps,
    )
    if not relu and not normalize and tuple(size) == (source_height, source_width):
        return (weighted_sum,), sums
    maps = sums.new_empty((batch, targets, *size))
    finish_map = Launch(
        kernel=finish_map_kernel,
        programs=batch * targets * config.programs_per_map,
        arguments={
            "sums": sums,
            "maps": maps,
            "source_height": source_height,
            "source_width": source_width,
            "height": size[0],
            "width": size[1],
            "programs_per_map": config.programs_per_map,
        },
        constants={
            "RELU": relu,
            "NORMALIZE": normalize,
            "FLAT_TOLERANCE": flat_tolerance,
            "BLOCK_Y": config.rows,
            "BLOCK_X": config.columns,
        },
        num_warps=config.num_warps,
    )
    return (weighted_sum, finish_map), maps


def _strides(tensor: Tensor) -> dict[str, int]:
    """Return strides by axis: 0 for an axis of length one, h = width * w where that describes the same."""
    axes = {4: "nkhw", 3: "ntk", 5: "ntkhw"}[tensor.ndim]
    lengths = dict(zip(axes, tensor.shape, strict=True))
    strides = {
        axis: stride if length > 1 else 0
        for (axis, length), stride in zip(lengths.items(), tensor.stride(), strict=True)
    }
    if tensor.ndim == 3:
        return {**strides, "h": 0, "w": 0}
    if lengths["w"] == 1:
        strides["w"] = strides["h"]
    elif lengths["h"] == 1:
        strides["h"] = lengths["w"] * strides["w"]
    return strides


def _alignment(read: Sequence[Mapping[str, int]], contiguous: str, extent: int) -> int:
    """Return the largest power of two up to 16 by which groups along the axis `contiguous` are aligned.

    All tensors must be contiguous along it (else 1), and `extent` is what divides its length and its blocks.
    The stride of h plays no part: in a flat tensor it follows from that of w.
    """
    if any(strides[contiguous] != 1 for strides in read):
        return 1
    others = [stride for strides in read for axis, stride in strides.items() if axis not in (contiguous, "h")]
    return alignment(extent, *others)


def _check(activations: Tensor, weights: Tensor, size: tuple[int, int]) -> None:
    for name, tensor in (("activations", activations), ("weights", weights)):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float16, bfloat16, float32 and float64")
    if activations.device != weights.device:
        raise ValueError(f"activations is on {activations.device} and weights on {weights.device}: move one")
    if activations.ndim != 4:
        raise ValueError(f"activations has shape {tuple(activations.shape)}; (N, K, h, w) is needed")
    batch, channels, height, width = activations.shape
    expected = (batch, channels) if weights.ndim == 3 else (batch, channels, height, width)
    if weights.ndim not in (3, 5) or (weights.shape[0], *weights.shape[2:]) != expected:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; with activations {tuple(activations.shape)} it must"
            f" be ({batch}, T, {channels}) or ({batch}, T, {channels}, {height}, {width})"
        )
    if min(activations.shape[1:]) < 1:
        raise ValueError(f"activations has shape {tuple(activations.shape)}; no axis but the first may be empty")
    if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in (*size, height, width)):
        raise ValueError(
            f"size is {tuple(size)} and the activations' is {(height, width)}; the kernel takes sides of 1"
            f" to {LARGEST_SIDE}"
        )


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    shapes = {"layer2": (512, 28, 28), "layer3": (1024, 14, 14), "layer4": (2048, 7, 7)}
    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    single, half, double = torch.float32, torch.bfloat16, torch.float64
    cases = [
        # batch, layer, layout, dtype, targets, per position
        (32, "layer2", "nchw", single, 1, False),
        (32, "layer2", "nhwc", single, 1, False),
        (32, "layer3", "nchw", single, 1, False),
        (32, "layer4", "nchw", single, 1, False),
        (1, "layer4", "nhwc", single, 1, False),
        (32, "layer2", "nhwc", single, 5, False),
        (32, "layer2", "nchw", half, 1, False),
        (1, "layer2", "nchw", half, 1, False),
        (32, "layer2", "nchw", half, 5, False),
        (32, "layer2", "nhwc", half, 5, False),
        (32, "layer4", "nhwc", half, 1, False),
        (32, "layer4", "nhwc", torch.float16, 1, False),
        (32, "layer2", "nhwc", double, 1, False),
        (32, "layer2", "nchw", single, 1, True),
        (32, "layer2", "nhwc", half, 1, True),
        (32, "layer2", "nhwc", single, 5, True),
    ]
    for batch, layer, layout, dtype, targets, per_position in cases:
        channels, height, width = shapes[layer]
        activations = torch.empty(
            (batch, channels, height, width), dtype=dtype, device="meta", memory_format=layouts[layout]
        )
        weights = torch.empty((batch, targets, channels), dtype=torch.float32, device="meta")
        if per_position:
            weights = torch.empty_like(activations).unsqueeze(1).expand(-1, targets, -1, -1, -1)
        launches, _ = plan(activations, weights, (224, 224), True, True, flat_tolerance=2e-6)
        kind = str(dtype).removeprefix("torch.")
        name = f"cam_map sum batch={batch} {layer} {layout} {kind} targets={targets}"
        yield name + (" per position" if per_position else ""), launches[0]
    finishes = [
        # size, dtype, relu, min-max
        (224, single, True, True),
        (224, single, True, False),
        (299, single, True, True),
        (224, double, True, True),
    ]
    for side, dtype, relu, normalize in finishes:
        launches, _ = plan(
            torch.empty((32, 2048, 7, 7), dtype=dtype, device="meta"),
            torch.empty((32, 1, 2048), dtype=dtype, device="meta"),
            (side, side),
            relu,
            normalize,
            flat_tolerance=2e-6,
        )
        name = f"cam_map finish {side}x{side} {str(dtype).removeprefix('torch.')}"
        yield name + f"{' relu' if relu else ''}{' min-max' if normalize else ''}", launches[1]
