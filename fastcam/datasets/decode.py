"""Decoding photos to uint8 tensors (3, h, w), by torchvision where it gives what Pillow would, else by Pillow."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision.io
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode

from fastcam.photos import PhotoError, read_photo, read_stored

_JPEG = b"\xff\xd8\xff"
_END_OF_IMAGE = b"\xff\xd9"
_ORIENTATION = 0x0112


def decode(path: Path, *, upright: bool) -> Tensor:
    """The photo on the CPU. upright: turned as its EXIF orientation says, else as its pixels are stored.

    Raises:
        PhotoError: the file is missing, no image, or damaged.
    """
    data = read_bytes(path)
    # Other formats have palettes, transparency and 16 bits, for which Pillow's reader has its rules.
    if data.startswith(_JPEG):
        try:
            pixels = _quiet_jpeg(data, upright=upright)
        except RuntimeError:
            # Pillow reads some JPEGs that torchvision does not, and tells what is wrong with the others.
            return _by_pillow(path, upright=upright)
        if len(pixels) in (1, 3):
            return pixels.expand(3, -1, -1)
        # CMYK has four channels, and reading it takes a rule of its own.
    return _by_pillow(path, upright=upright)


def decode_on_gpu(photos: Sequence[tuple[Path, bytes, bool]], device: torch.device) -> list[Tensor | PhotoError]:
    """Photos of (path, content, upright) on a CUDA device, by nvJPEG where they are plain JPEGs and nvJPEG is there."""
    plain = [i for i, (_, data, upright) in enumerate(photos) if _is_plain_jpeg(data, upright=upright)]
    decoded: dict[int, Tensor | PhotoError] = {}
    if plain:
        contents = [_tensor(photos[i][1]) for i in plain]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = torchvision.io.decode_jpeg(contents, mode=ImageReadMode.RGB, device=device)
            decoded.update(zip(plain, pixels, strict=True))
        except RuntimeError:
            # One that nvJPEG cannot read spoils the whole list; without nvJPEG none can be read.
            pass
    for i, (path, _, upright) in enumerate(photos):
        if i not in decoded:
            try:
                decoded[i] = decode(path, upright=upright).to(device)
            except PhotoError as error:
                decoded[i] = error
    return [decoded[i] for i in range(len(photos))]


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises PhotoError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PhotoError(f"photo {path} does not exist") from None
    except OSError as error:
        raise PhotoError(f"photo {path} cannot be read: {error.strerror or error}") from error


def _tensor(data: bytes) -> Tensor:
    # A copy, since torch has no tensors that must not be written to.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _quiet_jpeg(data: bytes, *, upright: bool) -> Tensor:
    # torchvision 0.29 announces at every call that decoding moves to another package.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels: Tensor = torchvision.io.decode_jpeg(_tensor(data), apply_exif_orientation=upright)
    return pixels


def _by_pillow(path: Path, *, upright: bool) -> Tensor:
    photo = read_photo(path) if upright else read_stored(path)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


def _is_plain_jpeg(data: bytes, *, upright: bool) -> bool:
    """A whole JPEG in grey or RGB that needs no turning: what nvJPEG decodes as the CPU does.

    nvJPEG fills up a file that was cut off and knows nothing of EXIF.
    """
    if not data.startswith(_JPEG) or _END_OF_IMAGE not in data[-4096:]:
        return False
    try:
        with Image.open(io.BytesIO(data)) as header:
            turned = upright and header.getexif().get(_ORIENTATION, 1) != 1
            return header.mode in ("L", "RGB") and not turned
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
