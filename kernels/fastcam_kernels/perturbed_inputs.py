"""The batch of insertion or deletion steps on the GPU: one launch.

    output[n, s, :, p] = base[n, :, p] if rank[n, p] < steps[s] else images[n, :, p]

What has to move is the output, N * S * C * H * W, and once the images, the base and the ranks. An image
channels-last is one row of H * W * C numbers: a program takes a block of it, reads the three once, and then
writes all steps of that block, or a share of them where there are too few blocks to fill the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.launch import Launch, alignment, processors, require_runnable

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Positions inside an image are 32-bit integers, and the last block may reach beyond its end.
LARGEST_IMAGE = 2**31 - 2**16


@dataclass(frozen=True)
class PerturbedInputsConfig:
    """How the work is cut up. `default_config` computes one from the shapes.

    Attributes:
        elements: numbers of an image that a program takes.
        steps: so many steps are written at a time.
        parts: the steps of a block are spread over this many programs.
    """

    elements: int
    steps: int
    parts: int
    num_warps: int = 4


def default_config(
    *, batch: int, steps: int, image: int, item_size: int, multiprocessors: int
) -> PerturbedInputsConfig:
    """Compute a configuration: 128 bits a thread, and eight programs a multiprocessor if the steps suffice."""
    num_warps = 4
    elements = min(32 * num_warps * 16 // item_size, triton.next_power_of_2(image))
    together = min(4, triton.next_power_of_2(max(steps, 1)))
    blocks = batch * triton.cdiv(image, elements)
    # Four times the steps of one pass, or reading would weigh as much as writing.
    parts = min(triton.cdiv(8 * multiprocessors, max(blocks, 1)), triton.cdiv(steps, 4 * together))
    return PerturbedInputsConfig(elements=elements, steps=together, parts=max(parts, 1), num_warps=num_warps)


@triton.jit
def image_offset(e, width, stride_c, stride_h, stride_w, COLOURS: tl.constexpr, FLAT: tl.constexpr):
    """Return where number e = (y * W + x) * C + c of an image lies behind its start."""
    y = (e // COLOURS // width).to(tl.int64)
    x = (e // COLOURS % width).to(tl.int64)
    return e if FLAT else y * stride_h + x * stride_w + (e % COLOURS).to(tl.int64) * stride_c


@triton.jit
def perturbed_inputs_kernel(
    images,
    base,
    rank,
    steps,
    output,
    step_count,
    image_size,
    width,
    parts,
    stride_in,
    stride_ic,
    stride_ih,
    stride_iw,
    stride_bn,
    stride_bc,
    stride_bh,
    stride_bw,
    stride_rn,
    stride_rp,
    COLOURS: tl.constexpr,
    FLAT_IMAGES: tl.constexpr,
    FLAT_BASE: tl.constexpr,
    ALIGNED_OUTPUT: tl.constexpr,
    ALIGNED_IMAGES: tl.constexpr,
    ALIGNED_BASE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """output[n, s, e] for a block of numbers e of one image n and a share of the steps s."""
    blocks = tl.cdiv(image_size, BLOCK_E)
    program = tl.program_id(0)
    first_element = program % blocks * BLOCK_E
    part = program // blocks % parts
    n = (program // (blocks * parts)).to(tl.int64)

    e = (first_element + tl.arange(0, BLOCK_E))[None, :]
    # Groups of ALIGNED_OUTPUT numbers lie inside the image or outside together.
    inside = tl.max_constancy(e < image_size, (1, ALIGNED_OUTPUT))
    image = images + tl.multiple_of(n * stride_in, ALIGNED_IMAGES)
    image += image_offset(e, width, stride_ic, stride_ih, stride_iw, COLOURS, FLAT_IMAGES)
    other = base + tl.multiple_of(n * stride_bn, ALIGNED_BASE)
    other += image_offset(e, width, stride_bc, stride_bh, stride_bw, COLOURS, FLAT_BASE)
    shown = tl.load(image, mask=inside, other=0.0)
    replacement = tl.load(other, mask=inside, other=0.0)
    position = tl.load(rank + n * stride_rn + (e // COLOURS).to(tl.int64) * stride_rp, mask=inside, other=0)
    position = position.to(tl.int32)

    steps_per_part = tl.cdiv(step_count, parts)
    first_step = part * steps_per_part
    last_step = tl.minimum(first_step + steps_per_part, step_count)
    for start in range(0, last_step - first_step, BLOCK_S):
        s = first_step + start + tl.arange(0, BLOCK_S)
        # Positions are below 2^31, so that a comparison in 32 bits, half the work, decides the same.
        replaced = tl.load(steps + s, mask=s < last_step, other=0)
        replaced = tl.minimum(tl.maximum(replaced, 0), 2**31 - 1).to(tl.int32)
        value = tl.where(position < replaced[:, None], replacement, shown)
        # In one dimension: on a block of one step the compiler breaks on a hint of two.
        begin = tl.multiple_of((n * step_count + s) * image_size, ALIGNED_OUTPUT)
        out = output + begin[:, None] + e
        tl.store(out, value, mask=inside & (s < last_step)[:, None])


def perturbed_inputs(
    images: Tensor,
    base: Tensor,
    rank: Tensor,
    steps: Tensor,
    *,
    config: PerturbedInputsConfig | None = None,
) -> Tensor:
    """Return `base` where rank < steps[s] and `images` elsewhere, for each step s: shape (N * S, C, H, W).

    Args:
        images, base: (N, C, H, W), any strides, of one floating-point dtype. Channels-last is fast.
        rank: (N, H, W) or (N, H * W), int64 or int32, any strides: positions from 0 to H * W - 1.
        steps: (S,), int64 or int32: any numbers.
        config: block sizes; None computes them.

    Returns:
        The images' dtype, channels-last.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton.
        TypeError: dtypes other than those above.
    """
    _check(images, base, rank, steps)
    require_runnable(images.device, perturbed_inputs_kernel)
    launch, output = plan(images, base, rank, steps, config=config)
    launch.run()
    return output


def plan(
    images: Tensor,
    base: Tensor,
    rank: Tensor,
    steps: Tensor,
    *,
    config: PerturbedInputsConfig | None = None,
) -> tuple[Launch, Tensor]:
    """Return the launch that `perturbed_inputs` would make and the tensor it writes. Works on meta tensors."""
    batch, colours, height, width = images.shape
    step_count = steps.shape[0]
    image_size = colours * height * width
    if config is None:
        config = default_config(
            batch=batch,
            steps=step_count,
            image=image_size,
            item_size=images.element_size(),
            multiprocessors=processors(images.device),
        )
    output = torch.empty(
        (batch * step_count, colours, height, width),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last,
    )
    rank = rank.reshape(batch, height * width)
    i_strides, b_strides = images.stride(), base.stride()
    extent = alignment(image_size, config.elements)
    launch = Launch(
        kernel=perturbed_inputs_kernel,
        programs=batch * triton.cdiv(image_size, config.elements) * config.parts if step_count else 0,
        arguments={
            "images": images,
            "base": base,
            "rank": rank,
            "steps": steps.contiguous(),
            "output": output,
            "step_count": step_count,
            "image_size": image_size,
            "width": width,
            "parts": config.parts,
            **{f"stride_i{axis}": stride for axis, stride in zip("nchw", i_strides, strict=True)},
            **{f"stride_b{axis}": stride for axis, stride in zip("nchw", b_strides, strict=True)},
            "stride_rn": rank.stride(0),
            "stride_rp": rank.stride(1),
        },
        constants={
            "COLOURS": colours,
            "FLAT_IMAGES": images[:1].is_contiguous(memory_format=torch.channels_last),
            "FLAT_BASE": base[:1].is_contiguous(memory_format=torch.channels_last),
            "ALIGNED_OUTPUT": extent,
            "ALIGNED_IMAGES": math.gcd(extent, i_strides[0]) if batch > 1 else extent,
            "ALIGNED_BASE": math.gcd(extent, b_strides[0]) if batch > 1 else extent,
            "BLOCK_E": config.elements,
            "BLOCK_S": config.steps,
        },
        num_warps=config.num_warps,
    )
    return launch, output


def _check(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> None:
    for name, tensor in {"base": base, "rank": rank, "steps": steps}.items():
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device} and images on {images.device}: move one")
    if images.dtype not in DTYPES:
        raise TypeError(f"images is {images.dtype}; the kernel takes float16, bfloat16, float32 and float64")
    for name, tensor in {"rank": rank, "steps": steps}.items():
        if tensor.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} is {tensor.dtype}; int64 or int32 is needed")
    if images.ndim != 4 or min(images.shape[1:]) < 1 or math.prod(images.shape[1:]) > LARGEST_IMAGE:
        raise ValueError(
            f"images has shape {tuple(images.shape)}; (N, C, H, W) is needed, no axis empty but the first, and no"
            f" image of more than {LARGEST_IMAGE} numbers"
        )
    if base.shape != images.shape or base.dtype != images.dtype:
        raise ValueError(
            f"base is {base.dtype} {tuple(base.shape)} and images {images.dtype} {tuple(images.shape)}; they must"
            " agree in shape and dtype"
        )
    batch, _, height, width = images.shape
    if tuple(rank.shape) not in ((batch, height, width), (batch, height * width)):
        raise ValueError(
            f"rank has shape {tuple(rank.shape)}; with images {tuple(images.shape)} it must be"
            f" ({batch}, {height}, {width}) or ({batch}, {height * width})"
        )
    if steps.ndim != 1:
        raise ValueError(f"steps has shape {tuple(steps.shape)}; (S,) is needed")


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernel is specialised."""
    layouts = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
    single, half, double = torch.float32, torch.bfloat16, torch.float64
    cases = [
        # batch, steps, size, layout, dtype, ranks' dtype
        (8, 32, 224, "nhwc", single, torch.int32),
        (8, 32, 224, "nhwc", half, torch.int32),
        (1, 225, 224, "nhwc", half, torch.int32),
        (8, 32, 224, "nhwc", torch.float16, torch.int64),
        (8, 32, 224, "nchw", half, torch.int32),
        (64, 1, 224, "nhwc", half, torch.int32),
        (8, 32, 299, "nhwc", half, torch.int32),
        (8, 32, 224, "nhwc", double, torch.int32),
    ]
    for batch, steps, side, layout, dtype, rank_dtype in cases:
        images = torch.empty((batch, 3, side, side), dtype=dtype, device="meta", memory_format=layouts[layout])
        rank = torch.empty((batch, side, side), dtype=rank_dtype, device="meta")
        launch, _ = plan(images, images, rank, torch.empty(steps, dtype=torch.int64, device="meta"))
        kind, ranks = (str(one).removeprefix("torch.") for one in (dtype, rank_dtype))
        yield f"perturbed_inputs {batch} x {steps} {side} {layout} {kind} {ranks}", launch
