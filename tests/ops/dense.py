"""Textbook formulas in float64, written out with loops over positions and no interpolation from PyTorch."""

import torch
from torch import Tensor


def bilinear_matrix(source: int, size: int) -> Tensor:
    """Return B (size, source): pixel y is sum_i B[y, i] a[i], half-pixel centres, edges clamped."""
    matrix = torch.zeros(size, source, dtype=torch.float64)
    for y in range(size):
        s = min(max((y + 0.5) * source / size - 0.5, 0.0), source - 1.0)
        for i in range(source):
            matrix[y, i] = max(0.0, 1.0 - abs(s - i))
    return matrix


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    rows = bilinear_matrix(maps.shape[-2], size[0])
    columns = bilinear_matrix(maps.shape[-1], size[1])
    return rows @ maps.double() @ columns.T


def min_max(one_map: Tensor) -> Tensor:
    """Scale one map (H, W) to [0, 1]; a flat one, up to rounding, to zeros."""
    low, high = one_map.min(), one_map.max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return torch.zeros_like(one_map)
    return (one_map - low) / (high - low)


def cam_map(activations: Tensor, weights: Tensor, size: tuple[int, int], relu: bool, normalize: bool) -> Tensor:
    batch, channels, height, width = activations.shape
    targets = weights.shape[1]
    maps = torch.empty(batch, targets, *size, dtype=torch.float64)
    for n in range(batch):
        for t in range(targets):
            total = torch.zeros(height, width, dtype=torch.float64)
            for k in range(channels):
                total += weights[n, t, k].double() * activations[n, k].double()
            one = upsampled(total, size)
            one = one.clamp(min=0) if relu else one
            maps[n, t] = min_max(one) if normalize else one
    return maps


def masked_inputs(
    images: Tensor, activations: Tensor, image_index: Tensor, channel_index: Tensor, baseline: Tensor | None
) -> Tensor:
    size = (images.shape[2], images.shape[3])
    masked = []
    for n, k in zip(image_index.tolist(), channel_index.tolist(), strict=True):
        mask = min_max(upsampled(activations[n, k], size))
        other = torch.zeros_like(images[n]) if baseline is None else baseline[n]
        masked.append(images[n].double() * mask + other.double() * (1 - mask))
    return torch.stack(masked)


def perturbed_inputs(images: Tensor, base: Tensor, rank: Tensor, steps: Tensor) -> Tensor:
    width = images.shape[3]
    batch = []
    for image, other, positions in zip(images, base, rank.flatten(1).tolist(), strict=True):
        for replaced in steps.tolist():
            step = image.clone()
            for pixel, position in enumerate(positions):
                if position < replaced:
                    step[:, pixel // width, pixel % width] = other[:, pixel // width, pixel % width]
            batch.append(step)
    return torch.stack(batch)
