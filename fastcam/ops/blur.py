"""Gaussian blurs of images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(images: Tensor, taps: int, sigma: float) -> Tensor:
    """Blur (N, C, H, W) with `taps` weights exp(-d^2 / (2 sigma^2)) per axis, the images reflected at their edges.

    An image of fewer than (taps + 1) / 2 pixels along an axis cannot be reflected so far: there as many taps are
    taken as can.
    """
    # As matrix products: a convolution of a single channel leaves most of a processor idle.
    columns = _reflected(images.shape[3], taps, sigma, images)
    return _reflected(images.shape[2], taps, sigma, images) @ images @ columns.T


def _reflected(count: int, taps: int, sigma: float, like: Tensor) -> Tensor:
    """(count, count), each row the weights about its own place, those beyond an edge at the pixels they reflect."""
    reach = min(taps // 2, count - 1)
    distance = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-distance.square() / (2 * sigma**2))
    # Row j of the identity, padded: where along a reflected axis pixel j stands.
    places = F.pad(torch.eye(count, dtype=like.dtype, device=like.device), (reach, reach), mode="reflect")
    return (places.unfold(1, len(kernel), 1) @ (kernel / kernel.sum())).T


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
