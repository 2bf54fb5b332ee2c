"""z+ relevance of a linear layer: the rule of `relevance_conv` with a matrix product in its place.

Gates and signals are at least float32 here. A contrastive seed is a difference of nearly equal sums over the classes:
gates rounded to bfloat16 leave more of their rounding than of the seed (on EfficientNet-Lite0's weights, maps two
thirds down the network then correlate at 0.83 with float32's).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam.ops.activation import activate
from fastcam.ops.backend import kernels_serve
from fastcam.ops.gate import gate, zero_share
from fastcam.ops.relevance_conv import gated, split_by_sign
from fastcam.ops.seeds import FUSED_SEEDS


def relevance_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    activation: str,
    reciprocal: bool,
) -> tuple[Tensor, Tensor]:
    """Return a = activation(x W^T + b) and the gate Q = a / Z (1 / Z if `reciprocal`), Z = x W+^T.

    x: (N, ..., C). weight, positive, negative: (K, C); negative is None where x >= 0 is known.
    The last layer of a classifier takes `reciprocal`: its S = R_seed / Z must not go through R / logit,
    where a logit of 0 would lose its seed.
    """
    a = activate(F.linear(x.to(weight.dtype), weight, bias), activation).to(x.dtype)
    operand = x.to(positive.dtype)
    if negative is None:
        z = F.linear(operand, positive)
    else:
        z = F.linear(operand.clamp(min=0), positive) + F.linear(operand.clamp(max=0), negative)
    return a, gate(a, z, reciprocal=reciprocal, dtype=_wide(x.dtype))


def relevance_linear_backward_reference(
    signal: Tensor, gate: Tensor, x: Tensor | None, positive: Tensor, negative: Tensor | None
) -> Tensor:
    """Return G_x = S W+ (T N, ..., C) with S = Q G, for the signals (T N, ..., K) of T targets per image.

    gate: (N, ..., K). x: (N, ..., C), needed with `negative` only.
    """
    operand = gated(signal, gate).to(positive.dtype)
    g = (operand @ positive).to(gate.dtype)
    if negative is None:
        return g
    assert x is not None
    return split_by_sign(g, (operand @ negative).to(gate.dtype), x)


def relevance_linear_seeded_reference(
    logits: Tensor,
    targets: Tensor,
    gate: Tensor,
    x: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    seed: str,
) -> Tensor:
    """Return G_x (T N, C), the targets outermost, for the last layer's relevance R_seed: S = R_seed / Z, G_x = S W+.

    logits: (N, K). targets: (N, T), int64. gate: 1 / Z, (N, K), of `relevance_linear` with `reciprocal`. seed: "clrp",
    "sglrp" or "one_hot". x: (N, C), needed with `negative` only. The kernel never writes the seed.
    """
    if seed not in FUSED_SEEDS:
        raise ValueError(f"seed: {seed!r} given, one of {', '.join(map(repr, FUSED_SEEDS))} is valid")
    relevance = FUSED_SEEDS[seed](logits.to(gate.dtype), targets).transpose(0, 1).flatten(0, 1)
    return relevance_linear_backward_reference(relevance, gate, x, positive, negative)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


relevance_linear = torch.library.custom_op("fastcam::relevance_linear", mutates_args=())(relevance_linear_reference)


@relevance_linear.register_kernel("cuda")
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    # The kernels add up in float32: float64 is the reference's.
    if x.dtype == torch.float64 or not kernels_serve(x.device):
        return relevance_linear_reference(x, *others)
    from fastcam_kernels import relevance_linear as kernel

    weight, bias, positive, negative, activation, reciprocal = others
    operands = (x, weight, bias, positive, negative)
    share, tf32 = zero_share(torch.float32), torch.backends.cuda.matmul.allow_tf32
    return kernel.relevance_linear(*operands, activation, reciprocal, zero_share=share, allow_tf32=tf32)


@relevance_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    y = F.linear(x.to(weight.dtype), weight, bias)
    return y.to(x.dtype), torch.empty_like(y, dtype=_wide(x.dtype))


relevance_linear_backward = torch.library.custom_op("fastcam::relevance_linear_backward", mutates_args=())(
    relevance_linear_backward_reference
)
relevance_linear_backward.register_fake(relevance_linear_backward_reference)


@relevance_linear_backward.register_kernel("cuda")
def _(signal: Tensor, gate: Tensor, x: Tensor | None, positive: Tensor, negative: Tensor | None) -> Tensor:
    if not _float32(gate, positive) or not kernels_serve(gate.device):
        return relevance_linear_backward_reference(signal, gate, x, positive, negative)
    from fastcam_kernels import relevance_linear_backward as kernel

    tf32 = torch.backends.cuda.matmul.allow_tf32
    return kernel.relevance_linear_backward(signal, gate, x, positive, negative, allow_tf32=tf32)


relevance_linear_seeded = torch.library.custom_op("fastcam::relevance_linear_seeded", mutates_args=())(
    relevance_linear_seeded_reference
)


@relevance_linear_seeded.register_kernel("cuda")
def _(logits: Tensor, targets: Tensor, gate: Tensor, x: Tensor | None, positive: Tensor, *others: Any) -> Tensor:
    if not _float32(gate, positive) or logits.dtype == torch.float64 or not kernels_serve(gate.device):
        return relevance_linear_seeded_reference(logits, targets, gate, x, positive, *others)
    from fastcam_kernels import relevance_linear_backward as kernel

    negative, seed = others
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return kernel.relevance_linear_seeded(logits, targets, gate, x, positive, negative, seed, allow_tf32=tf32)


@relevance_linear_seeded.register_fake
def _(logits: Tensor, targets: Tensor, gate: Tensor, x: Tensor | None, positive: Tensor, *_: Any) -> Tensor:
    return gate.new_empty((targets.shape[0] * targets.shape[1], positive.shape[1]))


def _float32(gate: Tensor, positive: Tensor) -> bool:
    """Whether the way back is the kernels': float64 is the reference's, and 16 bits are too few for these weights."""
    return gate.dtype == positive.dtype == torch.float32
