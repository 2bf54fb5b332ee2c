"""How alike two maps are: rank correlation and structural similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.metrics.given import check_planes
from fastcam.network.arguments import DeferredChecks
from fastcam.ops.maps import is_flat, min_max_

# Wang 2004: the window's taps per axis and its standard deviation, and the constants for a range of 1.
TAPS, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps' pixels.

    Pearson's correlation of the ranks; equal pixels share the mean of their ranks. 0 where it is undefined: a flat map.

    Args:
        a, b: (..., H, W), float, of one shape.

    Returns:
        (...), float32 in [-1, 1].

    Raises:
        ValueError, TypeError: for maps that are not valid or do not fit each other.

    Source: Spearman 1904; for sanity checks Adebayo et al., NeurIPS 2018.
    """
    first, second = _check(a, b)
    x, y = _centred_ranks(first), _centred_ranks(second)
    spread = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    flat = is_flat(first) | is_flat(second)
    correlation = (x * y).sum(dim=1) / torch.where(flat, 1, spread)
    return torch.where(flat, 0, correlation.clamp(-1, 1)).to(torch.float32).view(a.shape[:-2])


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of two maps, each min-max scaled.

    mean over windows of (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx^2 + sy^2 + C2)), with means, variances
    and covariance under a Gaussian window of 11 x 11 pixels and standard deviation 1.5, C1 = 0.01^2, C2 = 0.03^2.
    Windows lie wholly inside the map. A flat map is scaled to zeros.

    Args:
        a, b: (..., H, W), float, of one shape, H and W at least 11.

    Returns:
        (...), float32 in [-1, 1].

    Raises:
        ValueError, TypeError: for maps that are not valid or do not fit each other.

    Source: Wang et al., Image quality assessment, IEEE Transactions on Image Processing 2004, equation 13.
    """
    first, second = _check(a, b)
    if min(first.shape[1:]) < TAPS:
        raise ValueError(
            f"a, b: maps of {first.shape[1]} x {first.shape[2]} pixels given, at least {TAPS} x {TAPS} are needed; "
            "take the maps at the images' size"
        )
    x, y = min_max_(first.clone()), min_max_(second.clone())
    mean_x, mean_y, xx, yy, xy = _windowed(torch.stack([x, y, x * x, y * y, x * y], dim=1)).unbind(dim=1)
    variances = (xx - mean_x.square()) + (yy - mean_y.square())
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    structure = (2 * (xy - mean_x * mean_y) + C2) / (variances + C2)
    return (luminance * structure).mean(dim=(1, 2)).to(torch.float32).view(a.shape[:-2])


def _centred_ranks(maps: Tensor) -> Tensor:
    """Ranks less their mean, (M, P) for maps (M, H, W); equal pixels share the mean of their ranks."""
    values, order = maps.flatten(1).sort(dim=1)
    count = values.shape[1]
    place = torch.arange(count, device=maps.device).expand_as(order)
    changes = values[:, 1:] != values[:, :-1]
    first = torch.where(F.pad(changes, (1, 0), value=True), place, 0).cummax(dim=1).values
    last = torch.where(F.pad(changes, (0, 1), value=True), place, count - 1).flip(1).cummin(dim=1).values.flip(1)
    # In units of the number of pixels, so that sums of squares stay small.
    shared = (first + last - (count - 1)).to(maps.dtype) / (2 * count)
    return torch.empty_like(shared).scatter_(1, order, shared)


def _windowed(planes: Tensor) -> Tensor:
    """(M, P, H, W) under the Gaussian window, (M, P, H - 10, W - 10)."""
    distance = torch.arange(TAPS, dtype=planes.dtype, device=planes.device) - TAPS // 2
    weights = torch.exp(-distance.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()
    rows = F.conv2d(planes.flatten(0, 1).unsqueeze(1), weights.view(1, 1, 1, -1))
    windowed = F.conv2d(rows, weights.view(1, 1, -1, 1))
    return windowed.view(*planes.shape[:2], *windowed.shape[2:])


def _check(a: object, b: object) -> tuple[Tensor, Tensor]:
    """Both maps as (M, H, W), in one dtype of at least float32."""
    checks = DeferredChecks()
    first, second = check_planes("a", a, checks), check_planes("b", b, checks)
    if first.shape != second.shape or first.device != second.device:
        raise ValueError(
            f"a, b: shapes {tuple(first.shape)} on {first.device} and {tuple(second.shape)} on {second.device} given, "
            "two of one shape on one device are valid"
        )
    checks.settle()
    number = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    size = first.shape[-2:]
    return first.to(number).reshape(-1, *size), second.to(number).reshape(-1, *size)
