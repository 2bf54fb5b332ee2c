"""eigen_cam, random_cam and fake_cam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam import EigenCAM, RandomCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import fastcam
from tests.attribution.toys import TwoChannels, layer_of, min_max, two_by_two, watched
from tests.zoo import conv_bn, head, randomise


class Wide(nn.Module):
    """`many`: fewer positions than channels (9 of 20); `few`: more (36 of 5), signed."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many, self.head = nn.Conv2d(3, 5, 3, stride=2, padding=1), conv_bn(5, 20, stride=2), head(20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.many(self.few(x)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return randomise(Wide())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))


# -- eigen_cam


@pytest.mark.parametrize("layer", ["few", "many"])
def test_eigen_cam_equals_grad_cams_up_to_the_sign(model: nn.Module, images: Tensor, layer: str) -> None:
    """grad-cam leaves the sign to its SVD; here the largest magnitude is positive."""
    activation = layer_of(model, images, layer)[1].detach()
    with EigenCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        theirs = torch.from_numpy(cam.get_cam_image(images, None, None, activation.numpy(), None, False))
    ours = fastcam.eigen_cam(model, images, layer=layer, size="layer", normalize=False)
    largest = theirs.flatten(1).gather(1, theirs.flatten(1).abs().argmax(1, keepdim=True))[:, :, None]
    torch.testing.assert_close(ours, (theirs * largest.sign()).relu(), rtol=1e-4, atol=1e-5)
    assert (largest < 0).any()  # the difference shows


def test_eigen_cam_does_not_depend_on_the_class(model: nn.Module, images: Tensor) -> None:
    maps = fastcam.eigen_cam(model, images, [[0, 4]] * 4, "many")
    assert torch.equal(maps[:, 0], maps[:, 1])
    assert torch.equal(maps[:, 0], fastcam.eigen_cam(model, images, 2, "many"))


def test_eigen_cam_by_hand() -> None:
    # A0 = x, A1 = 5 - x: centred c = x - 2.5 and -c. The first component is (1, -1, 0) / sqrt 2, the projections
    # sqrt 2 c = sqrt 2 [[-1.5, -0.5], [0.5, 1.5]]. Ties of magnitude are left as they are: one sign or the other.
    found = fastcam.eigen_cam(TwoChannels().double().eval(), two_by_two(), 0, "relu", size="layer", normalize=False)
    half = 2**0.5 * torch.tensor([[0.0, 0], [0.5, 1.5]], dtype=torch.float64)
    assert any(torch.allclose(found[0], side, atol=1e-12) for side in (half, half.flip(0, 1)))


def test_eigen_cam_of_a_lone_peak_is_positive() -> None:
    # c has one place far off the mean: it is positive whether the activation is high or low there.
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), head(1)).double().eval()
    x = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    x[0, 0, 1, 1], x[1, 0, 1, 1] = 9, -9
    nn.init.ones_(model[0].weight)
    found = fastcam.eigen_cam(model, x, 0, "0", size="layer", normalize=False)
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    expected[:, 1, 1] = 8
    torch.testing.assert_close(found, expected)


def test_eigen_cam_of_a_layer_without_structure_is_zero(model: nn.Module) -> None:
    flat = torch.full((1, 3, 12, 12), 0.1)
    net = nn.Sequential(nn.Conv2d(3, 7, 1), head(7)).eval()
    assert torch.count_nonzero(fastcam.eigen_cam(net, flat, 0, "0")) == 0
    assert torch.count_nonzero(fastcam.eigen_cam(net, torch.zeros(1, 3, 4, 4), 0, "0")) == 0


# -- random_cam


def test_random_cam_equals_grad_cams_with_its_numbers(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fastcam.random_cam(model, images, 1, "few", size="layer", return_info=True, normalize=False)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: found.weights.numpy().reshape(size))
    with RandomCAM(model=model, target_layers=[model.few]) as cam:
        targets = [ClassifierOutputTarget(1)] * 4
        activation = layer_of(model, images, "few")[1].detach().numpy()
        theirs = cam.get_cam_image(images, model.few, targets, activation, activation)
    torch.testing.assert_close(found.maps, torch.from_numpy(theirs).relu(), rtol=1e-4, atol=1e-5)


def test_random_cam_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Numbers from [0, 1) become weights from [-1, 1): (0.5, -0.5, 0.8) and (-0.5, 0.75, -1).
    drawn = torch.tensor([[[0.75, 0.25, 0.9], [0.25, 0.875, 0.0]]], dtype=torch.float64)
    monkeypatch.setattr("fastcam.attribution.activation.uniform", lambda *_: drawn.clone())
    found = fastcam.random_cam(TwoChannels().double(), two_by_two(), [[0, 1]], "relu", normalize=False)
    # A_0 = [[1, 2], [3, 4]], A_1 = [[4, 3], [2, 1]], A_2 = 0, and what is below 0 is cut:
    # 0.5 A_0 - 0.5 A_1 = [[-1.5, -0.5], [0.5, 1.5]]
    # -0.5 A_0 + 0.75 A_1 = [[-0.5 + 3, -1 + 2.25], [-1.5 + 1.5, -2 + 0.75]] = [[2.5, 1.25], [0, -1.25]]
    expected = torch.tensor([[[[0.0, 0.0], [0.5, 1.5]], [[2.5, 1.25], [0.0, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_random_cams_numbers(model: nn.Module, images: Tensor) -> None:
    def weights(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        arguments = {"layer": "many", "generator": generator, "return_info": True}
        return fastcam.random_cam(model, images.repeat(25, 1, 1, 1), [[0, 1, 2]] * 100, **arguments).weights

    drawn = weights(1)
    assert drawn.shape == (100, 3, 20)
    assert torch.equal(drawn, weights(1))
    assert not torch.equal(drawn, weights(2))
    assert not torch.equal(weights(None), weights(None))
    assert drawn.min() >= -1
    assert drawn.max() < 1
    # 6000 numbers: mean 0 within 5 standard errors of 0.0075, variance 1/3 of one of 0.0038.
    assert drawn.mean().abs() < 0.04
    assert (drawn.var() - 1 / 3).abs() < 0.02
    assert drawn.flatten().unique().numel() > 5900


# -- fake_cam


def test_fake_cam_is_one_but_for_a_corner(model: nn.Module, images: Tensor) -> None:
    expected = torch.ones(4, 2, 12, 12)
    expected[:, :, 0, 0] = 0
    for common in ({}, {"normalize": False}, {"size": "layer"}):
        assert torch.equal(fastcam.fake_cam(model, images, [[0, 1]] * 4, **common), expected)
    enlarged = fastcam.fake_cam(model, images, 0, size=(24, 24), normalize=False)
    assert enlarged.shape == (4, 24, 24)
    assert enlarged[:, 0, 0].tolist() == [0] * 4
    assert enlarged[:, 3:, 3:].min() == 1


def test_fake_cam_takes_no_layer(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="layer: fake_cam"):
        fastcam.fake_cam(model, images, 0, layer="many")
    assert fastcam.fake_cam(model, images, 0, return_info=True).layer == "input"


def test_one_forward_pass_serves_all(model: nn.Module, images: Tensor) -> None:
    methods = ["cam", "eigen_cam", "random_cam", "fake_cam"]
    with watched() as seen:
        found = fastcam.explain(model, images, 0, method=methods)
    assert list(found) == methods
    assert seen == {"forward": [4], "run_from": []}
    assert min_max(found["cam"]).equal(found["cam"])
