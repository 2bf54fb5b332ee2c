"""Activations that are applied in the epilogue of a convolution or linear layer."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "relu6": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "silu": lambda x: F.silu(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
}
_FUNCTIONAL: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}


# Their derivative is told by their result, so that autograd lets their input be overwritten.
_TOLD_BY_RESULT = ("none", "relu", "relu6")


def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation by its name; x, a tensor that nothing else reads, is overwritten where that can be."""
    if name not in _IN_PLACE:
        raise ValueError(f"activation: {name!r} given, one of {', '.join(map(repr, _IN_PLACE))} is valid")
    return _FUNCTIONAL[name](x) if x.requires_grad and name not in _TOLD_BY_RESULT else _IN_PLACE[name](x)
