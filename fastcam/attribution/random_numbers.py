"""Random numbers from the user's generator, on whatever device it is, or from torch's own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers from [0, 1), of the dtype and on the device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.rand(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers of mean 0 and standard deviation 1, of the dtype and on the device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)
