"""What the activation and score methods share: options, memory, layers, targets, precisions, passes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.attribution.registry import METHODS
from fastcam.network.cache import network_for
from tests.attribution.toys import watched
from tests.zoo import conv_bn, head, randomise

# Each with options that make it quick.
QUICK: dict[str, dict[str, Any]] = {
    "eigen_cam": {},
    "fake_cam": {},
    "random_cam": {},
    "ss_cam": {"samples": 2},
    "is_cam": {"samples": 2},
    "group_cam": {"groups": 3},
    "abs_cam": {},
    "ablation_cam": {},
    "cameras": {"steps": 2, "largest": 1.5},
    "rise": {"masks": 12, "cells": 3},
    "extremal_perturbation": {"steps": 2},
}
RANDOM = {"random_cam", "ss_cam", "rise"}
EVERY_METHOD = pytest.mark.parametrize("method", QUICK)
OF_A_LAYER = pytest.mark.parametrize("method", [name for name in QUICK if METHODS[name].layer != "none"])


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer1, self.layer2 = conv_bn(channels, 4, stride=2), conv_bn(4, 6)
        self.layer3, self.head = conv_bn(6, 5, stride=2), head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(x))))


def build(channels: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = randomise(Net(channels))
        model.head[2].weight.data *= 4
        model.layer3[1].bias.data += 1
        return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build()


def some_images(channels: int = 3, count: int = 3) -> Tensor:
    return torch.randn(count, channels, 12, 10, generator=torch.Generator().manual_seed(9))


def explain(method: str, model: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Any:
    options = dict(QUICK[method])
    if method in RANDOM:
        options["generator"] = torch.Generator().manual_seed(3)
    return getattr(fastcam, method)(model, images, *args, **(options | kwargs))


# -- the contract


@EVERY_METHOD
def test_the_functions_options_are_the_methods(method: str) -> None:
    parameters = inspect.signature(getattr(fastcam, method)).parameters
    own = {name: p.default for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert own == dict(METHODS[method].options)
    assert ("layer" in parameters) == (METHODS[method].layer != "none")
    assert method in fastcam.__all__


@EVERY_METHOD
def test_several_targets(method: str, model: nn.Module) -> None:
    x = some_images()
    several = explain(method, model, x, [[0, 1], [2, 3], [4, 0]], normalize=False, return_info=True)
    assert several.maps.shape[:2] == (3, 2)
    assert several.targets.tolist() == [[0, 1], [2, 3], [4, 0]]
    torch.testing.assert_close(several.logits, model(x).detach(), rtol=1e-4, atol=1e-5)
    if method not in {"random_cam", "ss_cam"}:  # their numbers are drawn for all targets, or all images, in turn
        for t, column in enumerate(([0, 2, 4], [1, 3, 0])):
            alone = explain(method, model, x, column, normalize=False)
            torch.testing.assert_close(several.maps[:, t], alone, rtol=1e-4, atol=1e-6)


@EVERY_METHOD
def test_each_image_alone_gives_the_same(method: str, model: nn.Module) -> None:
    if method in {"random_cam", "ss_cam"}:
        pair = [explain(method, model, some_images(), 1) for _ in range(2)]
        assert torch.equal(*pair)
        return
    x = some_images()
    together = explain(method, model, x, [0, 2, 4], normalize=False)
    for n in range(3):
        alone = explain(method, model, x[n : n + 1], [[0, 2, 4][n]], normalize=False)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-6)


@OF_A_LAYER
def test_several_layers_in_one_call(method: str, model: nn.Module) -> None:
    x, layers = some_images(), ["layer2", model.layer1, None]
    found = explain(method, model, x, 1, layers, size="layer", normalize=False)
    scale = 1.5 if method == "cameras" else 1
    assert [maps.shape[1] for maps in found] == [6 * scale, 6 * scale, 3 if scale == 1 else 5]
    if method not in RANDOM:
        for maps, layer in zip(found, layers, strict=True):
            alone = explain(method, model, x, 1, layer, size="layer", normalize=False)
            torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)


@EVERY_METHOD
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_precisions(method: str, precision: str, model: nn.Module) -> None:
    exact = explain(method, model, some_images(), [[0, 1, 2]] * 3)
    found = explain(method, model, some_images(), [[0, 1, 2]] * 3, precision=precision)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    if precision in {"float32", "tf32"}:
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    elif method not in {"group_cam", "cameras"}:  # gains and hires products of a random network: small differences
        together = torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1]
        assert together > 0.9


@EVERY_METHOD
def test_a_double_model_is_explained_in_double(method: str) -> None:
    model = build().double()
    found = explain(method, model, some_images().double(), [[0, 1]] * 3, normalize=False, return_info=True)
    assert found.maps.dtype == found.logits.dtype == torch.float64
    # extremal_perturbation ranks pixels: where the score is saturated, by rounding.
    if method not in RANDOM | {"extremal_perturbation"}:
        single = explain(method, build(), some_images(), [[0, 1]] * 3, normalize=False)
        torch.testing.assert_close(found.maps.float(), single, rtol=1e-3, atol=1e-5)


@EVERY_METHOD
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_channel_count(method: str, channels: int) -> None:
    found = explain(method, build(channels), some_images(channels), 1)
    assert found.shape == (3, 12, 10)
    assert found.isfinite().all()


@EVERY_METHOD
def test_sizes_and_normalisation(method: str, model: nn.Module) -> None:
    raw = explain(method, model, some_images(), [[0, 1]] * 3, normalize=False)
    maps = explain(method, model, some_images(), [[0, 1]] * 3)
    low, high = raw.amin((-2, -1), keepdim=True), raw.amax((-2, -1), keepdim=True)
    torch.testing.assert_close(maps, torch.where(high > low, (raw - low) / (high - low), 0), rtol=1e-4, atol=1e-5)
    assert explain(method, model, some_images(), 1, size=(7, 20)).shape == (3, 7, 20)
    assert explain(method, model, some_images(), 1, size="layer", normalize_at="layer").isfinite().all()


@OF_A_LAYER
def test_a_layer_of_zeros_gives_zeros(method: str) -> None:
    model = build()
    with torch.no_grad():
        model.layer3[1].weight.zero_()
        model.layer3[1].bias.fill_(-0.5)
    maps = explain(method, model, some_images(), [[0, 1]] * 3, "layer3")
    assert torch.count_nonzero(maps) == 0


@EVERY_METHOD
def test_memory_is_the_callers(method: str, model: nn.Module) -> None:
    x = some_images()
    first = explain(method, model, x, [[0, 1]] * 3)
    kept = first.clone()
    first[0, 0].fill_(7)
    assert torch.equal(first[0, 1], kept[0, 1])
    assert torch.equal(first[1:], kept[1:])
    assert torch.equal(explain(method, model, x, [[0, 1]] * 3), kept)


# -- passes and memory


def test_methods_together_share_a_forward_and_a_backward(model: nn.Module) -> None:
    backward: list[int] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        backward.append(1)
        return grad(*args, **kwargs)

    methods = ["cam", "grad_cam", "eigen_cam", "random_cam", "ablation_cam", "group_cam", "abs_cam"]
    with pytest.MonkeyPatch.context() as patch, watched() as seen:
        patch.setattr(torch.autograd, "grad", counted)
        fastcam.explain(model, some_images(), 1, method=methods, groups=1, batch_size=1000)
    # One forward pass for all; Group-CAM's of the blurred images and of the blends, Abs-CAM's of the masked images.
    assert len(seen["forward"]) == 4
    assert seen["forward"][0] == 3
    assert len(backward) == 1


@pytest.mark.parametrize("method", ["score_cam", "ss_cam", "is_cam", "group_cam", "abs_cam", "rise"])
def test_no_more_images_in_memory_than_asked_for(method: str, model: nn.Module) -> None:
    options = QUICK.get(method, {})
    with watched() as seen:
        getattr(fastcam, method)(model, some_images(count=2), [[0, 1]] * 2, batch_size=4, **options)
    assert max(seen["forward"]) == 4
    assert len(seen["forward"]) > 3
    with watched() as by_default:
        getattr(fastcam, method)(model, some_images(count=2), [[0, 1]] * 2, **options)
    assert max(by_default["forward"]) <= network_for(model, some_images()).portion(torch.device("cpu"))


@pytest.mark.parametrize("reading", ["channel", "shared", "joint"])
def test_abs_cams_memory(reading: str, model: nn.Module) -> None:
    targets = [[0, 1]] * 2
    whole = fastcam.abs_cam(model, some_images(count=2), targets, mask=reading)
    with watched() as seen:
        parts = fastcam.abs_cam(model, some_images(count=2), targets, mask=reading, batch_size=1)
    assert seen["forward"][0] == 2
    assert set(seen["forward"][1:]) == {1}
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


# -- generators, layers


@pytest.mark.parametrize("method", sorted(RANDOM))
def test_generators(method: str, model: nn.Module) -> None:
    one, other = (explain(method, model, some_images(), 0, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert (one - other).abs().max() > 1e-6


@pytest.mark.parametrize("method", ["rise", "extremal_perturbation"])
def test_methods_of_the_image_take_no_layer(method: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"layer: {method}"):
        explain(method, model, some_images(), 0, layer="layer2")
    assert explain(method, model, some_images(), 0, size="layer").shape == (3, 12, 10)
    assert explain(method, model, some_images(), 0, return_info=True).weights is None
