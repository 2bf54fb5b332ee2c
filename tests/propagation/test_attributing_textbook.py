"""RAP, RSP and AGF against dense replicas in float64 (`tests.attributing`).

Chains of layers, and networks of the zoo: additions, concatenations, groups, averages, batch norms behind and in
front of convolutions, a third of their gammas negative.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests import attributing
from tests.zoo import ZOO, conv, randomise

LOW, HIGH = -4.5, 5.0
CLASSES = 4
TARGETS = torch.tensor([[0, 2], [3, 1]])


def behind_relu() -> nn.Sequential:
    return nn.Sequential(
        conv(3, 4, bias=True), nn.ReLU(),
        nn.MaxPool2d(2),
        conv(4, 5, stride=2, bias=True), nn.ReLU(),
        conv(5, 6, 1, bias=True), nn.ReLU(),
        conv(6, 4, groups=2, bias=True), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 6), nn.ReLU(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def signed() -> nn.Sequential:
    return nn.Sequential(
        conv(3, 4, bias=True), nn.Tanh(),
        conv(4, 4, bias=True), nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
        conv(4, 5, stride=2, padding=0), nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip


def dead_patches() -> nn.Sequential:
    """Depthwise convolutions of patches that are 0 throughout, with a bias and without, in front of batch norms."""
    model = nn.Sequential(
        conv(3, 4, bias=True), nn.ReLU(),
        conv(4, 4, groups=4, bias=True), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2),
        conv(4, 4, groups=4), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )  # fmt: skip
    randomise(model)
    with torch.no_grad():
        model[0].bias.sub_(0.5)
    return model


CHAINS = {"behind_relu": behind_relu, "signed": signed, "dead_patches": dead_patches}
# What rsp starts at.
LAYERS = {
    "behind_relu": ["8", "4"],
    "signed": ["6", "1"],
    "dead_patches": ["8"],
    "residual_downsample": ["block2", "block1"],
    "dense_blocks": ["layer3", "transition"],
    "preactivation": ["bn3", "conv2"],
    "inception_branches": ["averaged", "three"],
    "linear_bottleneck": ["features.3"],
    "groups_and_shuffle": ["pointwise"],
}
EVERY_NETWORK = pytest.mark.parametrize("name", LAYERS)


@cache
def network(name: str) -> tuple[nn.Module, Tensor]:
    if name in ZOO:
        return ZOO[name].shared(), ZOO[name].images()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        side = 10 if name == "signed" else 8
        return CHAINS[name]().double().eval(), torch.randn(2, 3, side, side).double()


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert expected.abs().amax((-2, -1)).min() > 0
    error = (found - expected).abs().amax((-2, -1)) / expected.abs().amax((-2, -1))
    assert error.max() <= 1e-9, error


def maps(method: str, name: str, layer: Any = None, size: str = "input") -> Any:
    model, images = network(name)
    return fastcam.explain(
        model, images, TARGETS, layer, method=method, pixel_range=(LOW, HIGH), normalize=False, size=size
    )


@EVERY_NETWORK
def test_rap(name: str) -> None:
    assert_near(maps("rap", name), attributing.rap(*network(name), TARGETS, (LOW, HIGH)))


@EVERY_NETWORK
def test_agf(name: str) -> None:
    assert_near(maps("agf", name), attributing.agf(*network(name), TARGETS, (LOW, HIGH)))


@EVERY_NETWORK
def test_rsp(name: str) -> None:
    for layer in LAYERS[name]:
        assert_near(maps("rsp", name, layer), attributing.rsp(*network(name), TARGETS, (LOW, HIGH), layer))


@pytest.mark.parametrize("method", ["rap", "agf"])
@pytest.mark.parametrize("name", ["linear_bottleneck", "groups_and_shuffle"])
def test_other_layers_asked_for_change_nothing(name: str, method: str) -> None:
    # Beside a convolution's own output its batch norm stands alone. Depthwise, many of these outputs are exactly 0.
    first, *others = [layer for layer, module in network(name)[0].named_modules() if isinstance(module, nn.Conv2d)][1:]
    alone, *beside = maps(method, name, first, "layer"), *maps(method, name, [first, *others], "layer")
    assert_near(beside[0], alone)


@pytest.mark.parametrize("name", ["vgg_biases", "residual_downsample", "squeeze_excitation", "dense_blocks"])
def test_rap_keeps_the_total(name: str) -> None:
    model, images = ZOO[name].shared(), ZOO[name].images()
    found = fastcam.rap(model, images, [[0, 1, 2]] * 2, pixel_range=(LOW, HIGH), normalize=False, return_info=True)
    lost = found.left_out["lost_relevance"]
    total, z = found.maps.sum((2, 3)), found.logits[:, :3]
    torch.testing.assert_close(total + sum(lost.values()), z, rtol=1e-9, atol=0)
    # What passes a batch norm of its own goes to no input of 0; nothing else loses.
    losing = {place for place, amount in lost.items() if amount.abs().max() > 1e-12}
    modules = dict(model.named_modules())
    assert all(isinstance(modules.get(place), nn.BatchNorm2d) for place in losing), losing
    assert bool(losing) == (name == "dense_blocks")
