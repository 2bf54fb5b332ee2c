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


def sglrp(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax-gradient seed (Iwana 2019): p_t (1 - p_t) at the target t, -p_t p_n at the others.

    logits: (B, N), targets: (B, T) -> (B, T, N). 1 - p_t is the sum of the other probabilities: it keeps its digits
    where p_t is next to 1.
    """
    p = logits.softmax(dim=1).unsqueeze(1).expand(-1, targets.shape[1], -1)
    index = targets.unsqueeze(2)
    p_target = p.gather(2, index)
    others = p.scatter(2, index, 0.0)
    return (-p_target * others).scatter(2, index, p_target * others.sum(dim=2, keepdim=True))


def one_hot(logits: Tensor, targets: Tensor) -> Tensor:
    """One-hot seed: z_t at the target t, 0 elsewhere. logits: (B, N), targets: (B, T) -> (B, T, N)."""
    z = logits.gather(1, targets).unsqueeze(2)
    zeros = z.new_zeros(*targets.shape, logits.shape[1])
    return zeros.scatter(2, targets.unsqueeze(2), z)


def probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Seed of excitation backprop (Zhang 2018): p_t at the target, 0 elsewhere.

    logits: (B, N), targets: (B, T) -> (B, T, N).
    """
    p = logits.softmax(dim=1).gather(1, targets).unsqueeze(2)
    zeros = p.new_zeros(*targets.shape, logits.shape[1])
    return zeros.scatter(2, targets.unsqueeze(2), p)


def _magnitude(logits: Tensor, targets: Tensor) -> Tensor:
    z = logits.gather(1, targets).abs()
    return torch.where(z == 0, torch.ones_like(z), z).unsqueeze(2)


# Those that `relevance_linear_seeded` takes: its kernel makes them as it loads them.
FUSED_SEEDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"clrp": clrp, "sglrp": sglrp, "one_hot": one_hot}
SEEDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {**FUSED_SEEDS, "probability": probability}
