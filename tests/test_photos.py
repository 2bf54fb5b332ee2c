from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastcam.photos import PhotoError, read_photo, read_stored

ORIENTATION = 0x0112


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours at the top left, top right, bottom left and bottom right."""
    pixels = np.asarray(image)
    return [tuple(int(v) for v in pixels[i, j]) for i in (0, -1) for j in (0, -1)]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def photo() -> Image.Image:
    image = Image.new("RGB", (8, 4), WHITE)
    image.paste(RED, (0, 0, 4, 2))
    image.paste(GREEN, (4, 0, 8, 2))
    image.paste(BLUE, (0, 2, 4, 4))
    return image


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_orientation(orientation: int, expected: list[tuple[int, ...]], photo: Image.Image, tmp_path: Path) -> None:
    exif = photo.getexif()
    exif[ORIENTATION] = orientation
    photo.save(tmp_path / "p.png", exif=exif)
    read = read_photo(tmp_path / "p.png")
    assert corners(read) == expected
    assert read.size == ((8, 4) if orientation <= 4 else (4, 8))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("P", "gif"), ("1", "png"), ("L", "png"),
        ("LA", "png"), ("CMYK", "tif"), ("YCbCr", "tif"), ("I;16", "png"), ("I", "tif"), ("F", "tif"),
    ],
)  # fmt: skip
def test_any_mode(mode: str, suffix: str, photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / f"p.{suffix}"
    grey = photo.convert("L")
    if mode in ("I;16", "I"):
        wide = np.asarray(grey).astype(np.uint16) * 257
        Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32)).save(path)
    else:
        photo.convert(mode).save(path)
    read = read_photo(path)
    assert read.mode == "RGB"
    assert read.size == (8, 4)
    if mode in ("L", "LA", "I;16", "I", "F"):
        expected = corners(grey.convert("RGB"))
    elif mode == "1":
        expected = corners(photo.convert("1").convert("RGB"))
    else:
        expected = [RED, GREEN, BLUE, WHITE]
    np.testing.assert_allclose(corners(read), expected, atol=3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 51400, 65535]], dtype=np.uint16)).save(tmp_path / "p.png")
    assert np.asarray(read_photo(tmp_path / "p.png"))[0, :, 1].tolist() == [0, 1, 200, 255]


def test_floats_from_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5], [1, np.nan]], dtype=np.float32)).save(tmp_path / "p.tif")
    assert np.asarray(read_photo(tmp_path / "p.tif"))[..., 0].tolist() == [[0, 128], [255, 0]]


@pytest.mark.parametrize("form", ["rgba", "la", "palette"])
def test_transparent_parts_are_white(form: str, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    if form == "palette":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        image.save(path, transparency=0)
    elif form == "rgba":
        image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 255, 255))
        image.save(path)
    else:
        image = Image.new("LA", (2, 1), (0, 0))
        image.putpixel((1, 0), (0, 255))
        image.save(path)
    pixels = np.asarray(read_photo(path))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == ([0, 0, 0] if form == "la" else [0, 0, 255])


def test_first_frame_of_an_animation(photo: Image.Image, tmp_path: Path) -> None:
    other = Image.new("RGB", photo.size, "black")
    photo.save(tmp_path / "p.gif", save_all=True, append_images=[other])
    assert corners(read_photo(tmp_path / "p.gif")) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[: len(b) * 2 // 3], id="cut off"),
        pytest.param(lambda b: b[:20], id="head alone"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"#!/bin/sh\nexit 0\n" * 100, id="no image"),
    ],
)
def test_damaged_photo_is_named(suffix: str, damage: Any, tmp_path: Path) -> None:
    path = tmp_path / f"holiday.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert read_photo(path).size == (80, 60)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PhotoError, match=rf"photo .*holiday\.{suffix} is "):
        read_photo(path)


def test_damaged_pixels_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"p\.png is damaged"):
        read_photo(path)


def test_missing_photo_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"none\.png does not exist"):
        read_photo(tmp_path / "none.png")
    with pytest.raises(PhotoError, match="is a folder"):
        read_photo(tmp_path)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PhotoError, match=r"p\.png is damaged or unreadable"):
        read_photo(tmp_path / "p.png")


def test_as_stored(photo: Image.Image, tmp_path: Path) -> None:
    exif = photo.getexif()
    exif[ORIENTATION] = 6
    photo.save(tmp_path / "p.png", exif=exif)
    assert corners(read_stored(tmp_path / "p.png")) == [RED, GREEN, BLUE, WHITE]
    with pytest.raises(PhotoError, match="does not exist"):
        read_stored(tmp_path / "q.png")
