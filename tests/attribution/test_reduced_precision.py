"""Reduced precision, judged on real weights and photos (random networks amplify rounding until nothing is left)."""

from pathlib import Path

import pytest
import skimage
import torch
from torch import Tensor, nn

import fastcam
from fastcam.models.loading import LoadedModel, load_model
from fastcam.photos import read_photo

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
LAST, MIDDLE, EARLY = "head.activation", "blocks.11.expand.activation", "blocks.5.expand.activation"


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="module")
def photos(embedded: LoadedModel) -> Tensor:
    folder = Path(skimage.__file__).parent / "data"
    views = [embedded.preprocessing.view(read_photo(folder / name)) for name in PHOTOS]
    return torch.cat([embedded.preprocessing.tensor(view) for view in views])


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, per map."""
    a, b = (m.flatten(1).double() - m.flatten(1).double().mean(1, keepdim=True) for m in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def agreement(model: nn.Module, photos: Tensor, method: str, layer: str, precision: str) -> float:
    maps = fastcam.explain(model, photos, method=method, layer=layer, precision=precision)
    return correlation(maps, fastcam.explain(model, photos, method=method, layer=layer)).min().item()


@pytest.mark.parametrize(
    ("method", "layer", "precision", "least"),
    [
        ("grad_cam", LAST, "float16", 0.9999),
        ("grad_cam", LAST, "bfloat16", 0.998),
        ("relevance_cam", LAST, "float16", 0.9999),
        ("relevance_cam", LAST, "bfloat16", 0.998),
        # Deeper, a difference of nearly equal sums is all that a contrastive seed leaves. The forward's rounding
        # decides (where an addition is fused it rounds once less, which moves these figures by 1e-4, early by 1e-3);
        # the signal's own would show here as 0.98 and 0.83 if gates of linear layers were bfloat16.
        ("relevance_cam", MIDDLE, "float16", 0.9995),
        ("relevance_cam", EARLY, "float16", 0.998),
        ("relevance_cam", MIDDLE, "bfloat16", 0.99),
    ],
)
def test_maps_correlate_with_float32(
    embedded: LoadedModel, photos: Tensor, method: str, layer: str, precision: str, least: float
) -> None:
    assert agreement(embedded.model, photos, method, layer, precision) >= least
