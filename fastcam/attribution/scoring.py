"""What the score methods share: the network's answers to many inputs, of which few are in memory at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastcam.network.network import Network
from fastcam.network.portions import chunks


def score_of(logits: Tensor, score: str = "probability") -> Tensor:
    """p ("probability") or y ("logit") of every class, in at least float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.softmax(dim=1) if score == "probability" else wide


def scores_of(
    answer: Callable[[slice], Tensor],
    classes: Tensor,
    dtype: torch.dtype,
    *,
    batch: int,
    score: str = "probability",
) -> Tensor:
    """Scores (P, T) at the classes (P, T) of P inputs; answer: the logits of a portion, at most `batch` of them."""
    scores = torch.empty(classes.shape, dtype=dtype, device=classes.device)
    for chunk in chunks(len(classes), batch):
        scores[chunk] = score_of(answer(chunk), score).gather(1, classes[chunk])
    return scores


def ask(
    network: Network,
    build: Callable[[slice], Tensor],
    classes: Tensor,
    *,
    batch: int,
    score: str = "probability",
) -> Tensor:
    """Scores (P, T) at the classes (P, T) of P images; build: makes a portion of them, at most `batch`."""
    wide = torch.promote_types(network.precision.forward, torch.float32)
    return scores_of(lambda chunk: network.forward(build(chunk))[0], classes, wide, batch=batch, score=score)
