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


def keys(distance: float) -> float:
    """Return the cubic convolution kernel of Keys (1981) with a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def bicubic_matrix(source: int, size: int) -> Tensor:
    """Return B (size, source), half-pixel centres: taps beyond the border fall on the border."""
    matrix = torch.zeros(size, source, dtype=torch.float64)
    for y in range(size):
        s = (y + 0.5) * source / size - 0.5
        for i in range(-3, source + 3):
            matrix[y, min(max(i, 0), source - 1)] += keys(s - i)
    return matrix


def unfold_patches(
    images: Tensor, tops: Tensor, lefts: Tensor, crop: tuple[int, int], size: tuple[int, int], mode: str
) -> Tensor:
    matrix = {"bilinear": bilinear_matrix, "bicubic": bicubic_matrix}[mode]
    rows, columns = matrix(crop[0], size[0]), matrix(crop[1], size[1])
    batch = torch.empty(len(images) * len(tops), images.shape[1], *size, dtype=torch.float64)
    for n in range(len(images)):
        for p, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
            patch = images[n, :, top : top + crop[0], left : left + crop[1]].double()
            batch[n * len(tops) + p] = rows @ patch @ columns.T
    return batch


def fold_patches(
    maps: Tensor, confidences: Tensor, tops: Tensor, lefts: Tensor, crop: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    batch, patches, targets = maps.shape[:3]
    folded = torch.zeros(batch, targets, *size, dtype=torch.float64)
    duplicates = torch.zeros(size, dtype=torch.float64)
    for p in range(patches):
        where = (slice(int(tops[p]), int(tops[p]) + crop[0]), slice(int(lefts[p]), int(lefts[p]) + crop[1]))
        duplicates[where] += 1
        for n in range(batch):
            for t in range(targets):
                folded[n, t][where] += confidences[n, p, t].double() * upsampled(maps[n, p, t], crop)
    return torch.where(duplicates > 0, folded / duplicates, 0.0)
