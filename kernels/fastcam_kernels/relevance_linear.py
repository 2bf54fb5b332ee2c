"""A linear layer and its z+ gate on the GPU: two launches.

    a = activation(x W^T + b),   Z = x+ W+^T + x- W-^T,   Q = a / Z or 1 / Z, and 0 where Z is next to nothing

1. Both products, of a block of rows (images, or positions of images) with a block of outputs, share the loads of x.
   The weights are the left operand: a block of them fills the matrix units however few the rows. Where the blocks do
   not fill the device, the sum over the inputs is cut into parts, each written on its own.
2. Parts are added in a fixed order, so that results do not depend on timing; then bias, activation, the image's
   largest Z and the gate. That largest Z is needed before the first gate: this takes a second launch in any case.

For few rows the first launch is bound by reading the weights. W and W+ are both read: W+ is max(W, 0) only where W is
the layer's own unfolded weight in the same precision, which the operator's arguments do not say.

Up to `VECTOR_ROWS` rows are multiplied elementwise in float32. More go through matrix products. x of 16 bits times W+
in float32 runs on matrix units: x is exact in TF32, and W+ is split into a TF32 number and the rest, two products that
together keep at least 21 of its 24 bits (their sums are the matrix units', which may cut off where others round).
Products of float32 operands are exact, or TF32 where that is allowed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.activation import activate
from fastcam_kernels.launch import Launch, alignment, processors, require_runnable

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish")
# Inputs, and the results of one image, are numbered in 32-bit integers.
LARGEST_IMAGE = 2**31 - 2**16
# Up to so many rows, multiplying elementwise wastes less than filling up a matrix product's block.
VECTOR_ROWS = 4


@dataclass(frozen=True)
class LinearConfig:
    """How the two launches are cut up. `default_config` computes one from the shapes.

    Attributes:
        vector: multiply elementwise instead of by matrix products.
        rows, outputs: the block of results that one program of launch 1 computes.
        inputs: how many terms of each sum one step takes.
        parts: launch 1 cuts each sum into so many parts.
        elements: launch 2 takes so many results a step.
        programs_per_image: launch 2 spreads an image's results over so many programs.
    """

    vector: bool
    rows: int
    outputs: int
    inputs: int
    parts: int
    elements: int
    programs_per_image: int
    num_warps: int = 4
    num_stages: int = 3


def default_config(
    *,
    images: int,
    rows: int,
    outputs: int,
    inputs: int,
    exact: bool,
    signed: bool,
    multiprocessors: int,
) -> LinearConfig:
    """Compute a configuration; `exact`: float32 operands without TF32, which no matrix unit multiplies."""
    vector = rows <= VECTOR_ROWS
    num_warps, num_stages = 4, 3
    block_rows = triton.next_power_of_2(max(rows, 1))
    if vector:
        block_inputs, block_outputs = 128, min(16, 32 // block_rows)
    elif not exact:
        # Three products hold more registers than two (see bench/results/aot-*.txt).
        block_inputs, block_outputs, block_rows = 32, 64, min(32 if signed else 64, max(16, block_rows))
        num_warps = 8 if signed and block_rows == 32 else 4
    elif signed:
        block_inputs, block_outputs, block_rows, num_warps, num_stages = 16, 64, 16, 8, 2
    else:
        block_inputs, block_outputs, block_rows = 16, 64, min(64, max(16, block_rows))
        num_warps = 8 if block_rows == 64 else 4
    block_inputs = min(block_inputs, max(16, triton.next_power_of_2(inputs)))
    blocks = triton.cdiv(rows, block_rows) * triton.cdiv(outputs, block_outputs)
    elements = 512
    steps = triton.cdiv(rows // max(images, 1) * outputs, elements)
    return LinearConfig(
        vector=vector,
        rows=block_rows,
        outputs=block_outputs,
        inputs=block_inputs,
        parts=part_count(blocks, triton.cdiv(inputs, block_inputs), multiprocessors),
        elements=elements,
        programs_per_image=min(steps, max(1, triton.cdiv(multiprocessors, max(images, 1)))),
        num_warps=num_warps,
        num_stages=num_stages,
    )


def part_count(blocks: int, steps: int, multiprocessors: int) -> int:
    """Return into how many parts to cut sums of `steps` steps: two programs a multiprocessor, four steps a part."""
    wanted = triton.cdiv(2 * multiprocessors, max(blocks, 1))
    parts = max(1, min(wanted, steps // 4, 64))
    # Parts hold whole steps: no part may come out empty.
    return int(triton.cdiv(steps, triton.cdiv(steps, parts)))


@triton.jit
def multiply_add(w, x, total, PRECISION: tl.constexpr):
    """total + w x, of a block of weights (outputs, inputs) and one of inputs (inputs, rows)."""
    if PRECISION == "split":
        # The upper 11 bits of each weight, sign and exponent with them: a TF32 number.
        upper = (w.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        total = tl.dot(w - upper, x.to(tl.float32), total, input_precision="tf32")
        total = tl.dot(upper, x.to(tl.float32), total, input_precision="tf32")
    else:
        total = tl.dot(w, x.to(w.dtype), total, input_precision=PRECISION)
    return total


@triton.jit
def products_kernel(
    x,
    weight,
    positive,
    negative,
    y_parts,
    z_parts,
    rows,
    input_groups,
    output_groups,
    stride_x,
    groups_per_part,
    SIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    POSITIVE_PRECISION: tl.constexpr,
    ALIGNED: tl.constexpr,
    ALIGNED_OUTPUTS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Launch 1: one part of the sums x W^T and Z for a block of rows r and outputs k."""
    # Lengths come as numbers of groups: triton sees which powers of two divide them, as loads of many bits need.
    inputs = input_groups * ALIGNED
    outputs = output_groups * ALIGNED_OUTPUTS
    row_blocks = tl.cdiv(rows, BLOCK_R)
    output_blocks = tl.cdiv(outputs, BLOCK_K)
    # Programs that follow each other read the same weights.
    program = tl.program_id(0)
    r = (program % row_blocks) * BLOCK_R + tl.arange(0, BLOCK_R)
    k = (program // row_blocks % output_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    part = (program // row_blocks // output_blocks).to(tl.int64)
    first = program // row_blocks // output_blocks * groups_per_part
    last = tl.minimum(first + groups_per_part, input_groups) * ALIGNED

    w_rows = k.to(tl.int64)[:, None] * inputs
    x_rows = r.to(tl.int64) * stride_x * ALIGNED
    if VECTOR:
        y = tl.zeros((BLOCK_K, BLOCK_R, BLOCK_C), dtype=tl.float32)
        z = tl.zeros((BLOCK_K, BLOCK_R, BLOCK_C), dtype=tl.float32)
    else:
        y = tl.zeros((BLOCK_K, BLOCK_R), dtype=tl.float32)
        z = tl.zeros((BLOCK_K, BLOCK_R), dtype=tl.float32)
    for start in range(first * ALIGNED, last, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        w_offset = w_rows + c[None, :]
        w_inside = (k < outputs)[:, None] & (c < last)[None, :]
        w = tl.load(weight + w_offset, mask=w_inside, other=0.0)
        p = tl.load(positive + w_offset, mask=w_inside, other=0.0)
        if SIGNED:
            n = tl.load(negative + w_offset, mask=w_inside, other=0.0)
        if VECTOR:
            inside = (r < rows)[:, None] & (c < last)[None, :]
            value = tl.load(x + x_rows[:, None] + c[None, :], mask=inside, other=0.0)
            value = value.to(tl.float32)[None, :, :]
            y += w.to(tl.float32)[:, None, :] * value
            if SIGNED:
                z += p.to(tl.float32)[:, None, :] * tl.where(value < 0, 0.0, value)
                z += n.to(tl.float32)[:, None, :] * tl.where(value > 0, 0.0, value)
            else:
                z += p.to(tl.float32)[:, None, :] * value
        else:
            inside = (r < rows)[None, :] & (c < last)[:, None]
            value = tl.load(x + x_rows[None, :] + c[:, None], mask=inside, other=0.0)
            y = multiply_add(w, value, y, PRECISION)
            if SIGNED:
                number = value.to(tl.float32)
                above = tl.where(number < 0, 0.0, number).to(value.dtype)
                below = tl.where(number > 0, 0.0, number).to(value.dtype)
                z = multiply_add(p, above, z, POSITIVE_PRECISION)
                z = multiply_add(n, below, z, POSITIVE_PRECISION)
            else:
                z = multiply_add(p, value, z, POSITIVE_PRECISION)

    if VECTOR:
        y = tl.sum(y, axis=2)
        z = tl.sum(z, axis=2)
    out = (part * rows + r.to(tl.int64)[None, :]) * outputs + k[:, None]
    inside = (k < outputs)[:, None] & (r < rows)[None, :]
    tl.store(y_parts + out, y, mask=inside)
    tl.store(z_parts + out, z, mask=inside)


@triton.jit
def sum_parts(source, element, inside, parts, stride, BLOCK: tl.constexpr):
    """Add the parts of some elements, in their order."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(parts):
        total += tl.load(source + element, mask=inside, other=0.0)
        source += stride
    return total


@triton.jit
def gate_kernel(
    y_parts,
    z_parts,
    bias,
    y,
    gate,
    parts,
    images,
    outputs,
    groups_per_image,
    programs_per_image,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RECIPROCAL: tl.constexpr,
    ZERO_SHARE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Launch 2: a and Q for a share of the results of one image."""
    program = tl.program_id(0)
    image = (program // programs_per_image).to(tl.int64)
    share = program % programs_per_image
    elements = groups_per_image * ALIGNED
    first = image * elements
    stride = (image * 0 + images) * elements
    blocks = tl.cdiv(elements, BLOCK)

    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for block in range(blocks):
        element = block * BLOCK + tl.arange(0, BLOCK)
        inside = element < elements
        z = sum_parts(z_parts + first, element, inside, parts, stride, BLOCK)
        largest = tl.maximum(largest, z, propagate_nan=tl.PropagateNan.ALL)
    # A reduction drops NaN; with one, no threshold holds, as in the reference.
    broken = tl.max((largest != largest).to(tl.int32), axis=0) > 0
    floor = tl.where(broken, float("nan"), tl.max(largest, axis=0) * ZERO_SHARE)

    blocks_per_program = tl.cdiv(blocks, programs_per_image)
    begin = share * blocks_per_program
    for block in range(begin, tl.minimum(begin + blocks_per_program, blocks)):
        element = block * BLOCK + tl.arange(0, BLOCK)
        inside = element < elements
        total = sum_parts(y_parts + first, element, inside, parts, stride, BLOCK)
        if HAS_BIAS:
            total += tl.load(bias + element % outputs, mask=inside, other=0.0).to(tl.float32)
        a = activate(total, ACTIVATION).to(y.dtype.element_ty)
        tl.store(y + first + element, a, mask=inside)
        z = sum_parts(z_parts + first, element, inside, parts, stride, BLOCK)
        top = tl.full((BLOCK,), 1.0, dtype=tl.float32) if RECIPROCAL else a.to(tl.float32)
        q = tl.where(z <= floor, 0.0, top) / tl.where(z <= floor, 1.0, z)
        tl.store(gate + first + element, q, mask=inside)


def relevance_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
    allow_tf32: bool = False,
    config: LinearConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a = activation(x W^T + b) and its gate Q = a / Z, or 1 / Z.

    Args:
        x: (N, ..., C); float32, float16 or bfloat16.
        weight, positive, negative: W, W+ and W-, (K, C); negative is None where x >= 0 is known.
        bias: (K,), or None.
        activation: "none", "relu", "relu6", "silu" or "hardswish".
        reciprocal: the gate is 1 / Z.
        zero_share: Z up to this share of the image's largest counts as 0, and the gate is 0 there.
        allow_tf32: products of float32 operands may be TF32.
        config: block sizes; None computes them.

    Returns:
        a (N, ..., K) in the dtype of x, Q (N, ..., K) in float32; both contiguous.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton, an
            activation that does not exist.
        TypeError: a dtype other than float32, float16 and bfloat16.
    """
    _check(x, weight, bias, positive, negative, activation)
    require_runnable(x.device, products_kernel)
    launches, y, gate = plan(
        x,
        weight,
        bias,
        positive,
        negative,
        activation,
        reciprocal,
        zero_share=zero_share,
        allow_tf32=allow_tf32,
        config=config,
    )
    for launch in launches:
        launch.run()
    return y, gate


def plan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    activation: str,
    reciprocal: bool,
    *,
    zero_share: float,
    allow_tf32: bool = False,
    config: LinearConfig | None = None,
) -> tuple[tuple[Launch, ...], Tensor, Tensor]:
    """Return the launches that `relevance_linear` would make, a and the gate. Works on meta tensors."""
    images, (outputs, inputs) = x.shape[0], weight.shape
    flat = matrix(x)
    rows = flat.shape[0]
    y = x.new_empty((*x.shape[:-1], outputs))
    gate = x.new_empty(y.shape, dtype=torch.float32)
    if rows == 0:
        return (), y, gate
    precision = product_precision(x.dtype, weight.dtype, allow_tf32=allow_tf32)
    positive_precision = product_precision(x.dtype, positive.dtype, allow_tf32=allow_tf32)
    if config is None:
        config = default_config(
            images=images,
            rows=rows,
            outputs=outputs,
            inputs=inputs,
            exact=x.dtype == torch.float32 and not allow_tf32,
            signed=negative is not None,
            multiprocessors=processors(x.device),
        )
    steps_per_part = triton.cdiv(triton.cdiv(inputs, config.inputs), config.parts)
    stride_x = flat.stride(0) if rows > 1 else 0
    aligned = alignment(config.inputs, inputs, stride_x)
    aligned_outputs = alignment(config.outputs, outputs)
    per_image = rows // images * outputs
    aligned_elements = alignment(config.elements, per_image)
    parts = x.new_empty((2, config.parts, rows, outputs), dtype=torch.float32)
    products = Launch(
        kernel=products_kernel,
        programs=triton.cdiv(rows, config.rows) * triton.cdiv(outputs, config.outputs) * config.parts,
        arguments={
            "x": flat,
            "weight": weight.contiguous(),
            "positive": positive.contiguous(),
            # Without negative inputs nothing is read from it.
            "negative": positive if negative is None else negative.contiguous(),
            "y_parts": parts[0],
            "z_parts": parts[1],
            "rows": rows,
            "input_groups": inputs // aligned,
            "output_groups": outputs // aligned_outputs,
            "stride_x": stride_x // aligned,
            "groups_per_part": steps_per_part * config.inputs // aligned,
        },
        constants={
            "SIGNED": negative is not None,
            "VECTOR": config.vector,
            "PRECISION": precision,
            "POSITIVE_PRECISION": positive_precision,
            "ALIGNED": aligned,
            "ALIGNED_OUTPUTS": aligned_outputs,
            "BLOCK_R": config.rows,
            "BLOCK_K": config.outputs,
            "BLOCK_C": config.inputs,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    finish = Launch(
        kernel=gate_kernel,
        programs=images * config.programs_per_image,
        arguments={
            "y_parts": parts[0],
            "z_parts": parts[1],
            "bias": weight if bias is None else bias.contiguous(),
            "y": y,
            "gate": gate,
            "parts": config.parts,
            "images": images,
            "outputs": outputs,
            "groups_per_image": per_image // aligned_elements,
            "programs_per_image": config.programs_per_image,
        },
        constants={
            "HAS_BIAS": bias is not None,
            "ACTIVATION": activation,
            "RECIPROCAL": reciprocal,
            "ZERO_SHARE": zero_share,
            "ALIGNED": aligned_elements,
            "BLOCK": config.elements,
        },
        num_warps=4,
    )
    return (products, finish), y, gate


def matrix(x: Tensor) -> Tensor:
    """Return (N, ..., C) as rows (R, C) that are contiguous in themselves; a view where that can be."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def product_precision(x: torch.dtype, weight: torch.dtype, *, allow_tf32: bool) -> str:
    """Return how x times a weight is formed: "ieee", "tf32", or "split" for 16-bit x and float32 weights."""
    if weight != torch.float32:
        return "ieee"
    if allow_tf32:
        return "tf32"
    return "ieee" if x == torch.float32 else "split"


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, positive: Tensor, negative: Tensor | None, activation: str
) -> None:
    tensors = {"x": x, "weight": weight, "bias": bias, "positive": positive, "negative": negative}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float32, float16 and bfloat16")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"x is on {x.device} and {name} on {tensor.device}: move one")
    if x.ndim < 2 or min(x.shape[1:]) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}; (N, ..., C) is needed, no axis empty but N")
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or weight.shape[0] < 1:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; with x {tuple(x.shape)} it must be (K, {x.shape[-1]}), K not 0"
        )
    for name in ("positive", "negative"):
        tensor = tensors[name]
        if tensor is not None and tensor.shape != weight.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; it must be that of weight, {tuple(weight.shape)}"
            )
    if math.prod(x.shape[1:-1]) * weight.shape[0] > LARGEST_IMAGE or x.shape[-1] > LARGEST_IMAGE:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; C, and the results of one image, may be"
            f" {LARGEST_IMAGE} at most"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be ({weight.shape[0]},)")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {activation!r} given, one of {', '.join(map(repr, ACTIVATIONS))} is valid")


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    single, half = torch.float32, torch.bfloat16
    cases = [
        # N, C, K, dtype, signed, TF32
        (1, 2048, 1000, single, False, False),
        (32, 2048, 1000, single, False, False),
        (256, 2048, 1000, single, False, False),
        (256, 2048, 1000, single, True, False),
        (256, 25088, 4096, single, False, True),
        (1, 2048, 1000, half, False, False),
        (4, 2048, 1000, half, True, False),
        (32, 2048, 1000, half, False, False),
        (256, 25088, 4096, half, False, False),
        (256, 440, 1000, torch.float16, True, False),
    ]
    for images, inputs, outputs, dtype, signed, tf32 in cases:
        first, _ = _case(images, inputs, outputs, dtype, signed=signed, tf32=tf32)
        kind = str(dtype).removeprefix("torch.")
        name = f"relevance_linear products N={images} {inputs}->{outputs} {kind}"
        yield name + (" signed" if signed else "") + (" tf32" if tf32 else ""), first
    finishes = [(1, 1000, single, True, "none"), (256, 4096, half, False, "hardswish")]
    for images, outputs, dtype, reciprocal, activation in finishes:
        _, second = _case(images, 2048, outputs, dtype, reciprocal=reciprocal, activation=activation)
        name = f"relevance_linear gate N={images} {outputs} {str(dtype).removeprefix('torch.')} {activation}"
        yield name + (" reciprocal" if reciprocal else ""), second


def _case(
    images: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    *,
    signed: bool = False,
    tf32: bool = False,
    reciprocal: bool = False,
    activation: str = "none",
) -> tuple[Launch, ...]:
    x = torch.empty((images, inputs), dtype=dtype, device="meta")
    weight = torch.empty((outputs, inputs), dtype=dtype, device="meta")
    positive = weight.float()
    launches, *_ = plan(
        x,
        weight,
        weight.new_empty(outputs),
        positive,
        positive if signed else None,
        activation,
        reciprocal,
        zero_share=1e-6,
        allow_tf32=tf32,
    )
    return launches
