import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from fastcam import demo
from fastcam.cli import app
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.store import read_run
from fastcam.plots import Block, Pixels, grid_figure, masked, write_png

# Without Score-CAM and its hundreds of forward passes a layer.
QUICK = {method: layers for method, layers in demo.METHODS.items() if method != "score_cam"}
# Two methods, and two steps of insertion in place of fourteen.
SHORT = replace(
    demo.STUDY, methods=demo.STUDY.methods[-2:], metrics=("drop", "adcc", "insertion"), options={"step": 25088}
)
TOP = {"chelsea": "tiger cat", "coffee": "espresso", "rocket": "missile", "motorcycle_left": "moped"}


@pytest.fixture(scope="module")
def sensitivity() -> list[Any]:
    """What the figure of class sensitivity is made of."""
    return []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, sensitivity: list[Any]) -> tuple[Path, str]:
    def draw(photo: Pixels, blocks: Sequence[Block], **options: Any) -> Figure:
        sensitivity[:] = [photo, blocks, options]
        return grid_figure(photo, blocks, **options)

    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "METHODS", QUICK)
        patch.setattr(demo, "STUDY", SHORT)
        patch.setattr(demo, "grid_figure", draw)
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


def test_sensitivity_shows_what_each_map_keeps(
    written: tuple[Path, str], sensitivity: list[Any], tmp_path: Path
) -> None:
    folder = written[0] / "mosaic"
    photo, (block,), options = sensitivity
    layers = QUICK["relevance_cam"]
    assert photo.shape == (224, 448, 3)
    cat, coffee = options["rows"]
    assert cat.startswith("tiger cat (282), probability 0.")
    assert coffee.startswith("espresso (967), probability 0.")
    assert options["columns"] == layers
    assert len(block.cells) == 2 * len(layers)
    for layer in layers:
        for row, name in ((cat, "282-tiger-cat"), (coffee, "967-espresso")):
            kept = masked(photo, np.load(folder / f"relevance_cam-{layer}-{name}.npy"))
            np.testing.assert_array_equal(block.cells[row, layer], kept)
            assert 0 < (kept != 0).mean() < 0.5
    write_png(tmp_path / "again.png", grid_figure(photo, [block], **options))
    assert (folder / "sensitivity.png").read_bytes() == (tmp_path / "again.png").read_bytes()


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


def test_it_ends_with_an_evaluation_and_its_report(written: tuple[Path, str]) -> None:
    folder, said = written
    page = folder / "evaluation" / "report.html"
    assert f"The report, with curves and a gallery: {page}" in said
    text = page.read_text(encoding="utf-8")
    assert all(f"{name}/{photo}" in text for name, photo in [("tiger_cat", "chelsea.png"), ("moped", "motorcycle")])
    assert text.count("data:image/jpeg;base64,") == 4 * (1 + len(SHORT.methods))
    assert page.with_suffix(".csv").stat().st_size > 0
    assert page.with_suffix(".tex").stat().st_size > 0
    run = read_run(page.parent)
    assert run.complete
    assert run.study == SHORT
    rows = run.rows.to_pydict()
    assert sorted(set(rows["label"])) == sorted(demo.CLASSES)
    assert rows["predicted"] == rows["label"]
    for method in SHORT.methods:
        assert any(method.name in line.split() for line in said.splitlines())
    fake = [drop for drop, method in zip(rows["drop"], rows["method"], strict=True) if method == "fake_cam"]
    assert max(fake) < 1


def test_a_second_evaluation_is_made_anew(
    written: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(written[0] / "evaluation", folder)
    first = read_run(folder)
    # As another version would have left it, with other rows.
    table = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    older = {**table, "environment": {**table["environment"], "fastcam": "0.0.1"}}
    (folder / "run.json").write_text(json.dumps(older), encoding="utf-8")
    monkeypatch.setattr(demo, "STUDY", replace(SHORT, methods=SHORT.methods[-1:], metrics=("increase",), options={}))
    monkeypatch.setattr(demo, "write_report", lambda runs, output, before: [output])
    second, page = demo.evaluate_demo(tmp_path)
    assert page == folder / "report.html"
    assert second.environment == first.environment
    assert set(second.rows.column("method").to_pylist()) == {"fake_cam"}
    assert "drop" not in second.rows.column_names
    assert len(second.log) == 1
    assert (folder / "report.csv").exists()


def test_an_evaluation_at_work_is_left_alone(written: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(folder: Path) -> None:
        raise RunError(f"output {folder}: another process is at work")

    monkeypatch.setattr(demo, "locked", taken)
    with pytest.raises(RunError, match="at work"):
        demo.evaluate_demo(written[0])
    assert read_run(written[0] / "evaluation").complete


def test_missing_photos_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "skimage" else find(n))
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "pip install 'fastcam[demo]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
