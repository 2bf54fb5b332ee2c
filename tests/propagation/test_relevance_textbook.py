"""relevance_cam against the textbook propagation, at every layer of the zoo and on resnet18."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import resnet18

import fastcam
from tests.textbook import Propagation, propagate
from tests.zoo import ZOO, Exhibit, choose_targets, conv, head, randomise

# Largest difference as a part of the largest magnitude, per image and target.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])
EXHIBITS = pytest.mark.parametrize("name", ZOO)


@cache
def textbook(name: str) -> tuple[Tensor, Propagation]:
    model, images = ZOO[name].shared(), ZOO[name].images()
    with torch.no_grad():
        targets = choose_targets(model(images))
    return targets, propagate(model, images, targets)


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """``expected`` (N, T, ...); a target whose relevance is nothing must give nothing."""
    assert found.shape == expected.shape, what
    assert found.dtype == dtype, what
    difference = (found.double() - expected).abs().flatten(2).amax(2)
    largest = expected.abs().flatten(2).amax(2)
    worst = (difference / largest.clamp(min=torch.finfo(torch.float32).tiny)).max().item()
    assert (difference <= TOLERANCE[dtype] * largest).all(), f"{what}: {worst:.1e} of the largest magnitude"


def explain(exhibit: Exhibit, dtype: torch.dtype, targets: Tensor, layer: str | list[str]) -> fastcam.Explanation:
    return fastcam.relevance_cam(
        exhibit.shared(dtype),
        exhibit.images(dtype=dtype),
        targets,
        layer,
        size="layer",
        normalize=False,
        return_info=True,
    )


@DTYPES
@EXHIBITS
def test_every_layer_from_one_pass(name: str, dtype: torch.dtype) -> None:
    targets, expected = textbook(name)
    layers = expected.feature_maps()
    found = explain(ZOO[name], dtype, targets, layers)
    torch.testing.assert_close(found.logits.double(), expected.logits, rtol=1e-4, atol=1e-4)
    assert found.layer == layers
    for layer, maps, weights in zip(layers, found.maps, found.weights, strict=True):
        assert_near(weights, expected[layer].weights, dtype, f"{layer}, weights")
        assert_near(maps, expected[layer].map, dtype, f"{layer}, map")


@EXHIBITS
def test_every_layer_on_its_own(name: str) -> None:
    # What may be fused depends on the layers asked for. Of the larger networks some ten layers will do.
    targets, expected = textbook(name)
    model, images = ZOO[name].shared(), ZOO[name].images()
    layers = expected.feature_maps()
    for layer in layers[:: max(1, len(layers) // 10)]:
        found = fastcam.relevance_cam(model, images, targets, layer, size="layer", normalize=False, return_info=True)
        assert_near(found.weights, expected[layer].weights, torch.float64, f"{layer}, weights")
        assert_near(found.maps, expected[layer].map, torch.float64, f"{layer}, map")


def with_heavy_tails(model: nn.Module) -> nn.Module:
    """Weights to the fifth power, their spread kept.

    With normal weights every class leads to nearly the same units, so that at layer1 of a random resnet18 the
    contrastive seed cancels to 1/60000: less than float32 resolves to 1e-4. A few strong weights keep classes apart.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spread = module.weight.std()
                module.weight.pow_(5).mul_(spread / module.weight.std())
    return model


@DTYPES
def test_resnet18(dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        # Rounded to float32: both precisions explain the same network.
        reference = with_heavy_tails(randomise(resnet18(num_classes=20))).double()
        images = torch.randn(2, 3, 64, 64).double()
    targets = choose_targets(reference(images).detach())
    expected = propagate(reference, images, targets, dense=False)
    layers = ["layer1", "layer2", "layer3", "layer4"]
    found = fastcam.relevance_cam(
        reference.to(dtype),
        images.to(dtype),
        targets,
        layers,
        size="layer",
        normalize=False,
        return_info=True,
    )
    for layer, maps, weights in zip(layers, found.maps, found.weights, strict=True):
        assert_near(weights, expected[layer].weights, dtype, f"{layer}, weights")
        assert_near(maps, expected[layer].map, dtype, f"{layer}, map")


class WithoutBiases(nn.Module):
    """No bias, no batch norm: a positive output has a positive denominator, so nothing is lost on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 4), conv(4, 4, stride=2), conv(4, 4)
        self.wide, self.pool = conv(4, 4, 1, stride=2), nn.MaxPool2d(2)
        self.last, self.head = conv(8, 6), head(6)
        self.head[-1] = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.second(x).relu() + self.wide(x).relu()
        return self.head(self.last(torch.cat([self.pool(x), self.pool(self.third(x).relu())], 1)).relu())


LAYERS = ["first", "second", "wide", "third", "pool@0", "pool@1", "last"]
# Between the additions and concatenations, where one tensor or a pair of tensors cuts the network in two.
CUTS = [["first"], ["second", "wide"], ["pool@0", "pool@1"], ["last"]]


@pytest.fixture(scope="module")
def without_biases() -> WithoutBiases:
    return WithoutBiases().double().eval()


def redraw(model: WithoutBiases, seed: int) -> None:
    """New weights in place, which the next call must notice too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # One live feature that speaks for each class: no denominator of the last layer is dead.
        model.last.weight[0].abs_()
        model.head[-1].weight[:, 0].abs_()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_contrastive_relevance_sums_to_zero(without_biases: WithoutBiases, seed: int) -> None:
    redraw(without_biases, seed)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)).double()
    targets = torch.tensor([[0, 1], [4, 2]])
    found = fastcam.relevance_cam(without_biases, images, targets, LAYERS, return_info=True)
    weights = dict(zip(LAYERS, found.weights, strict=True))
    z = found.logits.gather(1, targets).abs()
    for cut in CUTS:
        total = sum(weights[layer].sum(-1) for layer in cut)
        assert sum(weights[layer].abs().sum() for layer in cut) > 0
        assert (total.abs() <= 1e-12 * z).all(), cut


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_one_hot_relevance_is_conserved(without_biases: WithoutBiases, seed: int) -> None:
    redraw(without_biases, seed)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)).double()
    targets = torch.tensor([[0, 1], [4, 2]])
    relevance = fastcam.relevance(without_biases, images, targets, LAYERS, seed="one_hot")
    at = dict(zip(LAYERS, relevance, strict=True))
    with torch.no_grad():
        z = without_biases(images).gather(1, targets)
    for cut in CUTS:
        torch.testing.assert_close(sum(at[layer].sum((2, 3, 4)) for layer in cut), z, rtol=1e-11, atol=1e-11)
