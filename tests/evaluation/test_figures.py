"""`fastcam figure`, as people type it, on a model small enough to draw every kind."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from fastcam import metrics
from fastcam.attribution import Ucag
from fastcam.cli import app
from fastcam.datasets.sample import Box
from fastcam.evaluation.figures import upscaling
from fastcam.evaluation.figures.curves import judge
from fastcam.evaluation.figures.regions import part_boxes
from fastcam.evaluation.figures.subject import Subject
from fastcam.plots import resized
from tests.evaluation.conftest import MODEL
from tests.evaluation.nets import tiny

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
    assert result.stderr == ""
    drawn = tmp_path / photo.stem / f"{kind}.png"
    assert str(drawn) in result.output
    with Image.open(drawn) as image:
        assert min(image.size) > 200
        # Something is drawn: more than a few colours.
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 100


def test_a_terminal_is_told_how_far_it_is(photo: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(photo, tmp_path / "other.png"))
    asked = ["figure", "segmentation", str(photo), str(other), *COMMON, "--methods", "grad_cam", "-o", str(tmp_path)]
    told = CliRunner().invoke(app, asked, env={"COLUMNS": "200", "TERM": "xterm", "TTY_COMPATIBLE": "1"}).stderr
    for number, path in enumerate((photo, other), start=1):
        for stage in ("grad_cam", "picture"):
            assert f"photo {number} of 2, {path.name}: {stage}" in told


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


@pytest.fixture(scope="module")
def subject() -> Subject:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((1, 3, 32, 32), generator=generator)
    photo = (255 * inputs[0].permute(1, 2, 0)).to(torch.uint8).numpy()
    return Subject(model=tiny(), inputs=inputs, photo=photo, title="noise")


def flooded(region: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """The connected parts, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(region)}
    found = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(part)
    return found


@given(
    region=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)), least=st.sampled_from([0.0, 0.2, 1.0])
)
def test_boxes_lie_around_connected_parts(region: NDArray[np.bool_], least: float) -> None:
    expected = []
    for part in flooded(region):
        ys, xs = zip(*part, strict=True)
        if len(part) >= least * region.sum():
            expected.append(Box(min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    found = part_boxes(region, least=least)
    assert sorted(map(vars, found), key=str) == sorted(map(vars, expected), key=str)


def test_the_largest_part_comes_first() -> None:
    region = np.zeros((5, 9), dtype=np.bool_)
    region[0, :2] = region[2:4, 4:8] = region[4, 0] = True
    assert part_boxes(region) == [Box(4, 2, 8, 4), Box(0, 0, 2, 1), Box(0, 4, 1, 5)]
    assert part_boxes(region, least=0.1) == [Box(4, 2, 8, 4), Box(0, 0, 2, 1)]


def test_areas_below_maps_are_those_of_the_metrics(subject: Subject) -> None:
    maps = torch.rand((2, 32, 32), generator=torch.Generator().manual_seed(1))
    found = judge(subject, {("one", "", 1): maps[0].numpy(), ("two", "", 2): maps[1].numpy()}, steps=4)
    for (_, _, target), judged in found.items():
        one = maps[target - 1][None]
        for name, function in (("deletion", metrics.deletion), ("insertion", metrics.insertion)):
            area = float(function(subject.model, subject.inputs, one, target, step=256))
            assert judged.areas[name] == pytest.approx(area, rel=1e-5)
            # Trapezia over the curve that is drawn.
            assert np.trapezoid(judged.curves[name], judged.shares) == pytest.approx(area, rel=1e-5)


def test_tiles_lie_in_reading_order() -> None:
    tiles = np.arange(9)[:, None, None, None] * np.ones((1, 2, 4, 1))
    tiled = upscaling._tiled(tiles, 3)
    assert tiled.shape == (6, 12, 1)
    assert tiled[::2, ::4, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_partial_maps_are_drawn_as_they_enter_the_sum(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times their confidences, each where its patch lies among the patches."""
    drawn: list[tuple[Any, Any]] = []
    coloured = upscaling.coloured

    def spy(photo: Any, values: Any, **how: Any) -> Any:
        drawn.append((photo, values))
        return coloured(photo, values, **how)

    monkeypatch.setattr(upscaling, "coloured", spy)
    upscaling.upscaling_figure(subject, layer="relu2", scales=(1.5,), patches=(2,), steps=0)
    ((photos, values),) = drawn
    ucag = Ucag(subject.model, method="grad_cam", layer="relu2", patches=2, scale=1.5, normalize=False)
    grid = ucag.grid(32, 32)
    target = subject.classes()[0]
    partial = ucag.partial_maps(subject.inputs, torch.tensor([[target]]), grid)
    weighted = partial.maps[0][0][0, :, 0] * partial.confidences[0, :, 0, None, None]
    # Two tiles side by side are about twice as large as the photo.
    assert photos.shape[:2] == values.shape
    assert 56 <= len(values) <= 72
    half = len(values) // 2
    for number, expected in enumerate(weighted.numpy()):
        y, x = divmod(number, 2)
        tile = values[y * half : (y + 1) * half, x * half : (x + 1) * half]
        np.testing.assert_allclose(tile, resized(expected, (half, half)).clip(min=0), rtol=1e-5, atol=1e-7)
        assert tile.any()
