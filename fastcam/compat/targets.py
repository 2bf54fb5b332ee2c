"""Targets that are functions of a model's output for one image, such as `lambda output: output[281] - output[285]`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# The logits (classes,) of one image -> a tensor of one number
Target = Callable[[Tensor], Any]


class Columns:
    """Logits (P, classes) to values (P, targets): every target's value for every row.

    Once each target has a column it is explained as a class is, without a method's knowing whose masked or noisy
    version a row is. A target given for several images has one column. `of_images`: the column of each image's target.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = list({id(target): target for target in targets}.values())
        places = {id(target): column for column, target in enumerate(self._targets)}
        self.of_images = [places[id(target)] for target in targets]

    def __call__(self, logits: Tensor) -> Tensor:
        """Raises TypeError, ValueError where a target returns anything but one number that depends on the logits."""
        return torch.stack([torch.stack([_value(target, row) for target in self._targets]) for row in logits])


def one_per_image(targets: object, images: int) -> list[Target]:
    """The targets of a call. Raises TypeError for anything but a list of callables, ValueError for another length."""
    if not isinstance(targets, list | tuple):
        raise TypeError(f"targets: {type(targets).__name__} given, a list of callables, one per image, is valid")
    if len(targets) != images:
        raise ValueError(f"targets: {len(targets)} given for {images} image(s); one per image is valid")
    for target in targets:
        if not callable(target):
            raise TypeError(
                f"targets: an object of {type(target).__name__} given, callables from the output of one image to a "
                "number are valid"
            )
    return list(targets)


def _value(target: Target, row: Tensor) -> Tensor:
    value = target(row)
    if not isinstance(value, Tensor):
        raise TypeError(f"targets: {_name(target)} returned {type(value).__name__}, a tensor of one number is valid")
    if value.numel() != 1:
        raise ValueError(
            f"targets: {_name(target)} returned a tensor of shape {tuple(value.shape)} for the output "
            f"{tuple(row.shape)} of one image, one number is valid"
        )
    if row.requires_grad and not value.requires_grad:
        raise ValueError(f"targets: {_name(target)} returned a value without gradient; compute it from the output")
    return value.reshape(())


def _name(target: Target) -> str:
    return str(getattr(target, "__name__", type(target).__name__))
