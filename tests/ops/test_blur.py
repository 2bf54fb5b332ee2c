"""Blurs: constants stay, variance falls, weights are a Gaussian's, edges are reflected."""

import pytest
import torch
from torchvision.transforms import functional as transforms

from fastcam.ops.blur import gaussian_blur, soft_blur


def test_blurs() -> None:
    x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones_like(x)
    for blur in (lambda z: gaussian_blur(z, 5, 1.5), lambda z: gaussian_blur(z, 51, 50.0), lambda z: soft_blur(z, 2.0)):
        torch.testing.assert_close(blur(ones), ones)
        assert blur(x).var() < x.var() / 2
    assert torch.equal(soft_blur(x, 0), x)
    # Inside, five weights of a Gaussian.
    k = torch.exp(-torch.arange(-2, 3).double().square() / 4.5)
    k = k / k.sum()
    expected = (k[:, None] * k * x[1, 2, 2:7, 1:6]).sum()
    torch.testing.assert_close(gaussian_blur(x, 5, 1.5)[1, 2, 4, 3], expected)


@pytest.mark.parametrize(("taps", "sigma"), [(1, 3.0), (11, 5.0), (51, 50.0)])
@pytest.mark.parametrize("size", [(31, 47), (26, 26)], ids=str)
def test_as_torchvision_blurs(size: tuple[int, int], taps: int, sigma: float) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(gaussian_blur(x, taps, sigma), transforms.gaussian_blur(x, [taps, taps], [sigma, sigma]))


def test_images_too_small_to_reflect_all_taps() -> None:
    x = torch.randn(1, 2, 1, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = transforms.gaussian_blur(x, [7, 1], [5.0, 5.0])  # 3 pixels at most can be reflected beside each
    torch.testing.assert_close(gaussian_blur(x, 51, 5.0), expected)
