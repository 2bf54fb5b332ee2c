"""Overlays."""

import matplotlib
import numpy as np
from matplotlib.colors import Colormap
from PIL import Image


def overlay_mask(
    img: Image.Image, mask: Image.Image, colormap: Colormap | str = "jet", alpha: float = 0.7
) -> Image.Image:
    """Lay a map's colours over a photo: alpha * photo + (1 - alpha) * colours of the squared map, an RGB image.

    img: grey or RGB. mask: a map as an image of mode "F" in [0, 1], resized bicubically to the photo. alpha: at least
    0 and less than 1.
    """
    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise TypeError(f"img, mask: {type(img).__name__} and {type(mask).__name__} given, two PIL images are valid")
    if not isinstance(alpha, float) or not 0 <= alpha < 1:
        raise ValueError(f"alpha: {alpha!r} given, a float of at least 0 and less than 1 is valid")
    if len(img.getbands()) not in (1, 3):
        raise ValueError(f"img: an image of mode {img.mode} given, grey or RGB is valid")
    fitted = np.asarray(mask.resize(img.size, resample=Image.Resampling.BICUBIC))
    colours = matplotlib.colormaps.get_cmap(colormap)(fitted**2, bytes=True)[:, :, :3]
    return Image.blend(Image.fromarray(colours), img.convert("RGB"), alpha)
