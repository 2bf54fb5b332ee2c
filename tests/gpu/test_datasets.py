"""Photos decoded by nvJPEG, resized on the device."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastcam.datasets import View, Views, loader, open_dataset
from fastcam.datasets.decode import decode, decode_on_gpu
from fastcam.models.preprocessing import Preprocessing
from fastcam.photos import PhotoError

CUDA = torch.device("cuda")


def smooth(mode: str) -> Image.Image:
    y, x = np.mgrid[:203, :311]
    channels = [np.uint8(127 + 120 * np.sin(x / 39 + k) * np.cos(y / 27 - k)) for k in range(4)]
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}
    return Image.merge(mode, [Image.fromarray(c) for c in channels[: bands[mode]]])


def write_photos(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth("RGB").save(folder / "a.jpg", quality=95)
    smooth("L").save(folder / "b.jpg", quality=95)
    smooth("CMYK").save(folder / "c.jpg")
    smooth("RGB").save(folder / "d.jpg", exif=exif)
    smooth("RGBA").save(folder / "e.png")
    smooth("RGB").save(folder / "f.jpg", quality=90, progressive=True)
    (folder / "g.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-300])


def test_every_photo_as_on_the_cpu(tmp_path: Path) -> None:
    """Plain, grey, CMYK, turned, transparent, progressive; and one cut off, which does not spoil the others."""
    write_photos(tmp_path)
    paths = sorted(tmp_path.iterdir())
    found = decode_on_gpu([(path, path.read_bytes(), True) for path in paths], CUDA)
    for path, pixels in zip(paths[:-1], found[:-1], strict=True):
        assert isinstance(pixels, torch.Tensor), path
        assert pixels.device.type == "cuda"
        expected = decode(path, upright=True)
        assert pixels.shape == expected.shape
        assert (pixels.cpu().int() - expected.int()).abs().max() <= 4, path
    assert isinstance(found[-1], PhotoError)


def test_views_as_on_the_cpu(tmp_path: Path) -> None:
    write_photos(tmp_path)
    dataset = open_dataset("folder", tmp_path)
    here, there = Views(dataset, Preprocessing()), Views(dataset, Preprocessing(), device=CUDA)
    batches = [[0, 1, 2], [3, 6], [4, 5]]
    for one, other in zip(loader(there, batches, 2), loader(here, batches), strict=True):
        assert (one.indices, one.bad) == (other.indices, other.bad)
        assert one.images.device.type == "cuda"
        assert (one.images.cpu().int() - other.images.int()).abs().max() <= 4
    view = there[0]
    assert isinstance(view, View)
    assert view.image.is_cuda


def test_scaling_on_the_device() -> None:
    pixels = torch.arange(3 * 256, dtype=torch.uint8).reshape(1, 3, 16, 16)
    preprocessing = Preprocessing()
    torch.testing.assert_close(preprocessing.scaled(pixels.to(CUDA)).cpu(), preprocessing.scaled(pixels))
