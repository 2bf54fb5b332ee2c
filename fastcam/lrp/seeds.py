"""Seeds: the relevance that a propagation starts from, at the logits."""

from collections.abc import Callable

import torch
from torch import Tensor


def clrp(logits: Tensor, targets: Tensor) -> Tensor:
    """Contrastive seed (relevance-cam eq. 7): |z_t| at the target t, -|z_t| / (N - 1) at the N - 1 others.

    logits: (B, N), targets: (B, T) -> (B, T, N). The magnitude is taken since a negative z_t would turn the
    explanation upside down, and 1 where z_t = 0. With one class the seed is one-hot.
    """
    classes = logits.shape[1]
    z = _magnitude(logits, targets)
    if classes == 1:
        return z
    others = (-z / (classes - 1)).expand(-1, -1, classes)
    return others.scatter(2, targets.unsqueeze(2), z)


def one_hot(logits: Tensor, targets: Tensor) -> Tensor:
    """One-hot seed: z_t at the target t, 0 elsewhere. logits: (B, N), targets: (B, T) -> (B, T, N)."""
    z = logits.gather(1, targets).unsqueeze(2)
    zeros = z.new_zeros(*targets.shape, logits.shape[1])
    return zeros.scatter(2, targets.unsqueeze(2), z)


def _magnitude(logits: Tensor, targets: Tensor) -> Tensor:
    z = logits.gather(1, targets).abs()
    return torch.where(z == 0, torch.ones_like(z), z).unsqueeze(2)


SEEDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"clrp": clrp, "one_hot": one_hot}
