import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastcam import demo
from fastcam.cli import app

# Without Score-CAM and its hundreds of forward passes a layer.
QUICK = {method: layers for method, layers in demo.METHODS.items() if method != "score_cam"}
TOP = {"chelsea": "tiger cat", "coffee": "espresso", "rocket": "missile", "motorcycle_left": "moped"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "METHODS", QUICK)
        result = CliRunner().invoke(app, ["demo", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_pictures_are_where_it_says(written: tuple[Path, str]) -> None:
    folder, said = written
    assert f"Pictures are in {folder}" in said
    for name in (*TOP, "mosaic"):
        assert str(folder / name / "figure.png") in said
        with Image.open(folder / name / "figure.png") as image:
            assert min(image.size) > 300
    maps = sum(len(layers) for layers in QUICK.values())
    assert len(list((folder / "chelsea").iterdir())) == 2 * maps + 1
    assert len(list((folder / "mosaic").iterdir())) == 2 * 2 * maps + 2


def test_top_classes_are_printed(written: tuple[Path, str]) -> None:
    lines = written[1].splitlines()
    for photo, name in TOP.items():
        assert lines[lines.index(photo) + 1].endswith(name)


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        ("cam", "head.activation"),
        ("grad_cam", "head.activation"),
        ("relevance_cam", "head.activation"),
        ("relevance_cam", "blocks.11.expand.activation"),
        ("relevance_cam", "blocks.5.expand.activation"),
    ],
)
@pytest.mark.parametrize(("target", "left"), [("282-tiger-cat", True), ("967-espresso", False)])
def test_maps_sit_on_their_half_of_the_mosaic(
    written: tuple[Path, str], method: str, layer: str, target: str, left: bool
) -> None:
    values = np.load(written[0] / "mosaic" / f"{method}-{layer}-{target}.npy")
    assert values.shape == (224, 448)
    high = values > values.mean() + values.std()
    half = high[:, :224] if left else high[:, 224:]
    assert half.sum() > 0.85 * high.sum()


@pytest.mark.parametrize(
    ("photo", "target", "box"),
    [
        # Boxes (top, bottom, left, right) in the 224 px view, read off the pictures.
        pytest.param("chelsea", "282-tiger-cat", (30, 215, 5, 224), id="cat's face"),
        pytest.param("coffee", "967-espresso", (0, 150, 20, 215), id="cup"),
        pytest.param("rocket", "657-missile", (30, 224, 60, 165), id="rocket"),
        pytest.param("motorcycle_left", "665-moped", (40, 224, 0, 224), id="motorcycle"),
    ],
)
def test_maps_peak_on_the_object(written: tuple[Path, str], photo: str, target: str, box: tuple[int, ...]) -> None:
    top, bottom, left, right = box
    for method in QUICK:
        values = np.load(written[0] / photo / f"{method}-head.activation-{target}.npy")
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert top <= row < bottom, method
        assert left <= column < right, method


def test_missing_photos_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "skimage" else find(n))
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "pip install 'fastcam[demo]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
