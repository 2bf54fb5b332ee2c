"""Activations in the epilogues of kernels."""

import triton
import triton.language as tl


@triton.jit
def activate(c, ACTIVATION: tl.constexpr):
    """Apply an activation by its name to float32 numbers; a NaN stays one."""
    if ACTIVATION == "relu":
        c = tl.where(c < 0, 0.0, c)
    elif ACTIVATION == "relu6":
        c = tl.where(c < 0, 0.0, tl.where(c > 6, 6.0, c))
    elif ACTIVATION == "silu":
        c = c / (1.0 + tl.exp(-c))
    elif ACTIVATION == "hardswish":
        c = c * tl.where(c < -3, 0.0, tl.where(c > 3, 6.0, c + 3.0)) / 6.0
    return c
