"""Checks of methods' own options: each raises ValueError or TypeError with what was given and what is valid."""

from typing import Any

import torch

from fastcam.network.arguments import check_batch_size, check_number, check_whole

__all__ = ["check_batch_size", "check_generator", "check_number", "check_whole"]


def check_generator(generator: Any) -> None:
    """`generator` is None or a torch.Generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} given, None or a torch.Generator is valid")
