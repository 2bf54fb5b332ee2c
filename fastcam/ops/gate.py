"""The gate of the z+ rule: what a layer's outputs are divided by on relevance's way back."""

import torch
from torch import Tensor

# A Z below this share of the image's largest is a residue of rounding (some convolution algorithms leave one
# where the sum is exactly 0), not a denominator.
_ZERO = {torch.float64: 1e-14}
_ZERO_SINGLE = 1e-6
# Integers of so many bytes.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def signal_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of gates and relevance signals for activations of `dtype`.

    bfloat16 for float16 too: gates reach 6e7 and signals span twenty orders of magnitude on real weights.
    """
    return torch.bfloat16 if dtype.itemsize < 4 else dtype


def zero_share(dtype: torch.dtype) -> float:
    """The share of an image's largest Z up to which a Z of `dtype` counts as 0."""
    return _ZERO.get(dtype, _ZERO_SINGLE)


def gate(y: Tensor, z: Tensor, *, reciprocal: bool, dtype: torch.dtype) -> Tensor:
    """Q = y / Z, or 1 / Z, and 0 where Z is 0, formed in at least float32 and rounded to `dtype`.

    y, z: (N, ...), z >= 0. Z counts as 0 up to 1e-6 (float64: 1e-14) of its largest value in the image. z is
    overwritten, and its memory may be the result's.
    """
    wide = torch.promote_types(torch.float32, dtype)
    if z.dtype == y.dtype == dtype and _nowhere_zero(z, zero_share(wide)):
        return z.reciprocal_() if reciprocal else torch.div(y, z, out=z)
    z = z.to(wide)
    largest = z.amax(dim=tuple(range(1, z.dim())), keepdim=True)
    # Beside a NaN no threshold holds, and nothing is hidden: a share of it would make all of the image NaN.
    floor = (largest * zero_share(wide)).nan_to_num_(nan=-torch.finfo(wide).tiny)
    # Z = inf where it counts as 0, since y / inf = 0. Four passes over memory that the caches hold; a comparison and a
    # select would cost five times as much on a CPU, and new memory as much as all of them. Z - floor + floor is Z but
    # for its last bit.
    torch.threshold_(z.sub_(floor), 0.0, torch.inf).add_(floor)
    q = z.reciprocal_() if reciprocal else torch.div(y.to(wide), z, out=z)
    return q.to(dtype)


def _nowhere_zero(z: Tensor, share: float) -> bool:
    """Whether no Z counts as 0, as where activations are dense. Only a CPU is asked: on a device that would wait.

    Numbers >= 0 are ordered as the integers of the same bits, whose extremes a CPU finds in a fraction of the time.
    NaN and negative numbers come out as one extreme or the other, and nothing is larger than they.
    """
    if not z.is_cpu or z.numel() == 0:
        return False
    wide = torch.promote_types(torch.float32, z.dtype)
    bits, places = z.view(_BITS[z.itemsize]), tuple(range(1, z.dim()))
    least, largest = (extreme(dim=places).view(z.dtype).to(wide) for extreme in (bits.amin, bits.amax))
    return bool((least > largest * share).all())
