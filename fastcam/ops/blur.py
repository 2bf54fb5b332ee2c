"""Gaussian blurs of images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(images: Tensor, taps: int, sigma: float) -> Tensor:
    """Blur (N, C, H, W) with `taps` weights exp(-d^2 / (2 sigma^2)) per axis, the images reflected at their edges.

    An image of fewer than (taps + 1) / 2 pixels along an axis cannot be reflected so far: there as many taps are
    taken as can.
    """
    return _blur_rows(_blur_rows(images, taps, sigma).transpose(2, 3), taps, sigma).transpose(2, 3)


def _blur_rows(images: Tensor, taps: int, sigma: float) -> Tensor:
    reach = min(taps // 2, images.shape[3] - 1)
    if reach == 0:
        return images
    distance = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-distance.square() / (2 * sigma**2))
    padded = F.pad(images, (reach, reach, 0, 0), mode="reflect")
    rows = F.conv2d(padded.reshape(-1, 1, 1, padded.shape[3]), (kernel / kernel.sum()).view(1, 1, 1, -1))
    return rows.view(images.shape)


def soft_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur (N, C, H, W) by Gaussians cut off at the edges and scaled to a sum of 1 there; sigma 0 changes nothing."""
    if sigma == 0:
        return images
    columns = _gaussian(images.shape[3], sigma, images)
    return _gaussian(images.shape[2], sigma, images) @ images @ columns.T


def _gaussian(count: int, sigma: float, like: Tensor) -> Tensor:
    """(count, count), each row a Gaussian about its own place."""
    place = torch.arange(count, dtype=like.dtype, device=like.device)
    return torch.softmax(-(place[:, None] - place).square() / (2 * sigma**2), dim=1)
