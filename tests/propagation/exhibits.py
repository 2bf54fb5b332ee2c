"""Networks of the zoo with what propagation wants: three targets of each image, ranges of pixels."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from tests.zoo import ZOO, choose_targets


@cache
def exhibit(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64, its images, and three targets of each."""
    model, images = ZOO[name].shared(), ZOO[name].images()
    return model, images, choose_targets(model(images).detach())


def pixel_range(images: Tensor) -> tuple[list[float], list[float]]:
    """Per channel, a bit more than the images need."""
    return (images.amin((0, 2, 3)) - 0.25).tolist(), (images.amax((0, 2, 3)) + 0.5).tolist()
