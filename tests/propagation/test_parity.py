"""Parity with captum's and zennit's layer-wise relevance propagation, in float64, more than one target.

Where their definitions differ from this package's on purpose:

- zennit's z+ has biases in its denominators unless told `zero_params="bias"`; here they take no part
  (`test_zennit_z_plus_has_biases_unless_told`).
- zennit merges batch norms into convolutions or passes relevance through them, as its user chooses. Here z+ passes it
  through, epsilon and gamma merge. (Its own merging fails in recent PyTorch, zennit #234: the tests merge.)
- zennit adds 1e-6 to denominators of sums, averages and z+, captum to those of max pools too; here a denominator of 0
  sends nothing, and others are as they are. The tests set those of theirs to 1e-12 (`SMALL`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import VGG, resnet18
from torchvision.models.vgg import make_layers
from zennit.composites import EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat, LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma, ZPlus
from zennit.torchvision import ResNetBasicBlockCanonizer
from zennit.types import Convolution, Linear

import fastcam
from tests.zoo import randomise

SMALL = 1e-12
TARGETS = torch.tensor([[0, 7], [3, 9]])
LOW, HIGH = -3.0, 4.0


def small_vgg() -> nn.Module:
    """torchvision's VGG with few channels."""
    model = VGG(make_layers([8, "M", 16, "M", 16, 24, "M"]), init_weights=False)
    model.classifier = nn.Sequential(
        nn.Linear(24 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10)
    )
    return model


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = small_vgg() if name == "vgg" else resnet18(num_classes=10)
        randomise(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum and zennit hook modules
    return model.double().eval()


@pytest.fixture(scope="module", params=["vgg", "resnet18"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> nn.Module:
    return build(name)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(LOW, HIGH).double()


def merged(model: nn.Module) -> nn.Module:
    """A copy with its batch norms in its convolutions."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (before, conv), (after, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return model


def by_zennit(model: nn.Module, images: Tensor, composite: Composite) -> Tensor:
    """(N, T, C, H, W), from the logit of each target."""
    with composite.context(model) as changed:
        found = []
        for target in TARGETS.unbind(1):
            x = images.clone().requires_grad_()
            logits = changed(x)
            seed = nn.functional.one_hot(target, logits.shape[1]) * logits.detach()
            found.append(torch.autograd.grad(logits, x, seed)[0])
    return torch.stack(found, 1)


def assert_near(found: Tensor, expected: Tensor) -> None:
    difference = (found - expected).abs().flatten(2).amax(2)
    assert (difference <= 1e-4 * expected.abs().flatten(2).amax(2)).all()


def everywhere(convolution: object, linear: object) -> Callable[..., Composite]:
    layers = [(Convolution, convolution), (Linear, linear)]
    return lambda **given: LayerMapComposite(layer_map=[*layers, *layer_map_base(stabilizer=SMALL)], **given)


Z_PLUS = ZPlus(zero_params="bias", stabilizer=SMALL)
# Options here; the composite there; whether batch norms are merged there.
PEERS: dict[str, tuple[dict[str, object], Callable[..., Composite], bool]] = {
    "z+": ({"rule": "z+", "first": "z+"}, everywhere(Z_PLUS, Z_PLUS), False),
    "epsilon": ({"rule": "epsilon"}, everywhere(Epsilon(), Epsilon()), True),
    "gamma": ({"rule": "gamma"}, everywhere(Gamma(), Gamma()), True),
    "epsilon_plus": (
        {"rule": "epsilon_plus"},
        lambda **given: EpsilonPlus(stabilizer=SMALL, layer_map=[(Convolution, Z_PLUS)], **given),
        False,
    ),
    "epsilon_plus_flat": (
        {"rule": "epsilon_plus_flat"},
        lambda **given: EpsilonPlusFlat(stabilizer=SMALL, layer_map=[(Convolution, Z_PLUS)], **given),
        False,
    ),
    "epsilon_gamma_box": (
        {"rule": "epsilon_gamma_box", "pixel_range": (LOW, HIGH)},
        lambda **given: EpsilonGammaBox(low=LOW, high=HIGH, **given),
        True,
    ),
}


@pytest.mark.parametrize("rule", PEERS)
def test_zennit(rule: str, model: nn.Module, images: Tensor) -> None:
    options, composite, merges = PEERS[rule]
    peer = merged(model) if merges else copy.deepcopy(model)
    expected = by_zennit(peer, images, composite(canonizers=[ResNetBasicBlockCanonizer()]))
    assert_near(fastcam.relevance(model, images, TARGETS, "input", **options), expected)


def test_captum_epsilon_on_a_vgg(images: Tensor) -> None:
    model = build("vgg")
    expected = []
    for target in TARGETS.unbind(1):
        peer = copy.deepcopy(model)  # anew, since captum takes the rules away after a call
        for module in peer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.rule = EpsilonRule(epsilon=1e-6)  # its own default is 1e-9
            elif isinstance(module, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
                module.rule = EpsilonRule(epsilon=SMALL)
        expected.append(LRP(peer).attribute(images.clone().requires_grad_(), target=target).detach())
    assert_near(fastcam.relevance(model, images, TARGETS, "input", rule="epsilon"), torch.stack(expected, 1))


def test_zennit_z_plus_has_biases_unless_told(images: Tensor) -> None:
    model = build("vgg")
    with_biases = by_zennit(copy.deepcopy(model), images, everywhere(ZPlus(), ZPlus())())
    found = fastcam.relevance(model, images, TARGETS, "input", rule="z+", first="z+")
    difference = (found - with_biases).abs().flatten(2).amax(2) / found.abs().flatten(2).amax(2)
    assert (difference > 1e-2).all()
