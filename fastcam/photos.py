"""Reading photos: any mode and orientation in, upright RGB out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class PhotoError(ValueError):
    """A photo that cannot be read; the message names the file and the reason."""


def read_photo(path: Path) -> Image.Image:
    """The photo in RGB, 8 bits, turned as its EXIF orientation says.

    Transparent parts are shown on white, 16-bit greys are scaled to 8 bits, of an animation the first frame
    is taken.

    Raises:
        PhotoError: the file is missing, is no image, or is damaged (also when only its end is cut off).
    """
    return _read(path, ImageOps.exif_transpose)


def read_stored(path: Path) -> Image.Image:
    """The same, but as its pixels lie in the file, whatever its EXIF orientation says."""
    return _read(path, lambda image: image)


def _read(path: Path, turn: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(path) as image:
            # Pixels are decoded at the first use, not at open: damage shows up here.
            return _rgb(turn(image))
    except FileNotFoundError:
        raise PhotoError(f"photo {path} does not exist") from None
    except IsADirectoryError:
        raise PhotoError(f"photo {path} is a folder: name the files in it") from None
    except UnidentifiedImageError:
        raise PhotoError(f"photo {path} is no image that Pillow can read") from None
    # Pillow's decoders raise all sorts on damaged files: OSError for a cut-off one, SyntaxError for PNG
    # chunks, struct.error, zlib.error, ValueError, IndexError, DecompressionBombError.
    except Exception as error:
        raise PhotoError(f"photo {path} is damaged or unreadable: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit greys clips at 255.
        grey = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        grey = np.nan_to_num(np.asarray(image).astype(np.float64))
        # Floating-point images come on the scale of 0 to 1 or of 0 to 255.
        grey = grey * 255 if grey.max(initial=0) <= 1 else grey
        image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
