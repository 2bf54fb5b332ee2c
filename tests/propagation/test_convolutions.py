"""The convolutions that there are to tune and to measure."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from fastcam.network.units import Geometry
from fastcam.propagation.convolutions import Convolution, convolutions
from tests.zoo import ZOO


def test_those_behind_a_layer_with_their_counts() -> None:
    model = resnet18(weights=None).eval()
    found = convolutions(model, torch.zeros(2, 3, 64, 64), "layer3")
    same = Geometry((1, 1), (1, 1), (1, 1), 1)
    down = Convolution(256, 512, (4, 4), (3, 3), Geometry((2, 2), (1, 1), (1, 1), 1), "relu", signed=False)
    shortcut = Convolution(256, 512, (4, 4), (1, 1), Geometry((2, 2), (0, 0), (1, 1), 1), "none", signed=False)
    first = Convolution(512, 512, (2, 2), (3, 3), same, "relu", signed=False)
    plain = Convolution(512, 512, (2, 2), (3, 3), same, "none", signed=False)
    assert found == {down: 1, shortcut: 1, first: 1, plain: 2}


def test_without_a_layer_all_of_them() -> None:
    model = resnet18(weights=None).eval()
    found = convolutions(model, torch.zeros(2, 3, 64, 64))
    assert sum(found.values()) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    (stem,) = [conv for conv in found if conv.channels == 3]
    assert stem.signed


@pytest.mark.parametrize("name", ["odd_sizes", "same_padding", "groups_and_shuffle", "linear_bottleneck"])
def test_sizes_and_signs_are_those_of_the_network(name: str) -> None:
    model, images = ZOO[name].shared(torch.float32), ZOO[name].images(dtype=torch.float32)
    seen = []

    def remember(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append((module.in_channels, module.out_channels, tuple(output.shape[2:]), bool((inputs[0] < 0).any())))

    hooks = [m.register_forward_hook(remember) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    found = convolutions(model, images, next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)))
    described = {(c.channels, c.outputs, c.output_size, c.signed) for c in found}
    # All but the first, whose output is the layer; negative values prove that an input is signed.
    assert {d[:3] for d in described} <= {s[:3] for s in seen}
    assert {s for s in seen[1:] if s[3]} <= described


def test_work_is_counted_as_the_loops_would() -> None:
    conv = Convolution(6, 4, (5, 7), (3, 2), Geometry((2, 1), (1, 0), (1, 1), 2), "relu", signed=True)
    y = F.conv2d(torch.zeros(3, 6, 5, 7), torch.zeros(4, 3, 3, 2), None, (2, 1), (1, 0), 1, 2)
    assert conv.output_size == tuple(y.shape[2:])
    assert conv.products(3) == y.numel() * 3 * 3 * 2
    x, w, q = 3 * 6 * 5 * 7, 4 * 3 * 3 * 2, y.numel()
    assert conv.forward_bytes(3, 2) == 2 * (x + 2 * w + 2 * q)
    assert conv.backward_bytes(3, 2) == 2 * (2 * q + 2 * w + 2 * x)


@pytest.mark.parametrize(
    ("size", "kernel", "geometry"),
    [
        pytest.param((8, 7), (1, 1), Geometry((2, 2), (0, 0), (1, 1), 1), id="1x1-stride-2"),
        pytest.param((9, 8), (3, 2), Geometry((3, 1), (1, 0), (1, 2), 1), id="dilated"),
        pytest.param((8, 8), (2, 2), Geometry((3, 3), (0, 1), (1, 1), 1), id="gaps"),
    ],
)
def test_only_what_an_output_depends_on_is_read(
    size: tuple[int, int], kernel: tuple[int, int], geometry: Geometry
) -> None:
    conv = Convolution(1, 1, size, kernel, geometry, "relu", signed=True)
    x = torch.ones(1, 1, *size, requires_grad=True)
    y = F.conv2d(x, torch.ones(1, 1, *kernel), None, *geometry.arguments)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    w, read = kernel[0] * kernel[1], int((gradient != 0).sum())
    assert conv.forward_bytes(1, 2) == 2 * (read + 2 * w + 2 * y.numel())
    assert conv.backward_bytes(1, 2) == 2 * (2 * y.numel() + 2 * w + read + x.numel())
