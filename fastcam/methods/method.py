"""What every CAM method is: channel weights for activations, and whether the map is clipped at 0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastcam.network.layers import Layer
from fastcam.network.network import Network

# logits (N, classes) -> targets (N, T)
Resolve = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a method finds: per layer, activations A (N, K, h, w) and channel weights alpha (N, T, K)."""

    logits: Tensor
    targets: Tensor
    activations: list[Tensor]
    weights: list[Tensor]
    left_out: Mapping[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A CAM method: map = sum_k alpha_k A_k, upsampled bilinearly, clipped at 0 if `relu`.

    options: the method's own keyword arguments and their defaults.
    check: raises ValueError for options that are not valid.
    """

    name: str
    relu: bool
    find: Callable[[Network, Tensor, Sequence[Layer], Resolve, Mapping[str, Any]], Evidence]
    options: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], None] = lambda options: None
