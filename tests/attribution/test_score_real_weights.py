"""Score-CAM with real weights, on a mosaic of photos: on its class's photo, and the same in bfloat16.

Each map takes 1280 forward passes; the one in float32 serves both.
"""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from bench.mosaics import CLASSES, embedded_mosaics, shares
from fastcam.demo import LAST_LAYER
from tests.attribution.test_reduced_precision import correlation


@pytest.fixture(scope="module")
def embedded() -> tuple[nn.Module, Tensor]:
    model, images = embedded_mosaics()
    # One of the four, for time; bench/test_cpu.py takes whole photos.
    return model, images[:1]


@pytest.fixture(scope="module")
def maps(embedded: tuple[nn.Module, Tensor]) -> Tensor:
    return score_cam(embedded, None)


def score_cam(embedded: tuple[nn.Module, Tensor], precision: str | None) -> Tensor:
    """(1, 4, H, W): one map a class."""
    return fastcam.score_cam(*embedded, [list(CLASSES)], LAST_LAYER, normalize=False, precision=precision)


def test_it_points_at_the_class(maps: Tensor) -> None:
    assert shares(maps).mean() > 0.65


def test_bfloat16_correlates_with_float32(maps: Tensor, embedded: tuple[nn.Module, Tensor]) -> None:
    found = score_cam(embedded, "bfloat16")
    assert found.dtype == torch.float32
    assert correlation(found[0], maps[0]).min() >= 0.99
