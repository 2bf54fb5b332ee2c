"""Pictures in and out: preprocessing, scaling of maps, overlays."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

# OpenCV's numbers for the colour maps that matplotlib has too (they agree to 2 of 255), and for jet, below.
COLORMAP_JET = 2
_NAMES = {
    0: "autumn", 1: "bone", 3: "winter", 6: "summer", 7: "spring", 8: "cool", 13: "magma", 14: "inferno",
    15: "plasma", 16: "viridis", 17: "cividis", 18: "twilight", 19: "twilight_shifted", 20: "turbo",
}  # fmt: skip


def preprocess_image(img: Array, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3) -> Tensor:
    """(H, W, 3), uint8 or float in [0, 1], to a normalised batch of one, (1, 3, H, W), float32."""
    pixels = torch.from_numpy(np.array(img)).permute(2, 0, 1)
    scaled = pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels.to(torch.float32)
    return ((scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).unsqueeze(0)


def show_cam_on_image(
    img: Array, mask: Array, use_rgb: bool = False, colormap: int = COLORMAP_JET, image_weight: float = 0.5
) -> NDArray[np.uint8]:
    """Lay a map's colours over an image: (H, W, 3) uint8, image_weight * img + (1 - image_weight) * colours.

    The sum is scaled to a largest value of 1. img: (H, W, 3), float in [0, 1]; mask: (H, W) in [0, 1]. use_rgb: the
    image's channels are red, green, blue (else blue, green, red). colormap: a number of OpenCV's; jet unless given.
    """
    if np.max(img) > 1:
        raise ValueError(f"img: a largest value of {np.max(img)} given, float values in [0, 1] are valid")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight: {image_weight} given, a number from 0 to 1 is valid")
    colours = _table(colormap)[np.uint8(255 * mask)]
    laid = (1 - image_weight) * (colours if use_rgb else colours[..., ::-1]) + image_weight * img
    return np.asarray(255 * (laid / np.max(laid)), dtype=np.uint8)


def _table(colormap: int) -> NDArray[np.float32]:
    """(256, 3): red, green and blue in [0, 1] of each of 256 values."""
    values = np.arange(256)
    if colormap == COLORMAP_JET:
        # Three tents, 3/2 high and cut at 1, with their tips at 3/4, 1/2 and 1/4 of the range.
        tips = [382.5 - np.abs(4 * values - 255 * quarter) for quarter in (3, 2, 1)]
        table = np.stack(tips, axis=1).round().clip(0, 255)
    elif colormap in _NAMES:
        table = matplotlib.colormaps[_NAMES[colormap]](values / 255, bytes=True)[:, :3]
    else:
        raise ValueError(f"colormap: {colormap!r} given, one of {sorted({COLORMAP_JET, *_NAMES})} (OpenCV's) is valid")
    return np.asarray(table / 255, dtype=np.float32)
