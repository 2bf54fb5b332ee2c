"""The rules of layer-wise relevance propagation as fractions: R_i = sum_j F_ij R_j, every F_ij written down.

One image's input x (I,), the layer's map as a dense matrix w (I, O) with its bias b (O,); `wired` (I, O) is 1 where an
input is connected to an output (a weight may be 0 there). `low` and `high` (I,) are the input's least and largest
values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Map:
    x: Tensor
    w: Tensor
    b: Tensor
    wired: Tensor
    low: Tensor
    high: Tensor

    @property
    def z(self) -> Tensor:
        return self.x[:, None] * self.w

    @property
    def total(self) -> Tensor:
        return self.z.sum(0) + self.b


Share = Callable[[Map], Tensor]


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where b is 0."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def normalised(z: Tensor) -> Tensor:
    return quotient(z, z.sum(0, keepdim=True).expand_as(z))


def away_from_zero(total: Tensor, epsilon: float) -> Tensor:
    return torch.where(total < 0, total - epsilon, total + epsilon)


def z_plus(m: Map) -> Tensor:
    return normalised(m.z.clamp(min=0))


def negated(m: Map) -> Tensor:
    return normalised((-m.z).clamp(min=0))


def contrastive(m: Map) -> Tensor:
    return z_plus(m) - negated(m)


def alpha_beta(alpha: float, beta: float) -> Share:
    return lambda m: alpha * normalised(m.z.clamp(min=0)) - beta * normalised(m.z.clamp(max=0))


def epsilon(value: float = 1e-6) -> Share:
    return lambda m: m.z / away_from_zero(m.total, value)


def gamma(value: float = 0.25, stabiliser: float = 1e-6) -> Share:
    def share(m: Map) -> Tensor:
        raised = m.z + value * m.z.clamp(min=0)
        lowered = m.z + value * m.z.clamp(max=0)
        above = raised.sum(0) + m.b + value * m.b.clamp(min=0)
        below = lowered.sum(0) + m.b + value * m.b.clamp(max=0)
        found = torch.where(m.total > 0, raised / away_from_zero(above, stabiliser), 0.0)
        return torch.where(m.total < 0, lowered / away_from_zero(below, stabiliser), found)

    return share


def box(m: Map) -> Tensor:
    z = m.z - m.low[:, None] * m.w.clamp(min=0) - m.high[:, None] * m.w.clamp(max=0)
    return normalised(z)


def flat(m: Map) -> Tensor:
    return normalised(m.wired)


def w_square(m: Map) -> Tensor:
    return normalised(m.w**2)


@dataclass(frozen=True)
class Rules:
    """Shares by kind of layer.

    first, classifier: of the layers with no other layer before or behind them. folds: whether a batch norm that alone
    reads a convolution is made part of it; else relevance passes it. norm: epsilon of a batch norm on its own; None:
    relevance passes, where the input is not 0.
    """

    convolution: Share = z_plus
    linear: Share = z_plus
    first: Share | None = None
    classifier: Share | None = None
    folds: bool = False
    norm: float | None = None
