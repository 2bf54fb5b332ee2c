"""Decoding gives what the photo reader of `explain` gives, for whatever files people have."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam.datasets.decode import decode
from fastcam.photos import PhotoError, read_photo, read_stored

ORIENTATION = 0x0112


def noise(mode: str) -> Image.Image:
    """A smooth picture, so that the decoders' rounding shows and nothing else."""
    y, x = np.mgrid[:37, :53]
    channels = [np.uint8(127 + 120 * np.sin(x / 9 + k) * np.cos(y / 7 - k)) for k in range(4)]
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
    if mode in bands:
        return Image.merge(mode, [Image.fromarray(c) for c in channels[: bands[mode]]])
    if mode == "I;16":
        return Image.fromarray(channels[0].astype(np.uint16) * 257)
    return noise("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGB", "jpg", {}),
        ("RGB", "jpg", {"progressive": True}),
        ("RGB", "jpg", {"subsampling": 0}),
        ("L", "jpg", {}),
        ("CMYK", "jpg", {}),
        ("RGB", "png", {}),
        ("RGBA", "png", {}),
        ("LA", "png", {}),
        ("P", "png", {}),
        ("1", "png", {}),
        ("I;16", "png", {}),
        ("P", "gif", {}),
        ("RGB", "webp", {"lossless": True}),
        ("RGB", "bmp", {}),
        ("RGB", "tiff", {}),
    ],
    ids=str,
)
def test_equals_the_photo_reader(tmp_path: Path, mode: str, suffix: str, options: dict[str, object]) -> None:
    path = tmp_path / f"photo.{suffix}"
    noise(mode).save(path, **options)
    for upright, reader in ((True, read_photo), (False, read_stored)):
        assert_close(decode(path, upright=upright), reader(path))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("upright", [True, False], ids=["upright", "stored"])
def test_jpegs_are_decoded_by_torchvision(
    tmp_path: Path, mode: str, upright: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.jpg"
    noise(mode).save(path)
    expected = read_photo(path)
    monkeypatch.setattr("fastcam.datasets.decode.read_photo", pytest.fail)
    monkeypatch.setattr("fastcam.datasets.decode.read_stored", pytest.fail)
    assert_close(decode(path, upright=upright), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_photos_to_be_turned(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise("RGB").save(path, exif=exif)
    upright, stored = decode(path, upright=True), decode(path, upright=False)
    assert_close(upright, read_photo(path))
    assert_close(stored, read_stored(path))
    assert stored.shape == (3, 37, 53)
    assert upright.shape == ((3, 53, 37) if orientation >= 5 else (3, 37, 53))
    assert torch.equal(upright, stored) == (orientation == 1)


def assert_close(found: torch.Tensor, photo: Image.Image) -> None:
    expected = torch.from_numpy(np.array(photo)).permute(2, 0, 1).int()
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert (found.int() - expected).abs().max() <= 2


@pytest.mark.parametrize("damage", ["cut off", "header alone", "text", "empty", "missing", "folder"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "photo.jpg"
    noise("RGB").save(path)
    content = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    if damage not in ("missing", "folder"):
        parts = {
            "cut off": content[:-300],
            "header alone": content[:30],
            "text": b"<html>not found</html>",
            "empty": b"",
        }
        path.write_bytes(parts[damage])
    with pytest.raises(PhotoError, match=str(path)):
        decode(path, upright=True)


def test_a_png_under_the_name_of_a_jpeg(tmp_path: Path) -> None:
    """ImageNet has one."""
    path = tmp_path / "photo.JPEG"
    noise("RGB").save(path, "PNG")
    assert torch.equal(decode(path, upright=False), torch.from_numpy(np.array(noise("RGB"))).permute(2, 0, 1))
