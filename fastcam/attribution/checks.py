"""Checks of methods' own options: each raises ValueError or TypeError with what was given and what is valid."""

from collections.abc import Callable
from typing import Any

import torch


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """`value` is a whole number of at least `least`."""
    if type(value) is not int or value < least:
        valid = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name}: {value!r} given, {valid} is valid")


def check_number(name: str, value: Any, valid: str, within: Callable[[float], bool]) -> None:
    """`value` is a number that `within` holds for; `valid` says so in words."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not within(value):
        raise ValueError(f"{name}: {value!r} given, {valid} is valid")


def check_batch_size(size: Any) -> None:
    """`size` is None or a positive integer."""
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"batch_size: {size!r} given, None or a positive integer is valid")


def check_generator(generator: Any) -> None:
    """`generator` is None or a torch.Generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} given, None or a torch.Generator is valid")
