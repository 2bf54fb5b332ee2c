"""The metrics once more, written from their definitions: one image, one pixel, one step at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Explain = Callable[[Tensor, Tensor], Tensor]


def probability(model: nn.Module, image: Tensor, target: int) -> float:
    with torch.no_grad():
        logits = model(image.unsqueeze(0))[0].tolist()
    largest = max(logits)
    terms = [math.exp(z - largest) for z in logits]
    return terms[target] / sum(terms)


def scaled(one: Tensor) -> Tensor:
    """The positive part, min-max scaled; a flat one is 0."""
    rows = [[max(value, 0.0) for value in row] for row in one.tolist()]
    low, high = min(map(min, rows)), max(map(max, rows))
    span = high - low
    return torch.tensor([[(v - low) / span if span > 0 else 0.0 for v in row] for row in rows], dtype=torch.float64)


def order(one: Tensor) -> list[tuple[int, int]]:
    """Pixels from the highest to the lowest, of equals the first first."""
    height, width = one.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    return sorted(pixels, key=lambda pixel: -one[pixel].item())


def mask(one: Tensor, kind: str) -> Tensor:
    if kind == "soft":
        return scaled(one)
    upper = torch.zeros(one.shape, dtype=torch.float64)
    for pixel in order(one)[: one.numel() // 2]:
        upper[pixel] = 1
    return upper if kind == "top50" else upper * scaled(one)


def masked(image: Tensor, kept: Tensor, baseline: float | list[float]) -> Tensor:
    fill = baseline if isinstance(baseline, list) else [baseline] * len(image)
    return torch.stack([x * kept + b * (1 - kept) for x, b in zip(image, fill, strict=True)])


def drop(
    model: nn.Module, image: Tensor, one: Tensor, target: int, *, kind: str = "soft", baseline: float | list[float] = 0
) -> float:
    y = probability(model, image, target)
    o = probability(model, masked(image, mask(one, kind), baseline), target)
    return 100 * max(0.0, y - o) / y


def increase(
    model: nn.Module, image: Tensor, one: Tensor, target: int, *, kind: str = "soft", baseline: float | list[float] = 0
) -> float:
    y = probability(model, image, target)
    o = probability(model, masked(image, mask(one, kind), baseline), target)
    return 100.0 if o > y else 0.0


def coherency(explain: Explain, image: Tensor, one: Tensor, target: int, *, baseline: float | list[float] = 0) -> float:
    shown = masked(image, scaled(one), baseline)
    again = scaled(explain(shown.unsqueeze(0), torch.tensor([target]))[0])
    a, b = scaled(one).flatten().tolist(), again.flatten().tolist()
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    covariance = math.fsum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    spread_a = math.sqrt(math.fsum((p - mean_a) ** 2 for p in a))
    spread_b = math.sqrt(math.fsum((q - mean_b) ** 2 for q in b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return (covariance / (spread_a * spread_b) + 1) / 2


def complexity(one: Tensor) -> float:
    return math.fsum(scaled(one).flatten().tolist()) / one.numel()


def adcc(
    model: nn.Module,
    explain: Explain,
    image: Tensor,
    one: Tensor,
    target: int,
    *,
    baseline: float | list[float] = 0,
) -> float:
    parts = [
        coherency(explain, image, one, target, baseline=baseline),
        1 - complexity(one),
        1 - drop(model, image, one, target, baseline=baseline) / 100,
    ]
    return 0.0 if min(parts) <= 0 else 3 / sum(1 / part for part in parts)


def blurred(image: Tensor, taps: int, sigma: float) -> Tensor:
    """Each pixel the weighted mean of its neighbourhood; the image goes on behind its edges as in a mirror."""
    reach = taps // 2
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    _, height, width = image.shape

    def mirrored(i: int, count: int) -> int:
        return -i if i < 0 else 2 * (count - 1) - i if i >= count else i

    result = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            rows = [mirrored(y + d, height) for d in range(-reach, reach + 1)]
            columns = [mirrored(x + d, width) for d in range(-reach, reach + 1)]
            for row, row_weight in zip(rows, weights, strict=True):
                around = image[:, row, columns] @ torch.tensor(weights, dtype=image.dtype)
                result[:, y, x] += around * row_weight / sum(weights) ** 2
    return result


def curve(
    model: nn.Module, before: Tensor, after: Tensor, one: Tensor, target: int, step: int
) -> tuple[list[float], list[float]]:
    """Scores and shares while the pixels of one image become those of another."""
    present, waiting, pixels = before.clone(), order(one), one.numel()
    scores, shares = [probability(model, present, target)], [0.0]
    while waiting:
        for pixel in waiting[:step]:
            present[:, pixel[0], pixel[1]] = after[:, pixel[0], pixel[1]]
        waiting = waiting[step:]
        scores.append(probability(model, present, target))
        shares.append(1 - len(waiting) / pixels)
    return scores, shares


def area(scores: list[float], shares: list[float]) -> float:
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(shares, shares[1:], scores, scores[1:], strict=False))


def deletion(model: nn.Module, image: Tensor, one: Tensor, target: int, *, step: int) -> float:
    return area(*curve(model, image, torch.zeros_like(image), one, target, step))


def insertion(
    model: nn.Module, image: Tensor, one: Tensor, target: int, *, step: int, taps: int = 11, sigma: float = 5.0
) -> float:
    return area(*curve(model, blurred(image, taps, sigma), image, one, target, step))


def positive_density(
    model: nn.Module, image: Tensor, one: Tensor, target: int, *, baseline: float | list[float] = 0
) -> float:
    m = scaled(one)
    size = math.fsum(m.flatten().tolist()) / m.numel()
    return probability(model, masked(image, m, baseline), target) / size if size else math.nan


def negative_density(
    model: nn.Module, image: Tensor, one: Tensor, target: int, *, baseline: float | list[float] = 0
) -> float:
    rest = 1 - scaled(one)
    return probability(model, masked(image, rest, baseline), target) / (
        math.fsum(rest.flatten().tolist()) / one.numel()
    )
