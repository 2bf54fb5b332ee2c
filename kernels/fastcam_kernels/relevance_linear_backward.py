"""The z+ rule's way back through a linear layer on the GPU, from a signal or straight from a seed at the logits.

    G_x = S W+                               for x >= 0
    G_x = [x > 0] S W+ + [x < 0] S W-        else, one launch with both weights

with S = Q G for the signals G of T targets per image, which share the gate Q. The sum over the outputs is cut into
parts where blocks of rows and inputs do not fill the device; a second launch adds the parts in a fixed order, so that
results do not depend on timing.

From a seed, S = R / Z is never written. Each seed is something at the target t and something at the other classes:

one_hot: z_t at the target. One row of W+ per target, one launch:  G_x = z_t Q_t W+_t.
clrp: m at the target, -m / (K - 1) elsewhere, m = |z_t|, or 1 for z_t = 0. This is a one-hot part and a part that
    all classes have, whose product with W+ all targets of an image share:

        G_x = (m + m / (K - 1)) Q_t W+_t - m / (K - 1) (Q W+)

    The target's own share, subtracted in the second term and added in the first, is 1 / (K - 1) of what is left of
    it: nothing cancels that does not cancel in the sum over the classes itself.
sglrp: p_t (1 - p_t) at the target, -p_t p_n elsewhere. The same rearrangement, p_t (Q_t W+_t - (p Q) W+), would
    subtract p_t from 1 where a network is sure of itself, and lose 1 - p_t. So the seed is built where S is loaded, and
    1 - p_t is the sum of the other classes' probabilities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastcam_kernels.launch import Launch, alignment, processors, require_runnable
from fastcam_kernels.relevance_linear import LARGEST_IMAGE, matrix, part_count

SIGNAL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SEEDS = ("one_hot", "clrp", "sglrp")


@dataclass(frozen=True)
class LinearBackwardConfig:
    """How the launches are cut up. `default_config` computes one from the shapes.

    Attributes:
        vector: multiply elementwise instead of by matrix products.
        rows, inputs: the block of results that one program of the product computes.
        outputs: how many terms of each sum one step takes.
        parts: the product cuts each sum into so many parts.
        elements: a program of the second launch makes so many results.
    """

    vector: bool
    rows: int
    inputs: int
    outputs: int
    parts: int
    elements: int = 1024
    num_warps: int = 4
    num_stages: int = 3


def default_config(*, rows: int, inputs: int, outputs: int, exact: bool, multiprocessors: int) -> LinearBackwardConfig:
    """Compute a configuration; `exact`: without TF32, so that no matrix unit of NVIDIA's multiplies."""
    # From two rows on, elementwise products would load each term of S once per thread instead of once.
    vector = rows == 1
    block_rows = min(64, triton.next_power_of_2(max(rows, 1)))
    num_warps = 4
    if vector:
        block_inputs, block_outputs = 128, 16
    elif exact:
        # No matrix unit, and no smallest block that it takes.
        block_inputs, block_outputs, block_rows = 64, 16, max(4, block_rows)
        num_warps = 8 if block_rows == 64 else 4
    else:
        block_inputs, block_outputs, block_rows = 64, 32, max(16, block_rows)
    block_outputs = min(block_outputs, max(1 if vector else 16, triton.next_power_of_2(outputs)))
    blocks = triton.cdiv(rows, block_rows) * triton.cdiv(inputs, block_inputs)
    return LinearBackwardConfig(
        vector=vector,
        rows=block_rows,
        inputs=block_inputs,
        outputs=block_outputs,
        parts=part_count(blocks, triton.cdiv(outputs, block_outputs), multiprocessors),
        num_warps=num_warps,
    )


@triton.jit
def load_target(targets, row, images, targets_per_image, outputs):
    """Return the target of rows t N + n, as seeds and their results are numbered, and whether it is a class."""
    target = tl.load(targets + (row % images).to(tl.int64) * targets_per_image + row // images)
    valid = (target >= 0) & (target < outputs)
    return tl.where(valid, target, 0), valid


@triton.jit
def softmax_parts(logits, target, inside, outputs, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):
    """Return the largest logit, the sum of exp(z - largest), p_t and 1 - p_t, each (1, rows).

    logits: where each row of logits starts; target, inside: of each row.
    """
    largest = tl.full((1, BLOCK_R), float("-inf"), dtype=tl.float32)
    for start in range(0, outputs, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)[:, None]
        z = tl.load(logits + k, mask=inside & (k < outputs), other=float("-inf")).to(tl.float32)
        largest = tl.maximum(largest, tl.max(z, axis=0, keep_dims=True))
    largest = tl.where(inside, largest, 0.0)
    at_target = tl.zeros((1, BLOCK_R), dtype=tl.float32)
    others = tl.zeros((1, BLOCK_R), dtype=tl.float32)
    for start in range(0, outputs, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)[:, None]
        z = tl.load(logits + k, mask=inside & (k < outputs), other=float("-inf")).to(tl.float32)
        e = tl.exp(z - largest)
        at_target += tl.sum(tl.where(k == target, e, 0.0), axis=0, keep_dims=True)
        others += tl.sum(tl.where(k == target, 0.0, e), axis=0, keep_dims=True)
    total = tl.where(inside, at_target + others, 1.0)
    return largest, total, at_target / total, others / total


@triton.jit
def load_operand(source, inside, PRECISION: tl.constexpr):
    """Load weights for a matrix product."""
    w = tl.load(source, mask=inside, other=0.0)
    if PRECISION == "tf32":
        # Rounded here, to the nearest: matrix units would cut off. It also lets them take the weights from registers,
        # where inputs may be contiguous; from shared memory, TF32 needs the outputs contiguous, and narrow loads.
        w = ((w.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)
    return w


@triton.jit
def signals_kernel(
    signal,
    gate,
    targets,
    x,
    positive,
    negative,
    g_parts,
    rows,
    gate_rows,
    targets_per_image,
    output_groups,
    input_groups,
    groups_per_part,
    SIGNAL: tl.constexpr,
    SIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNED_OUTPUTS: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The product: one part of the sums G_x = S W+ for a block of rows r and inputs c.

    SIGNAL: how S is formed: "gated", Q times `signal`; "gate", Q itself; "sglrp", Q times that seed of the logits in
    `signal`.
    """
    # Lengths come as numbers of groups: triton sees which powers of two divide them, as loads of many bits need.
    outputs = output_groups * ALIGNED_OUTPUTS
    inputs = input_groups * ALIGNED
    row_blocks = tl.cdiv(rows, BLOCK_R)
    input_blocks = tl.cdiv(inputs, BLOCK_C)
    # Programs that follow each other read the same weights.
    program = tl.program_id(0)
    r = (program % row_blocks * BLOCK_R + tl.arange(0, BLOCK_R))[None, :]
    c = (program // row_blocks % input_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    part = program // row_blocks // input_blocks
    last = tl.minimum((part + 1) * groups_per_part, output_groups) * ALIGNED_OUTPUTS

    gate_row = (r % gate_rows).to(tl.int64)
    if SIGNAL == "sglrp":
        target, valid = load_target(targets, tl.minimum(r, rows - 1), gate_rows, targets_per_image, outputs)
        logits = signal + gate_row * outputs
        largest, total, p_target, p_others = softmax_parts(logits, target, r < rows, outputs, BLOCK_R, BLOCK_K)
        # A target that is no class must not pass for one.
        p_target = tl.where(valid, p_target, float("nan"))
    if VECTOR:
        above = tl.zeros((BLOCK_K, BLOCK_R, BLOCK_C), dtype=tl.float32)
        below = tl.zeros((BLOCK_K, BLOCK_R, BLOCK_C), dtype=tl.float32)
    else:
        above = tl.zeros((BLOCK_C, BLOCK_R), dtype=tl.float32)
        below = tl.zeros((BLOCK_C, BLOCK_R), dtype=tl.float32)
    for start in range(part * groups_per_part * ALIGNED_OUTPUTS, last, BLOCK_K):
        k = (start + tl.arange(0, BLOCK_K))[:, None]
        inside = (k < last) & (r < rows)
        s = tl.load(gate + gate_row * outputs + k, mask=inside, other=0.0)
        if SIGNAL == "gated":
            s *= tl.load(signal + r.to(tl.int64) * outputs + k, mask=inside, other=0.0).to(tl.float32)
        if SIGNAL == "sglrp":
            z = tl.load(logits + k, mask=inside, other=float("-inf")).to(tl.float32)
            p = tl.exp(z - largest) / total
            s *= p_target * tl.where(k == target, p_others, -p)
        if VECTOR:
            offset = k.to(tl.int64) * inputs + c[None, :]
            w_inside = (k < last) & (c < inputs)[None, :]
            w = tl.load(positive + offset, mask=w_inside, other=0.0)
            above += s[:, :, None] * w[:, None, :]
            if SIGNED:
                w = tl.load(negative + offset, mask=w_inside, other=0.0)
                below += s[:, :, None] * w[:, None, :]
        else:
            k = (start + tl.arange(0, BLOCK_K))[None, :]
            offset = k.to(tl.int64) * inputs + c[:, None]
            w_inside = (k < last) & (c < inputs)[:, None]
            w = load_operand(positive + offset, w_inside, PRECISION)
            above = tl.dot(w, s, above, input_precision=PRECISION)
            if SIGNED:
                w = load_operand(negative + offset, w_inside, PRECISION)
                below = tl.dot(w, s, below, input_precision=PRECISION)

    if VECTOR:
        above = tl.trans(tl.sum(above, axis=0))
        below = tl.trans(tl.sum(below, axis=0))
    inside = (r < rows) & (c < inputs)[:, None]
    if SIGNED:
        value = tl.load(x + gate_row * inputs + c[:, None], mask=inside, other=0.0).to(tl.float32)
        above = by_sign(value, above, below)
    out = (part.to(tl.int64) * rows + r.to(tl.int64)) * inputs + c[:, None]
    tl.store(g_parts + out, above, mask=inside)


@triton.jit
def by_sign(x, above, below):
    """Return `above` where x > 0, `below` where x < 0, 0 where x is 0 and something where x is NaN."""
    return tl.where(x <= 0, 0.0, above) + tl.where(x >= 0, 0.0, below)


@triton.jit
def add_parts_kernel(g_parts, result, parts, groups, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Add the parts of a product in their order, elementwise."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    element = first + tl.arange(0, BLOCK)
    elements = (first * 0 + groups) * ALIGNED
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(parts):
        total += tl.load(g_parts + element, mask=element < elements, other=0.0)
        g_parts += elements
    tl.store(result + element, total, mask=element < elements)


@triton.jit
def target_kernel(
    logits,
    gate,
    targets,
    x,
    positive,
    negative,
    shared_parts,
    result,
    images,
    targets_per_image,
    outputs,
    input_groups,
    parts,
    CONTRASTIVE: tl.constexpr,
    SIGNED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """G_x of one target: its own row of W+, and its multiple of the product that an image's targets share."""
    inputs = input_groups * ALIGNED
    blocks = tl.cdiv(inputs, BLOCK)
    row = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    image = (row % images).to(tl.int64)
    target, valid = load_target(targets, row, images, targets_per_image, outputs)
    # A target that is no class must not pass for one.
    z = tl.where(valid, tl.load(logits + image * outputs + target).to(tl.float32), float("nan"))
    q = tl.load(gate + image * outputs + target)
    if CONTRASTIVE:
        z = tl.where(z == 0, 1.0, tl.abs(z))
        classes = image * 0 + outputs
        # With one class the seed is one-hot: so it is for any number here, since both terms are then the target's.
        others = z / tl.maximum(classes - 1, 1).to(tl.float32)
        at_target = z + others
    else:
        at_target = z

    inside = c < inputs
    w = tl.load(positive + target * inputs + c, mask=inside, other=0.0)
    if SIGNED:
        value = tl.load(x + image * inputs + c, mask=inside, other=0.0).to(tl.float32)
        w = by_sign(value, w, tl.load(negative + target * inputs + c, mask=inside, other=0.0))
    g = at_target * q * w
    if CONTRASTIVE:
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        source = shared_parts + image * inputs
        for _ in range(parts):
            total += tl.load(source + c, mask=inside, other=0.0)
            source += (image * 0 + images) * inputs
        g -= others * total
    tl.store(result + row.to(tl.int64) * inputs + c, g, mask=inside)


def relevance_linear_backward(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    *,
    allow_tf32: bool = False,
    config: LinearBackwardConfig | None = None,
) -> Tensor:
    """Return G_x (T N, ..., C) for the signals of T targets per image.

    Args:
        signal: (T N, ..., K), the targets outermost; float32, float16 or bfloat16.
        gate: Q, (N, ..., K), float32.
        x: (N, ..., C), needed with `negative` only.
        positive, negative: W+ and W-, (K, C), float32; negative is None where x >= 0 is known.
        allow_tf32: products may be TF32.
        config: block sizes; None computes them.

    Returns:
        float32, contiguous.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton, no x
            with `negative`.
        TypeError: a dtype that the kernel does not take.
    """
    _check(gate, x, positive, negative, {"signal": signal})
    if signal.ndim != gate.ndim or signal.shape[1:] != gate.shape[1:] or signal.shape[0] % max(gate.shape[0], 1):
        raise ValueError(
            f"signal has shape {tuple(signal.shape)}; with gate {tuple(gate.shape)} it must be"
            f" (T * {gate.shape[0]}, {', '.join(map(str, gate.shape[1:]))})"
        )
    require_runnable(gate.device, signals_kernel)
    launches, g = plan(signal, gate, x, positive, negative, allow_tf32=allow_tf32, config=config)
    for launch in launches:
        launch.run()
    return g


def relevance_linear_seeded(
    logits: Tensor,
    targets: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    seed: str,
    *,
    allow_tf32: bool = False,
    config: LinearBackwardConfig | None = None,
) -> Tensor:
    """Return G_x (T N, C), the targets outermost, of the seeds of T targets per image at the logits.

    Args:
        logits: (N, K); float32, float16 or bfloat16.
        targets: (N, T), int64. A target that is no class gives NaN.
        gate: 1 / Z, (N, K), float32.
        x: (N, C), needed with `negative` only.
        positive, negative: W+ and W-, (K, C), float32; negative is None where x >= 0 is known.
        seed: "one_hot", "clrp" or "sglrp".
        allow_tf32: products may be TF32.
        config: block sizes; None computes them.

    Returns:
        float32, contiguous.

    Raises:
        ValueError: shapes that do not fit each other, tensors on different devices or on one without Triton, no x
            with `negative`, a seed that does not exist.
        TypeError: a dtype that the kernel does not take.
    """
    _check(gate, x, positive, negative, {"logits": logits})
    if logits.ndim != 2 or logits.shape != gate.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and gate {tuple(gate.shape)}; both must be (N, K), K ="
            f" {positive.shape[0]}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"targets is {targets.dtype}; int64 is needed")
    if targets.ndim != 2 or targets.shape[0] != logits.shape[0]:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; it must be ({logits.shape[0]}, T)")
    if targets.device != gate.device:
        raise ValueError(f"gate is on {gate.device} and targets on {targets.device}: move one")
    if seed not in SEEDS:
        raise ValueError(f"seed: {seed!r} given, one of {', '.join(map(repr, SEEDS))} is valid")
    require_runnable(gate.device, signals_kernel)
    launches, g = plan_seeded(logits, targets, gate, x, positive, negative, seed, allow_tf32=allow_tf32, config=config)
    for launch in launches:
        launch.run()
    return g


def plan(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    *,
    allow_tf32: bool = False,
    config: LinearBackwardConfig | None = None,
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches that `relevance_linear_backward` would make and the tensor they write, on any device."""
    inputs = positive.shape[1]
    g = gate.new_empty((*signal.shape[:-1], inputs))
    if g.numel() == 0:
        return (), g
    return _plan_product(
        matrix(signal).contiguous(), gate, x, positive, negative, None, g, "gated", allow_tf32=allow_tf32, config=config
    ), g


def plan_seeded(
    logits: Tensor,
    targets: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    seed: str,
    *,
    allow_tf32: bool = False,
    config: LinearBackwardConfig | None = None,
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return the launches that `relevance_linear_seeded` would make and the tensor they write, on any device."""
    (images, outputs), targets_per_image, inputs = logits.shape, targets.shape[1], positive.shape[1]
    g = gate.new_empty((targets_per_image * images, inputs))
    if g.numel() == 0:
        return (), g
    logits, targets = logits.contiguous(), targets.contiguous()
    if seed == "sglrp":
        return _plan_product(
            logits, gate, x, positive, negative, targets, g, "sglrp", allow_tf32=allow_tf32, config=config
        ), g
    config = config or _config(images, positive, gate.device, allow_tf32=allow_tf32)
    contrastive = seed == "clrp"
    shared = gate.new_empty((config.parts if contrastive else 0, images, inputs))
    aligned = alignment(config.elements, inputs)
    at_targets = Launch(
        kernel=target_kernel,
        programs=targets_per_image * images * triton.cdiv(inputs, config.elements),
        arguments={
            "logits": logits,
            "gate": gate.contiguous(),
            "targets": targets,
            "x": gate if x is None else x.contiguous(),
            "positive": positive.contiguous(),
            "negative": positive if negative is None else negative.contiguous(),
            "shared_parts": shared,
            "result": g,
            "images": images,
            "targets_per_image": targets_per_image,
            "outputs": outputs,
            "input_groups": inputs // aligned,
            "parts": config.parts,
        },
        constants={
            "CONTRASTIVE": contrastive,
            "SIGNED": negative is not None,
            "ALIGNED": aligned,
            "BLOCK": config.elements,
        },
        num_warps=4,
    )
    if not contrastive:
        return (at_targets,), g
    product = _product(gate, gate, x, positive, negative, None, shared, "gate", allow_tf32=allow_tf32, config=config)
    return (product, at_targets), g


def _plan_product(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    targets: Tensor | None,
    g: Tensor,
    kind: str,
    *,
    allow_tf32: bool,
    config: LinearBackwardConfig | None,
) -> tuple[Launch, ...]:
    """The product into g; with a second launch where it is made in parts."""
    inputs = positive.shape[1]
    rows = g.numel() // inputs
    config = config or _config(rows, positive, gate.device, allow_tf32=allow_tf32)
    parts = g.view(1, rows, inputs) if config.parts == 1 else g.new_empty((config.parts, rows, inputs))
    product = _product(signal, gate, x, positive, negative, targets, parts, kind, allow_tf32=allow_tf32, config=config)
    if config.parts == 1:
        return (product,)
    aligned = alignment(config.elements, rows * inputs)
    add = Launch(
        kernel=add_parts_kernel,
        programs=triton.cdiv(rows * inputs, config.elements),
        arguments={"g_parts": parts, "result": g, "parts": config.parts, "groups": rows * inputs // aligned},
        constants={"ALIGNED": aligned, "BLOCK": config.elements},
        num_warps=4,
    )
    return product, add


def _product(
    signal: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    targets: Tensor | None,
    parts: Tensor,
    kind: str,
    *,
    allow_tf32: bool,
    config: LinearBackwardConfig,
) -> Launch:
    """The launch that writes `parts` (parts, rows, C); what its kind does not read may be any tensor."""
    outputs, inputs = positive.shape
    rows = parts.shape[1]
    aligned, aligned_outputs = alignment(config.inputs, inputs), alignment(config.outputs, outputs)
    steps_per_part = triton.cdiv(triton.cdiv(outputs, config.outputs), config.parts)
    return Launch(
        kernel=signals_kernel,
        programs=triton.cdiv(rows, config.rows) * triton.cdiv(inputs, config.inputs) * config.parts,
        arguments={
            "signal": signal,
            "gate": gate.contiguous(),
            "targets": gate if targets is None else targets,
            "x": gate if x is None else x.contiguous(),
            "positive": positive.contiguous(),
            "negative": positive if negative is None else negative.contiguous(),
            "g_parts": parts,
            "rows": rows,
            "gate_rows": gate.numel() // outputs,
            "targets_per_image": 1 if targets is None else targets.shape[1],
            "output_groups": outputs // aligned_outputs,
            "input_groups": inputs // aligned,
            "groups_per_part": steps_per_part * config.outputs // aligned_outputs,
        },
        constants={
            "SIGNAL": kind,
            "SIGNED": negative is not None,
            "VECTOR": config.vector,
            "PRECISION": "tf32" if allow_tf32 else "ieee",
            "ALIGNED_OUTPUTS": aligned_outputs,
            "ALIGNED": aligned,
            "BLOCK_R": config.rows,
            "BLOCK_K": config.outputs,
            "BLOCK_C": config.inputs,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _config(rows: int, positive: Tensor, device: torch.device, *, allow_tf32: bool) -> LinearBackwardConfig:
    return default_config(
        rows=rows,
        inputs=positive.shape[1],
        outputs=positive.shape[0],
        exact=not allow_tf32,
        multiprocessors=processors(device),
    )


def _check(
    gate: Tensor, x: Tensor | None, positive: Tensor, negative: Tensor | None, signals: dict[str, Tensor]
) -> None:
    wide = {"gate": gate, "positive": positive, "negative": negative}
    for name, tensor in {**wide, "x": x, **signals}.items():
        if tensor is None:
            continue
        if name in wide and tensor.dtype != torch.float32:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float32")
        if tensor.dtype not in SIGNAL_DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}; the kernel takes float32, float16 and bfloat16")
        if tensor.device != gate.device:
            raise ValueError(f"gate is on {gate.device} and {name} on {tensor.device}: move one")
    if positive.ndim != 2 or min(positive.shape) < 1:
        raise ValueError(f"positive has shape {tuple(positive.shape)}; (K, C) is needed, neither 0")
    outputs, inputs = positive.shape
    if negative is not None and negative.shape != positive.shape:
        raise ValueError(
            f"negative has shape {tuple(negative.shape)}; it must be that of positive, {(outputs, inputs)}"
        )
    if gate.ndim < 2 or gate.shape[-1] != outputs or min(gate.shape[1:]) < 1:
        raise ValueError(
            f"gate has shape {tuple(gate.shape)}; with positive {(outputs, inputs)} it must be (N, ..., {outputs}),"
            " no axis empty but N"
        )
    if (x is None) != (negative is None) and x is None:
        raise ValueError("x is None; with negative it is needed")
    if x is not None and negative is not None and x.shape != (*gate.shape[:-1], inputs):
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be {(*gate.shape[:-1], inputs)}")
    rows = max(tensor.numel() // max(tensor.shape[-1], 1) for tensor in (gate, *signals.values()))
    if max(rows, inputs, outputs) > LARGEST_IMAGE:
        raise ValueError(
            f"the signals are {rows} rows of {outputs}, W+ is {(outputs, inputs)}; the kernel takes"
            f" {LARGEST_IMAGE} of each at most"
        )


def shipped() -> Iterator[tuple[str, Launch]]:
    """Yield, for the ahead-of-time gate, (name, launch) for the ways in which the kernels are specialised."""
    cases = [
        # N, T, C, K, signed, TF32
        (1, 1, 2048, 1000, False, False),
        (4, 1, 2048, 1000, True, False),
        (256, 1, 25088, 4096, False, False),
        (256, 1, 440, 1000, True, False),
        (256, 5, 2048, 1000, True, True),
    ]
    for images, targets, inputs, outputs, signed, tf32 in cases:
        x, gate, positive, negative = _tensors(images, inputs, outputs, signed=signed)
        signal = gate.new_empty((targets * images, outputs))
        launches, _ = plan(signal, gate, x, positive, negative, allow_tf32=tf32)
        name = f"relevance_linear_backward N={images} T={targets} {outputs}->{inputs}"
        yield name + (" signed" if signed else "") + (" tf32" if tf32 else ""), launches[0]
        if images == 1:
            yield f"relevance_linear_backward sum of parts N=1 {outputs}->{inputs}", launches[1]
    seeded = [
        # seed, N, T, signed
        ("clrp", 256, 5, True),
        ("sglrp", 1, 1, True),
        ("sglrp", 256, 5, False),
        ("one_hot", 32, 1, False),
    ]
    for seed, images, targets, signed in seeded:
        x, gate, positive, negative = _tensors(images, 2048, 1000, signed=signed)
        chosen = torch.empty((images, targets), dtype=torch.int64, device="meta")
        launches, _ = plan_seeded(gate, chosen, gate, x, positive, negative, seed)
        name = f"relevance_linear_backward {seed} {{}} N={images} T={targets}{' signed' if signed else ''}"
        if seed != "one_hot":
            yield name.format("product"), launches[0]
        if seed != "sglrp":
            yield name.format("target"), launches[-1]


def _tensors(
    images: int, inputs: int, outputs: int, *, signed: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    gate = torch.empty((images, outputs), device="meta")
    positive = torch.empty((outputs, inputs), device="meta")
    x = torch.empty((images, inputs), dtype=torch.bfloat16, device="meta")
    return (x, gate, positive, positive) if signed else (None, gate, positive, None)
