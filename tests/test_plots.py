import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import fastcam
from fastcam.plots import Block, grid_figure, masked, overlay, resized, scaled, write_npy, write_png

GREY = np.full((8, 12, 3), 100, dtype=np.uint8)


def colour(level: float, cmap: str = "turbo") -> np.ndarray:
    return np.array(matplotlib.colormaps[cmap](level)[:3]) * 255


def test_overlay_blends_the_colour_map() -> None:
    values = np.zeros((8, 12))
    values[2, 3] = 4.0
    values[5, 7] = 1.0
    before = values.copy()
    result = overlay(GREY, values, alpha=0.25)
    assert result.dtype == np.uint8
    for position, level in (((2, 3), 1.0), ((5, 7), 0.25), ((0, 0), 0.0)):
        expected = 0.75 * 100 + 0.25 * colour(level)
        np.testing.assert_allclose(result[position], expected, atol=0.51)
    assert (values == before).all()
    assert (GREY == 100).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_overlay_at_either_end(alpha: float) -> None:
    values = np.random.default_rng(0).normal(size=(8, 12))
    result = overlay(GREY, values, alpha=alpha, cmap="viridis")
    expected = GREY if alpha == 0 else np.rint(matplotlib.colormaps["viridis"](scaled(values))[..., :3] * 255)
    np.testing.assert_array_equal(result, expected)


def test_zero_of_a_signed_map_has_the_middle_colour() -> None:
    colours = matplotlib.colormaps["seismic"]([0.5, 0.75, 0.25])[:, :3] * 255
    result = overlay(GREY[:1, :3], np.array([[0.0, 1.0, -1.0]]) / 2, alpha=1, signed=True)
    ends = overlay(GREY[:1, :3], np.array([[0.0, 2.0, -4.0]]), alpha=1, signed=True)
    assert np.abs(result[0, 0] - colours[0]).max() <= 2
    assert result[0, 1].tolist() != result[0, 2].tolist()
    assert np.abs(ends[0, 1] - colours[1]).max() <= 1
    assert (overlay(GREY, np.zeros((2, 3)), alpha=1, signed=True) == result[0, 0]).all()


@pytest.mark.parametrize("factor", [1.0, 1e-12, 1e12], ids=str)
def test_overlay_does_not_depend_on_the_maps_scale(factor: float) -> None:
    values = np.random.default_rng(0).normal(size=(4, 6))
    first, second = overlay(GREY, values), overlay(GREY, values * factor)
    assert np.abs(first.astype(int) - second).max() <= 2


def test_flat_map_has_the_colour_of_zero() -> None:
    result = overlay(GREY, np.full((2, 3), 7.0), alpha=1)
    assert (result == np.rint(colour(0.0))).all()


@pytest.mark.parametrize("size", [(8, 12), (21, 13), (4, 7)], ids=str)
def test_resized_is_torchs_bilinear(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    expected = F.interpolate(torch.tensor(values)[None, None], size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resized(values, size), expected[0, 0], atol=1e-5)


def test_map_is_laid_over_the_right_place() -> None:
    values = np.zeros((2, 3))
    values[0, 2] = 1
    result = overlay(GREY, values, alpha=1).astype(int)
    assert (result[0, -1] == np.rint(colour(1.0))).all()
    assert (result[-1, 0] == np.rint(colour(0.0))).all()


def test_masked_keeps_what_exceeds_mean_and_deviation() -> None:
    values = np.zeros((8, 12))
    values[1, 1], values[2, 2] = 10.0, 0.3
    photo = np.full((8, 12, 3), 50, dtype=np.uint8)
    kept = masked(photo, values)
    threshold = values.mean() + values.std()
    assert 0.3 < threshold < 10
    assert (kept[1, 1] == 50).all()
    assert kept.sum() == 150
    assert masked(photo, -values).sum() == 0


@pytest.mark.parametrize(
    ("photo", "values", "options", "message"),
    [
        pytest.param(GREY[..., 0], np.zeros((2, 2)), {}, "photo is uint8 of the shape", id="grey photo"),
        pytest.param(GREY / 255, np.zeros((2, 2)), {}, "photo is float64", id="float photo"),
        pytest.param(GREY, np.zeros((1, 2, 2)), {}, r"map has the shape \(1, 2, 2\)", id="rank"),
        pytest.param(GREY, np.zeros((0, 2)), {}, "map has the shape", id="empty"),
        pytest.param(GREY, np.array([[0, np.nan]]), {}, "NaN", id="NaN"),
        pytest.param(GREY, np.zeros((2, 2)), {"alpha": 1.5}, "alpha is 1.5", id="alpha"),
        pytest.param(GREY, np.zeros((2, 2)), {"cmap": "rainbows"}, "'rainbows', no colour map", id="cmap"),
    ],
)
def test_overlay_refuses(photo: np.ndarray, values: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(photo, values, **options)  # type: ignore[arg-type]


def make_figure(photo: np.ndarray = GREY, title: str = "title") -> matplotlib.figure.Figure:
    red = np.zeros_like(photo) + np.array([255, 0, 0], dtype=np.uint8)
    blocks = [
        Block(heading="tiger cat", cells={("layer2", "cam"): red, ("layer4", "grad_cam"): red}),
        Block(heading="espresso", cells={}),
    ]
    return grid_figure(photo, blocks, rows=("layer2", "layer4"), columns=("cam", "grad_cam"), title=title)


def test_figure_is_laid_out_as_methods_by_layers() -> None:
    figure = make_figure()
    first, second = figure.subfigs
    assert first.get_suptitle() == "tiger cat"
    assert second.get_suptitle() == "espresso"
    axes = np.array(first.axes).reshape(2, 3)
    assert [a.get_title() for a in axes[0]] == ["input", "cam", "grad_cam"]
    assert [a.get_ylabel() for a in axes[:, 0]] == ["layer2", "layer4"]
    shown = [[len(a.images) for a in row] for row in axes]
    assert shown == [[1, 1, 0], [1, 0, 1]]
    assert (axes[1, 0].images[0].get_array() == GREY).all()
    assert (axes[0, 1].images[0].get_array()[0, 0] == [255, 0, 0]).all()
    assert "no map" in axes[0, 2].texts[0].get_text()


@pytest.mark.parametrize("title", ["a$b$.png", r"$\alpha", "a_{2}^x"], ids=str)
def test_titles_are_no_formulas(title: str, tmp_path: Path) -> None:
    write_png(tmp_path / "f.png", make_figure(title=title))
    assert make_figure(title=title).get_suptitle().replace("\\$", "$") == title


@pytest.mark.parametrize("shape", [(8, 40, 3), (40, 8, 3)], ids=["wide", "high"])
def test_figures_of_any_proportion(shape: tuple[int, ...], tmp_path: Path) -> None:
    write_png(tmp_path / "f.png", make_figure(np.full(shape, 9, dtype=np.uint8)))
    with Image.open(tmp_path / "f.png") as image:
        assert min(image.size) > 300


def test_threads_may_draw_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: write_png(tmp_path / f"{i}.png", make_figure()), range(4)))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_pyplot_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It keeps every figure alive, and chooses a window system for the user's whole process.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it raises
    write_png(tmp_path / "f.png", make_figure())
    assert (tmp_path / "f.png").exists()
    imports = re.compile(r"^\s*(import|from) .*\bpyplot\b", re.MULTILINE)
    sources = list(Path(fastcam.__file__).parent.rglob("*.py"))
    assert [source for source in sources if imports.search(source.read_text(encoding="utf-8"))] == []


def test_png_is_lossless_and_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "a" / "p.png", pixels)
    with Image.open(tmp_path / "a" / "p.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), pixels)
    with pytest.raises(TypeError):
        write_png(tmp_path / "a" / "p.png", np.zeros((5, 7, 9)))  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["p.png"]
    with Image.open(tmp_path / "a" / "p.png") as image:
        assert image.size == (7, 5)


def test_npy_keeps_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    write_npy(tmp_path / "m.npy", values)
    read = np.load(tmp_path / "m.npy", allow_pickle=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values)
