"""Channel weights and the most weighted activation maps, against loops over channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.evaluation.selectivity import selectivity as by_name
from fastcam.metrics.selectivity import most_weighted, selectivity
from tests.attribution.test_model_untouched import assert_unchanged, build, snapshot, some_images
from tests.attribution.toys import layer_of


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


IMAGES = some_images(3)


def slow(activation: Tensor, weights: Tensor, top: int, size: tuple[int, int]) -> tuple[list[list[int]], Tensor]:
    """Image after image, channel after channel."""
    channels, maps = [], []
    for a, alpha in zip(activation, weights.tolist(), strict=True):
        chosen = sorted(range(len(alpha)), key=lambda k: (-alpha[k], k))[:top]
        channels.append(chosen)
        weighted = torch.stack([alpha[k] * a[k] for k in chosen])
        maps.append(F.interpolate(weighted[None], size, mode="bilinear", align_corners=False)[0])
    return channels, torch.stack(maps)


@pytest.mark.parametrize("method", ["relevance_cam", "grad_cam", "score_cam"])
def test_as_a_loop_has_it(method: str, model: nn.Module) -> None:
    before = snapshot(model)
    info = fastcam.explain(model, IMAGES, layer="stem", method=method, return_info=True)
    found = selectivity(model, IMAGES, info.weights, "stem", top=2)
    activation = layer_of(model, IMAGES, "stem")[1].detach()
    channels, maps = slow(activation, info.weights, 2, (10, 10))
    assert found.channels.tolist() == channels
    assert torch.allclose(found.maps, maps, atol=1e-5)
    assert torch.equal(found.weights, info.weights)
    assert_unchanged(model, before)
    named = by_name(model, IMAGES, layer="stem", method=method, top=2)
    for name in ("weights", "scaled", "channels", "maps"):
        assert torch.equal(getattr(named, name), getattr(found, name))


def test_all_weighted_maps_sum_to_the_methods_own(model: nn.Module) -> None:
    """Upsampling is linear; the method cuts at 0 behind the sum."""
    found = by_name(model, IMAGES, 1, "block", method="grad_cam", top=6)
    maps = fastcam.grad_cam(model, IMAGES, 1, "block", normalize=False)
    assert torch.allclose(found.maps.sum(1).clamp(min=0), maps, atol=1e-5)


def test_several_classes_per_image(model: nn.Module) -> None:
    targets = torch.tensor([[0, 1], [2, 3], [4, 0]])
    both = by_name(model, IMAGES, targets, "block", size="layer")
    assert both.maps.shape == (3, 2, 3, 5, 5)
    for t in range(2):
        one = by_name(model, IMAGES, targets[:, t], "block", size="layer")
        assert torch.equal(both.channels[:, t], one.channels)
        assert torch.allclose(both.maps[:, t], one.maps, atol=1e-6)
        assert torch.allclose(both.scaled[:, t], one.scaled, atol=1e-6)


def test_scales() -> None:
    activations = torch.ones(2, 3, 2, 2)
    found = most_weighted(activations, torch.tensor([[1.0, -4.0, 1.0], [0.0, 0.0, 0.0]]), top=2, size=(2, 2))
    assert found.scaled.tolist() == [[0.25, -1, 0.25], [0, 0, 0]]
    assert found.channels.tolist() == [[0, 2], [0, 1]]
    assert found.maps[0].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("weights", "top", "error", "match"),
    [
        (None, 3, TypeError, r"weights: NoneType given.*no weighted sum"),
        (torch.ones(3, 4, dtype=torch.long), 3, TypeError, r"weights: torch.int64"),
        (torch.ones(3, 5), 3, ValueError, r"weights: shape \(3, 5\) given, \(3, 4\) or \(3, T, 4\)"),
        (torch.ones(3, 4, 10, 10), 3, ValueError, r"weights: shape .* per position"),
        (torch.ones(3, 4), 5, ValueError, r"top: 5 given, 1 to 4"),
        (torch.ones(3, 4), 0, ValueError, r"top: 0 given"),
        (torch.ones(3, 4), 1.0, TypeError, r"top: 1.0 given"),
    ],
    ids=["none", "integers", "shape", "per_position", "too_many", "none_at_all", "float"],
)
def test_bad_weights(weights: Any, top: Any, error: type[Exception], match: str, model: nn.Module) -> None:
    with pytest.raises(error, match=match):
        selectivity(model, IMAGES, weights, "stem", top=top)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"method": "gradient"}, ValueError, r"method: 'gradient' given, .* no weighted sums"),
        ({"layer": ["stem", "block"]}, TypeError, r"layer: list given"),
        ({"method": ["grad_cam"]}, TypeError, r"method: list given"),
        ({"layer": "block", "method": "layer_cam"}, ValueError, r"per position"),
    ],
    ids=["no_weights", "layers", "methods", "per_position"],
)
def test_bad_methods(settings: dict[str, Any], error: type[Exception], match: str, model: nn.Module) -> None:
    with pytest.raises(error, match=match):
        by_name(model, IMAGES, **settings)
