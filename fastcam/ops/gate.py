"""The gate of the z+ rule: what a layer's outputs are divided by on relevance's way back."""

import torch
from torch import Tensor

# A Z below this share of the image's largest is a residue of rounding (some convolution algorithms leave one
# where the sum is exactly 0), not a denominator.
_ZERO = {torch.float64: 1e-14}
_ZERO_SINGLE = 1e-6


def signal_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of gates and relevance signals for activations of `dtype`.

    bfloat16 for float16 too: gates reach 6e7 and signals span twenty orders of magnitude on real weights.
    """
    return torch.bfloat16 if dtype.itemsize < 4 else dtype


def zero_share(dtype: torch.dtype) -> float:
    """The share of its image's largest Z up to which a Z counts as 0, for activations of `dtype`."""
    return _ZERO.get(dtype, _ZERO_SINGLE)


def gate(y: Tensor, z: Tensor, *, reciprocal: bool, dtype: torch.dtype) -> Tensor:
    """Q = y / Z, or 1 / Z, and 0 where Z is 0, formed in at least float32 and rounded to `dtype`; z is overwritten.

    y, z: (N, ...), z >= 0. Z counts as 0 up to 1e-6 (float64: 1e-14) of its largest value in the image.
    """
    wide = torch.promote_types(torch.float32, dtype)
    z = z.to(wide)
    floor = z.amax(dim=tuple(range(1, z.dim())), keepdim=True) * zero_share(wide)
    q = z.reciprocal() if reciprocal else y.to(wide) / z
    # threshold_backward(q, d, 0) is "q where d > 0, else 0" in one vectorised pass, NaN of 0 / 0 included;
    # a comparison and a select would cost five times as much on a CPU.
    torch.ops.aten.threshold_backward.grad_input(q, z.sub_(floor), 0.0, grad_input=q)
    return q.to(dtype)
