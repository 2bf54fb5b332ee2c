"""cameras: against its formula, with models captured for several sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.attribution.cameras import sizes_of
from tests.attribution.toys import TwoChannels, enlarge, gradients_of, watched
from tests.zoo import conv_bn, head, randomise


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 4, stride=2), conv_bn(4, 5, stride=2)
        self.after, self.head = nn.Conv2d(5, 6, 3, padding=1), head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.after(self.second(self.first(x)))))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return randomise(Net()).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


TARGETS = torch.tensor([[0, 1], [4, 2]])


def test_sizes() -> None:
    assert sizes_of((224, 224), 8, 924 / 224) == [(side, side) for side in range(224, 1000, 100)]
    assert sizes_of((16, 12), 3, 2.0) == [(16, 12), (24, 18), (32, 24)]
    assert sizes_of((16, 12), 1, 4.0) == [(16, 12)]


@pytest.mark.parametrize("layer", ["first", "second", "after"])
def test_it_equals_its_formula(model: nn.Module, images: Tensor, layer: str) -> None:
    a, g = 0, 0
    sides = (16, 12) if layer == "first" else (8, 6)
    for size in [(16, 12), (24, 18), (32, 24)]:
        x = F.interpolate(images, size, mode="bicubic", align_corners=False)
        activation, gradient = gradients_of(model, x, layer, TARGETS)
        a = a + enlarge(activation, sides) / 3
        g = g + torch.stack([enlarge(column, sides) for column in gradient.unbind(1)], 1) / 3
    expected = (a[:, None] * g).sum(2).relu()
    arguments = {"steps": 3, "largest": 2.0, "normalize": False, "size": "layer"}
    found = fastcam.cameras(model, images, TARGETS, layer, **arguments)
    assert (expected.amax((-2, -1)) > 0).sum() >= 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_in_numbers() -> None:
    # Bicubic to twice the width (a = -0.75), pixels (u, v) become u + (v - u) (-27, 58, 198, 283) / 256. For
    # (1, 3.56), 2.56 apart: (0.73, 1.58, 2.98, 3.83). Bilinear: 0, 1/4, 3/4 and 1 of the way: (1, 1.64, 2.92, 3.56).
    image = torch.tensor([[[[1.0, 3.56]]]], dtype=torch.float64)
    options = {"steps": 2, "largest": 2.0, "size": "layer", "normalize": False}
    found = fastcam.cameras(TwoChannels().double(), image, [[0, 1, 2]], "relu", **options)
    # A_0 = x, on average (0.865, 1.61, 2.95, 3.695); A_1 = 5 - x, (4.135, 3.39, 2.05, 1.305); A_2 = 0.
    # g = W / 2 where the mean is of 1 x 2 positions and W / 8 where of 2 x 4: on average 5/16 W.
    expected = [
        # 2 A_0 - A_1 = (-2.405, -0.17, 3.85, 6.085)
        [0, 0, 3.85 * 5 / 16, 6.085 * 5 / 16],
        # A_1 - A_0 = (3.27, 1.78, -0.9, -2.39)
        [3.27 * 5 / 16, 1.78 * 5 / 16, 0, 0],
        # 3 A_1 = (12.405, 10.17, 6.15, 3.915)
        [12.405 * 5 / 16, 10.17 * 5 / 16, 6.15 * 5 / 16, 3.915 * 5 / 16],
    ]
    # Both rows are alike, since the image has one.
    rows = torch.tensor(expected, dtype=torch.float64)[None, :, None].expand(1, 3, 2, 4)
    torch.testing.assert_close(found, rows, rtol=1e-12, atol=1e-12)


def test_one_size_is_hires_cam(model: nn.Module, images: Tensor) -> None:
    activation, g = gradients_of(model, images, "second", TARGETS)
    expected = (g * activation[:, None]).sum(2).relu()
    for options in ({"steps": 1}, {"steps": 4, "largest": 1}):
        found = fastcam.cameras(model, images, TARGETS, "second", size="layer", normalize=False, **options)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_layers_by_default_and_in_a_list(model: nn.Module, images: Tensor) -> None:
    options = {"steps": 2, "largest": 1.5}
    found = fastcam.cameras(model, images, 1, ["first", model.second, None], **options)
    for maps, layer in zip(found, ["first", "second", None], strict=True):
        torch.testing.assert_close(maps, fastcam.cameras(model, images, 1, layer, **options))


def test_passes_and_targets_are_those_of_the_image_itself(model: nn.Module, images: Tensor) -> None:
    with watched() as seen:
        both = fastcam.explain(model, images, method=["cameras", "grad_cam"], layer="second", steps=3, return_info=True)
    assert seen["forward"] == [2, 2, 2]
    assert torch.equal(both["cameras"].targets, model(images).argmax(1))
    alone = fastcam.cameras(model, images, layer="second", steps=3)
    torch.testing.assert_close(both["cameras"].maps, alone)


def test_a_model_that_takes_one_size_says_so() -> None:
    net = nn.Sequential(conv_bn(3, 4), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()
    with pytest.raises(ValueError, match=r"model cannot be captured for images \(N, 3, 16, 16\)"):
        fastcam.cameras(net, torch.randn(1, 3, 8, 8), 0, "0", steps=2, largest=2)
