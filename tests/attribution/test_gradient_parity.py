"""The gradient family against grad-cam, torchcam and captum.

Where a peer computes something else on purpose, the test writes down the peer's formula, checks that it is the peer's,
and that ours differs as stated. Models are in float64: in float32 a deep network's rounding turns a rectifier here and
there, and with it a whole region of a gradient.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_grad_cam as grad_cam
import torch
import torchcam.methods as torchcam
from captum.attr import Deconvolution, GuidedBackprop, Saliency
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

import fastcam
from fastcam.models import efficientnet_lite0
from tests.attribution.test_parity import assert_same_maps as assert_same_float32_maps
from tests.attribution.test_parity import (
    differentiable_from,
    forward_with,
    min_max,
    several_targets,
)
from tests.attribution.test_parity import random_images as random_float32_images
from tests.zoo import randomise

SIDE = 64


def random_images(count: int, side: int) -> Tensor:
    return random_float32_images(count, side).double()


def assert_same_maps(found: Tensor, expected: Tensor) -> None:
    """Both min-max, within 1e-4: some of grad-cam's steps are in float32."""
    assert_same_float32_maps(found, expected)


def balanced(model: nn.Module, norm: str, following: str, factor: float = 1e-3) -> nn.Module:
    """The same logits from a layer with small activations and, behind it, large gradients.

    The peers add 1e-6 or 1e-8 to denominators of g^2: beside these g^2 such constants are nothing.
    """
    with torch.no_grad():
        for parameter in (model.get_submodule(norm).weight, model.get_submodule(norm).bias):
            parameter.mul_(factor)
        model.get_submodule(following).weight.div_(factor)
    return model


class Block(BasicBlock):
    """Without in-place operations, of which peers' hooks see the outcome, and with a ReLU module for each use.

    captum's hooks know modules, not calls.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        return self.last(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + identity)


def resnet18() -> nn.Module:
    return randomise(ResNet(Block, [2, 2, 2, 2], num_classes=24), negative_gammas=False).double()


@pytest.fixture(scope="module")
def signed() -> nn.Module:
    """resnet18 whose layer3.0.bn1 returns values of either sign, behind which gradients differ from place to place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return differentiable_from(resnet18(), "layer3.0.bn1")


@pytest.fixture(scope="module")
def loud(signed: nn.Module) -> nn.Module:
    return balanced(copy.deepcopy(signed), "layer3.0.bn1", "layer3.0.conv2")


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    model = efficientnet_lite0(pretrained=True).double().eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return differentiable_from(model, "blocks.9")


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """vgg11's features behind biased convolutions, with a narrow classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return randomise(
            nn.Sequential(
                make_layers(cfgs["A"]), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, 32), nn.ReLU(),
                nn.Dropout(), nn.Linear(32, 24),
            )
        ).double()  # fmt: skip


# Fixture and layers: signed activations, spatially varying gradients, and the last layer.
MODELS = [
    pytest.param("signed", ["layer3.0.bn1", "layer4.1.bn2", "layer4"], id="resnet18"),
    pytest.param("lite", ["blocks.9", "head.activation"], id="efficientnet_lite0"),
]


def activation_and_gradients(model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A (N, 1, K, h, w) and g (N, T, K, h, w)."""
    scores, activation = forward_with(model, images, layer)
    columns = [scores.gather(1, column[:, None]).sum() for column in targets.T]
    gradients = [torch.autograd.grad(column, activation, retain_graph=True)[0] for column in columns]
    return activation.detach()[:, None], torch.stack(gradients, 1)


def grad_cam_maps(method: type, model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> Tensor:
    """grad-cam's steps up to its resizing, with its ReLU: (N, T, h, w)."""
    maps, module = [], model.get_submodule(layer)
    for column in targets.T.tolist():
        wanted = [ClassifierOutputTarget(target) for target in column]
        with method(model=model, target_layers=[module]) as cam:
            cam(images, wanted)
            seen = cam.activations_and_grads
            arrays = seen.activations[0].numpy(), seen.gradients[0].numpy()
            maps.append(torch.from_numpy(cam.get_cam_image(images, module, wanted, *arrays, False)).clamp(min=0))
    return torch.stack(maps, 1)


def torchcam_maps(
    method: type, model: nn.Module, images: Tensor, layer: str, targets: Tensor, **options: Any
) -> Tensor:
    """Raw maps behind torchcam's ReLU, at the layer's size: (N, T, h, w)."""
    maps = []
    for column in targets.T.tolist():
        with method(model, layer, input_shape=tuple(images.shape[1:]), **options) as extractor:
            scores = model(images)
            maps.append(extractor(column, scores, normalized=False)[0].detach())
    return torch.stack(maps, 1)


def compare(method: str, peer: Callable[..., Tensor], kind: type, model: nn.Module, layers: list[str]) -> None:
    images = random_images(2, SIDE)
    targets = several_targets(model, images)
    found = fastcam.explain(model, images, method=method, targets=targets, layer=layers, size="layer")
    for layer, maps in zip(layers, found, strict=True):
        assert_same_maps(maps, min_max(peer(kind, model, images, layer, targets)))


@pytest.mark.parametrize(("fixture", "layers"), MODELS)
@pytest.mark.parametrize(
    ("method", "peer", "kind"),
    [
        ("layer_cam", grad_cam_maps, grad_cam.LayerCAM),
        ("layer_cam", torchcam_maps, torchcam.LayerCAM),
        ("hires_cam", grad_cam_maps, grad_cam.HiResCAM),
        ("xgrad_cam", grad_cam_maps, grad_cam.XGradCAM),
        ("xgrad_cam", torchcam_maps, torchcam.XGradCAM),
    ],
    ids=["layer_cam-grad-cam", "layer_cam-torchcam", "hires_cam-grad-cam", "xgrad_cam-grad-cam", "xgrad_cam-torchcam"],
)
def test_parity(
    method: str, peer: Callable[..., Tensor], kind: type, fixture: str, layers: list[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    compare(method, peer, kind, request.getfixturevalue(fixture), layers)


def test_what_is_compared_is_signed_and_varies(signed: nn.Module, lite: nn.Module) -> None:
    images = random_images(2, SIDE)
    for model, layer in ((signed, "layer3.0.bn1"), (lite, "blocks.9")):
        a, g = activation_and_gradients(model, images, layer, several_targets(model, images))
        assert (a < 0).double().mean() > 0.2
        assert (a > 0).double().mean() > 0.2
        assert (g.std((-2, -1)) > 0.1 * g.abs().mean((-2, -1))).double().mean() > 0.75


# -- Grad-CAM++


def test_grad_cam_pp_equals_grad_cams(loud: nn.Module) -> None:
    compare("grad_cam_pp", grad_cam_maps, grad_cam.GradCAMPlusPlus, loud, ["layer3.0.bn1"])


def plus_plus_maps(
    a: Tensor, powers: tuple[Tensor, Tensor, Tensor], *, inside: bool, eps: float, drawn_on: Tensor | None = None
) -> Tensor:
    """relu(sum_k alpha_k A_k) with alpha = sum D2 / (2 D2 + S D3) relu(D1); `inside`: sum(A D3) in place of S D3."""
    d1, d2, d3 = powers
    third = (a * d3).sum((3, 4), keepdim=True) if inside else a.sum((3, 4), keepdim=True) * d3
    alpha = (d2 / (2 * d2 + third + eps)).where(d2 > 0, 0) * d1.relu()
    return (alpha.sum((3, 4), keepdim=True) * (a if drawn_on is None else drawn_on)).sum(2).relu()


def test_grad_cam_pp_differs_from_torchcams(loud: nn.Module) -> None:
    """torchcam sums A g^3 where eq. 19 has the product of sum A and g^3 (and applies no fraction at all).

    Its division works on a copy that indexing makes, so that alpha = sum g^2 relu(g).
    """
    images, layer = random_images(2, SIDE), "layer3.0.bn1"
    targets = several_targets(loud, images)
    a, g = activation_and_gradients(loud, images, layer, targets)
    peer = torchcam_maps(torchcam.GradCAMpp, loud, images, layer, targets)
    undivided = ((g**2 * g.relu()).sum((3, 4), keepdim=True) * a).sum(2).relu()
    assert_same_maps(min_max(undivided), min_max(peer))
    found = fastcam.grad_cam_pp(loud, images, targets, layer, size="layer")
    assert_same_maps(found, min_max(plus_plus_maps(a, (g, g**2, g**3), inside=False, eps=0)))
    assert (found - min_max(peer)).abs().max() > 0.05


def test_smooth_grad_cam_pp_differs_from_torchcams(loud: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcam sums A D3 in place of S D3, and takes the last sample's g for the mean of g, and its A for the map."""
    images, layer, samples = random_images(2, SIDE), "layer3.0.bn1", 3
    targets = several_targets(loud, images)
    drawn = torch.Generator().manual_seed(8)
    noise = [0.3 * torch.randn(images.shape, generator=drawn, dtype=images.dtype) for _ in range(samples)]
    a, _ = activation_and_gradients(loud, images, layer, targets)
    noisy = [activation_and_gradients(loud, images + n, layer, targets) for n in noise]
    g, last = torch.stack([gradient for _, gradient in noisy]), noisy[-1][0]
    d2, d3 = (g**2).mean(0), (g**3).mean(0)

    waiting = itertools.cycle(noise)  # the same for every target
    monkeypatch.setattr(torch.distributions.normal.Normal, "sample", lambda self, size: next(waiting))
    peer = torchcam_maps(torchcam.SmoothGradCAMpp, loud, images, layer, targets, num_samples=samples)
    assert_same_maps(min_max(plus_plus_maps(a, (g[-1], d2, d3), inside=True, eps=1e-8, drawn_on=last)), min_max(peer))

    found = fastcam.smooth_grad_cam_pp(
        loud, images, targets, layer, size="layer", samples=samples, generator=torch.Generator().manual_seed(8)
    )
    assert_same_maps(found, min_max(plus_plus_maps(a, (g.mean(0), d2, d3), inside=False, eps=0)))
    assert (found - min_max(peer)).abs().max() > 0.01


# -- at the images


@pytest.mark.parametrize("fixture", ["signed", "vgg"])
@pytest.mark.parametrize(
    ("method", "kind"),
    [("gradient", Saliency), ("guided_backprop", GuidedBackprop), ("deconvnet", Deconvolution)],
    ids=["gradient", "guided_backprop", "deconvnet"],
)
def test_parity_with_captum(method: str, kind: type, fixture: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(fixture)
    images = random_images(2, SIDE)
    targets = several_targets(model, images)
    found = fastcam.explain(model, images, method=method, targets=targets, normalize=False)
    for t, column in enumerate(targets.T):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it sets hooks
            expected = kind(model).attribute(images.clone(), target=column).abs().amax(1)
        assert expected.min() >= 0
        assert expected.max() > 0
        assert (found[:, t] - expected).abs().max() <= 1e-4 * expected.max()
        assert_same_maps(min_max(found[:, t]), min_max(expected))


def peers_full_grad(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    maps = []
    for column in targets.T.tolist():
        wanted = [ClassifierOutputTarget(target) for target in column]
        with grad_cam.FullGrad(model, []) as peer:
            maps.append(torch.from_numpy(peer(images, wanted)))
    return torch.stack(maps, 1)


def louder(model: nn.Module, factor: float = 1e8) -> nn.Module:
    """The same maps from larger logits: the peer adds 1e-7 to every channel's maximum of |b g|."""
    with torch.no_grad():
        for parameter in list(model.modules())[-1].parameters():
            parameter.mul_(factor)
    return model


def biased_in_front_of_norms() -> nn.Module:
    def stage(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]

    pool = nn.MaxPool2d(2)
    return randomise(
        nn.Sequential(
            *stage(3, 8), *stage(8, 8), pool, *stage(8, 16), pool, *stage(16, 16), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(16, 24),
        )
    ).double()  # fmt: skip


@pytest.mark.parametrize("which", ["resnet18", "vgg11"])
def test_full_grad_equals_grad_cams(which: str, vgg: nn.Module) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        # One bias per convolution, or one per batch norm: there the definitions agree. Its resizing is ours: cv2's
        # bilinear enlarging has half-pixel centres.
        model = louder(resnet18()) if which == "resnet18" else louder(randomise(vgg))
    images = random_images(2, SIDE)
    targets = several_targets(model, images)
    assert_same_maps(fastcam.full_grad(model, images, targets), peers_full_grad(model, images, targets))


def test_full_grad_differs_from_grad_cams_where_two_biases_add_up() -> None:
    """A convolution's bias and that of the batch norm behind it: the peer counts the channel's map twice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = louder(biased_in_front_of_norms())
    images = random_images(2, 32)
    targets = several_targets(model, images)
    peer = peers_full_grad(model, images, targets)
    once = fastcam.full_grad(model, images, targets, normalize=False)
    with torch.no_grad():  # fold each convolution's bias into the batch norm's mean: the same function, and no bias
        for conv, norm in zip(model, list(model)[1:], strict=False):
            if isinstance(conv, nn.Conv2d):
                norm.running_mean -= conv.bias
                conv.bias = None
    assert_same_maps(peers_full_grad(model, images, targets), min_max(once))
    assert (peer - min_max(once)).abs().max() > 0.01
