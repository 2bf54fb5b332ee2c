"""`fastcam figure`, as people type it, on a model small enough to draw every kind."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from fastcam.cli import app
from tests.evaluation.conftest import MODEL

KINDS = ("depth", "selectivity", "segmentation", "sensitivity", "sanity", "upscaling")
COMMON = ("--model", MODEL, "--resize", "48", "--crop", "48", "--device", "cpu")


def figure(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["figure", *map(str, arguments)])


@pytest.fixture(scope="module")
def photo(photos: Path) -> Path:
    return next(iter(sorted(photos.rglob("*.png"))))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_where_it_says(kind: str, photo: Path, tmp_path: Path) -> None:
    result = figure(kind, photo, *COMMON, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    drawn = tmp_path / photo.stem / f"{kind}.png"
    assert str(drawn) in result.output
    with Image.open(drawn) as image:
        assert min(image.size) > 200
        # Something is drawn: more than a few colours.
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 100


def test_an_unreadable_photo_is_named_and_the_others_drawn(photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = figure("segmentation", broken, photo, *COMMON, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert str(broken) in " ".join(result.output.split())
    assert (tmp_path / "out" / photo.stem / "segmentation.png").exists()


def test_an_unknown_layer_is_refused_and_nothing_written(photo: Path, tmp_path: Path) -> None:
    result = figure("depth", photo, *COMMON, "--layers", "relu9", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "relu9" in result.output
    assert not list(tmp_path.rglob("*.png"))
