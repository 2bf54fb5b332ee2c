"""What users give to metrics as maps, weights and probabilities: checks that these share."""

import torch
from torch import Tensor

from fastcam.network.arguments import DeferredChecks


def check_float(name: str, given: object, valid: str, hint: str = "") -> Tensor:
    """Return what was given. Raises TypeError for what is no floating-point tensor; `valid` says what is."""
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"{name}: {kind} given, {valid} is valid{hint}")
    return given


def check_planes(name: str, given: object, checks: DeferredChecks) -> Tensor:
    """Maps (..., H, W) that come without images, in at least float32; that they are finite is checked later."""
    valid = "a float tensor (..., H, W)"
    maps = check_float(name, given, valid)
    if maps.dim() < 2 or maps.numel() == 0:
        raise ValueError(f"{name}: shape {tuple(maps.shape)} given, {valid} with at least one map is valid")
    return finite(name, maps, checks)


def finite(name: str, maps: Tensor, checks: DeferredChecks) -> Tensor:
    """Maps in at least float32, without gradient; that they are finite is checked later."""
    checks.add_finite(maps, lambda: f"{name}: NaN or infinite values; all must be finite")
    return maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
