"""Ways back through convolutions and linear layers: transposed products of gated signals."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastcam import ops
from fastcam.network.units import Unit
from fastcam.ops.convolution import convolution
from fastcam.ops.gate import signal_dtype
from fastcam.propagation.rule import Pullback, Signal


class WayBack(ABC):
    """A pullback to one operand x, in form G, that takes along what the other readers of x have sent."""

    @abstractmethod
    def __call__(self, signal: Tensor, others: Tensor | None = None) -> list[Signal]:
        """G_x (T, N, ...) for signals (T, N, ...); others: (T, N, ...), in form G, added to it."""

    @abstractmethod
    def channel_sums(self, signal: Tensor, x: Tensor, others: Tensor | None = None) -> Tensor:
        """sum_xy x G_x (T, N, C)."""


@dataclass(frozen=True, eq=False)
class Transposed(WayBack):
    """The way back through a convolution: G_x = conv_transpose(Q G, W+), and what the other readers of x sent.

    W+ stands for whatever weights a rule takes; with `negative`, W+ where x > 0 and W- where x < 0.
    x: kept where it is signed, else None.
    """

    gate: Tensor
    x: Tensor | None
    positive: Tensor
    negative: Tensor | None
    size: tuple[int, int]
    geometry: tuple[list[int], list[int], list[int], int]

    def __call__(self, signal: Tensor, others: Tensor | None = None) -> list[Signal]:
        """G_x (T, N, ...) for signals (T, N, ...); others: (T, N, ...), in form G, added to it."""
        g: Tensor = ops.relevance_conv_backward(
            signal.flatten(0, 1),
            self.gate,
            self.x,
            self.positive,
            self.negative,
            None if others is None else others.flatten(0, 1),
            list(self.size),
            *self.geometry,
        )
        return [Signal(g.view(*signal.shape[:2], *g.shape[1:]), fresh=True)]

    def channel_sums(self, signal: Tensor, x: Tensor, others: Tensor | None = None) -> Tensor:
        """sum_xy x G_x (T, N, C), where nothing else is wanted of G_x: it need not be written."""
        sums: Tensor = ops.relevance_conv_weights(
            signal.flatten(0, 1),
            self.gate,
            x,
            self.positive,
            self.negative,
            None if others is None else others.flatten(0, 1),
            *self.geometry,
        )
        return sums.view(*signal.shape[:2], -1)


@dataclass(frozen=True, eq=False)
class Spread:
    """The way back through a linear layer: G_x = (Q G) W+.

    W+ stands for whatever weights a rule takes; with `negative`, W+ where x > 0 and W- where x < 0.
    x: kept where it is signed, else None.
    """

    gate: Tensor
    x: Tensor | None
    positive: Tensor
    negative: Tensor | None

    def __call__(self, signal: Tensor) -> list[Signal]:
        """G_x (T, N, ...) for signals (T, N, ...)."""
        g: Tensor = ops.relevance_linear_backward(signal.flatten(0, 1), self.gate, self.x, self.positive, self.negative)
        return [Signal(g.view(*signal.shape[:2], *g.shape[1:]), fresh=True)]

    def from_seed(self, logits: Tensor, targets: Tensor, seed: str) -> Signal:
        """G_x (T, N, C) for the seed of that name at the targets (N, T), where the layer makes the logits."""
        g: Tensor = ops.relevance_linear_seeded(logits, targets, self.gate, self.x, self.positive, self.negative, seed)
        return Signal(g.view(targets.shape[1], *logits.shape[:1], -1), fresh=True)


@dataclass(frozen=True, eq=False)
class Chain(WayBack):
    """The sum of several ways back through one convolution: each adds to what the one before it has found."""

    parts: tuple[Transposed, ...]

    def __call__(self, signal: Tensor, others: Tensor | None = None) -> list[Signal]:
        """G_x (T, N, ...) for signals (T, N, ...); others: (T, N, ...), in form G, added to it."""
        found = others
        for part in self.parts:
            (sent,) = part(signal, found)
            found = sent.tensor
        assert found is not None
        return [Signal(found, fresh=True)]

    def channel_sums(self, signal: Tensor, x: Tensor, others: Tensor | None = None) -> Tensor:
        """sum_xy x G_x (T, N, C)."""
        first, *rest = self.parts
        sums = first.channel_sums(signal, x, others)
        return torch.stack([sums, *(part.channel_sums(signal, x) for part in rest)]).sum(dim=0)


def product(unit: Unit, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's map with other weights and no bias, in their dtype."""
    operand = x.to(weight.dtype)
    if unit.geometry is None:
        return F.linear(operand, weight)
    return convolution(operand, weight, None, None, *unit.geometry.arguments, "none")


def signed_product(unit: Unit, x: Tensor, positive: Tensor, negative: Tensor | None) -> Tensor:
    """conv(x+, positive) + conv(x-, negative); x >= 0 where `negative` is None."""
    if negative is None:
        return product(unit, x, positive)
    return product(unit, x.clamp(min=0), positive) + product(unit, x.clamp(max=0), negative)


def way_back(unit: Unit, gate: Tensor, x: Tensor, positive: Tensor, negative: Tensor | None) -> Transposed | Spread:
    """G_x = transposed product of Q G with `positive`, and with `negative` where it is given and x < 0."""
    kept = None if negative is None else x
    if unit.geometry is None:
        return Spread(gate, kept, positive, negative)
    return Transposed(gate, kept, positive, negative, (x.shape[2], x.shape[3]), unit.geometry.arguments)


def added(parts: Sequence[Transposed | Spread]) -> Pullback:
    """The sum of several ways back through one layer."""
    first, *rest = parts
    if not rest:
        return first
    convolutions = tuple(part for part in parts if isinstance(part, Transposed))
    if convolutions:
        return Chain(convolutions)

    def pullback(signal: Tensor) -> list[Signal]:
        (sent,) = first(signal)
        for part in rest:
            sent.tensor.add_(part(signal)[0].tensor)
        return [sent]

    return pullback


def gate_dtype(unit: Unit, x: Tensor) -> torch.dtype:
    """The dtype of a layer's gate: linear layers' are at least float32, see `fastcam.ops.relevance_linear`."""
    return torch.promote_types(x.dtype, torch.float32) if unit.geometry is None else signal_dtype(x.dtype)
