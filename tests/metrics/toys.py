"""A small classifier that is sure of what it sees, images, and maps of every kind."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import fastcam
from tests.zoo import BasicBlock, conv_bn, head, randomise

SIZE = (12, 13)
CLASSES = 5


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv_bn(3, 4), BasicBlock(4, 6, stride=2), head(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


def build(dtype: torch.dtype = torch.float32, seed: int = 5) -> nn.Module:
    """Logits about 0 and far enough apart that masks change the scores by tens of percent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = randomise(Net()).double()
    last = model.head[-1]
    with torch.no_grad():
        logits = model(some_images(16, seed=9))
        last.weight.mul_(2 / logits.std(dim=0)[:, None])
        last.bias.copy_(-(2 * (logits - last.bias) / logits.std(dim=0)).mean(dim=0))
    return model.to(dtype)


@cache
def model_of(dtype: torch.dtype) -> nn.Module:
    """One for all tests that do not change it: capturing takes longer than the test."""
    return build(dtype)


def some_images(count: int = 3, seed: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    """Large patches of colour under a little noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = 3 * torch.randn(count, 3, 3, 3, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(patches, size, mode="bilinear") + noise


def maps_by_kind(size: tuple[int, int] = SIZE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    smooth = torch.rand(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    fake = torch.ones(size, dtype=torch.float64)
    fake[0, 0] = 0
    return {
        "smooth": nn.functional.interpolate(smooth, size, mode="bilinear")[0, 0],
        "signed": torch.randn(size, generator=generator, dtype=torch.float64) * 40,
        "ties": torch.randint(-1, 3, size, generator=generator).double(),
        "fake": fake,
        "negative": -torch.rand(size, generator=generator, dtype=torch.float64),
        "zero": torch.zeros(size, dtype=torch.float64),
        "flat": torch.full(size, 0.7, dtype=torch.float64),
        "narrow": 5 + 1e-3 * torch.rand(size, generator=generator, dtype=torch.float64),
    }


def all_maps() -> Tensor:
    return torch.stack(list(maps_by_kind().values()))


def gradient_maps(images: Tensor, targets: Tensor) -> Tensor:
    """A method of a user's own: the logits' gradient times the image, summed over the colours."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = model_of(x.dtype)(x)
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), x)
    return (gradient * x.detach()).sum(dim=1)


def explainer(dtype: torch.dtype = torch.float32) -> fastcam.Explainer:
    """A method whose maps are positive somewhere."""
    return fastcam.Explainer(model_of(dtype), method="abs_cam_init")
