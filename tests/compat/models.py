"""The models that scripts explain, and running one script under several imports."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from fastcam.models import efficientnet_lite0
from tests.zoo import Vgg, conv_bn, head, randomise


def random_images(count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def some_resnet18() -> nn.Module:
    """Random weights, logits in the thousands: gradients beside which the peers' epsilons do not tell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        net = randomise(resnet18(), negative_gammas=False)
    with torch.no_grad():
        net.fc.weight.mul_(1000)
    return net


def real_efficientnet_lite0() -> nn.Module:
    return efficientnet_lite0(pretrained=True).eval()


class FullSize(nn.Module):
    """Its one layer has the images' size: nothing is upsampled, and so nobody's way of upsampling tells."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(*conv_bn(3, 6), *conv_bn(6, 7)), head(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def full_size(scale: float = 1) -> nn.Module:
    """scale: of the logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = randomise(FullSize())
    with torch.no_grad():
        net.head[-1].weight.mul_(scale)
    return net


def some_vgg() -> nn.Module:
    """Logits far enough apart for the softmax of Score-CAM's weights to tell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        net = randomise(Vgg())
    with torch.no_grad():
        net.classifier[-1].weight.mul_(30)
    return net


def run(script: str, package: str, **given: Any) -> dict[str, Any]:
    """What a script's variables hold in the end, with `package` in its import lines and `given` to begin with."""
    names = dict(given)
    exec(dedent(script).replace("PACKAGE", package), names)
    return names
