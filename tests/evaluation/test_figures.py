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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import fastcam
from fastcam import metrics
from fastcam.attribution import Ucag
from fastcam.cli import app
from fastcam.datasets.sample import Box
from fastcam.evaluation.figures import sanity, segmentation, selectivity, sensitivity, upscaling
from fastcam.evaluation.figures.curves import judge
from fastcam.evaluation.figures.panels import Cell, Panel, Plot, Section
from fastcam.evaluation.figures.regions import part_boxes
from fastcam.evaluation.figures.subject import Subject, with_targets
from fastcam.evaluation.sanity import randomization
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


# -- what the figures' panels hold

Sections = list[Section]


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Sections:
    """What the figures made in a test are drawn of."""
    found: Sections = []

    def spy(given: Sections, **_: object) -> Figure:
        found.extend(given)
        return Figure()

    for module in (sanity, segmentation, selectivity, sensitivity):
        monkeypatch.setattr(module, "panel_figure", spy)
    return found


def panel(cell: Cell) -> Panel:
    assert isinstance(cell, Panel)
    return cell


def axes_of(cell: Cell) -> Axes:
    """A plot, drawn."""
    assert isinstance(cell, Plot)
    axes = Figure().subplots()
    cell.draw(axes)
    return axes


def map_of(subject: Subject, target: int, layer: str) -> NDArray[np.float32]:
    maps = fastcam.relevance_cam(subject.model, subject.inputs, target, layer, normalize=False)
    return maps[0].numpy()


def test_contrasts_are_red_for_the_first_class_and_blue_for_the_other(subject: Subject, sections: Sections) -> None:
    layers, targets = ("relu1", "relu2"), (2, 0)
    sensitivity.sensitivity_figure(with_targets(subject, targets), layers=layers)
    *_, (name, cells) = sections[0].rows.items()
    assert name == "class 2\nless class 0"
    told, *contrasts = map(panel, cells)
    assert told.note == "red: class 2\nblue: class 0"
    correlations = []
    for layer, contrast in zip(layers, contrasts, strict=True):
        first, other = (map_of(subject, target, layer) for target in targets)
        a, b = ((m - m.mean()) / m.std() for m in (first, other))
        # What is laid over the photo, as much red more than blue as the first class prevails.
        colours = contrast.picture.astype(float) - subject.photo / 2
        redder = colours[..., 0] - colours[..., 2]
        clear = np.abs(a - b) > 0.2
        assert clear.any()
        assert (np.sign(redder) == np.sign(a - b))[clear].all()
        correlations.append(np.corrcoef(first.flat, other.flat)[0, 1])
        assert contrast.note == f"correlation {correlations[-1]:.2f}"
    assert len({f"{correlation:.2f}" for correlation in correlations}) == 2


@pytest.mark.parametrize("deviations", [0.0, 1.0, 1.5])
def test_a_region_is_what_exceeds_the_threshold(deviations: float, subject: Subject, sections: Sections) -> None:
    layers = ("relu1", "relu2")
    segmentation.segmentation_figure(with_targets(subject, (1,)), layers=layers, deviations=deviations)
    assert list(sections[0].rows) == list(layers)
    for layer, cells in sections[0].rows.items():
        values = map_of(subject, 1, layer)
        high = values > values.mean() + deviations * values.std()
        assert 0 < high.sum() < 0.75 * high.size
        _, outlined, kept = map(panel, cells)
        assert outlined.region is not None
        np.testing.assert_array_equal(outlined.region, high)
        np.testing.assert_array_equal(outlined.picture, subject.photo)
        assert outlined.boxes == part_boxes(high)
        assert outlined.note.startswith(f"{high.mean():.0%} of the pixels")
        np.testing.assert_array_equal(kept.picture, np.where(high[..., None], subject.photo, 0))


def test_stages_are_those_of_their_mode(subject: Subject, sections: Sections) -> None:
    stages = ("fc", "conv2", "conv1")
    modes = ("cascading", "independent")
    sanity.sanity_figure(with_targets(subject, (1,)), layers=("relu1",), modes=modes, stages=stages, seed=3)
    (section,) = sections
    own = subject.overlay("relevance_cam", map_of(subject, 1, "relu1"))
    pictures = {}
    for mode in modes:
        expected = list(
            randomization(
                subject.model, subject.inputs, 1, "relu1", method="relevance_cam", mode=mode, layers=stages, seed=3
            )
        )
        _, whole, *shown = map(panel, section.rows[mode])
        np.testing.assert_array_equal(whole.picture, own)
        assert [cell.title for cell in shown] == list(stages)
        for cell, stage in zip(shown, expected, strict=True):
            correlation, ssim = float(stage.rank_correlation), float(stage.ssim)
            assert cell.note == f"rank corr. {correlation:.2f}, SSIM {ssim:.2f}"
            np.testing.assert_array_equal(cell.picture, subject.overlay("relevance_cam", stage.maps[0].numpy()))
        # Or captions could be exchanged.
        assert any(f"{float(s.rank_correlation):.2f}" != f"{float(s.ssim):.2f}" for s in expected)
        (plot,) = section.rows[f"{mode}, all stages"]
        lines = {line.get_label(): line.get_ydata() for line in axes_of(plot).lines}
        np.testing.assert_allclose(lines["rank correlation"], [float(s.rank_correlation) for s in expected])
        np.testing.assert_allclose(lines["SSIM"], [float(s.ssim) for s in expected])
        pictures[mode] = [cell.picture for cell in shown]
    assert not np.array_equal(pictures["cascading"][-1], pictures["independent"][-1])


def test_weights_are_drawn_upwards_from_zero(subject: Subject, sections: Sections) -> None:
    selectivity.selectivity_figure(with_targets(subject, (1,)), methods=("grad_cam",), layers=("relu2",), top=2)
    info = fastcam.grad_cam(subject.model, subject.inputs, 1, "relu2", return_info=True)
    weights = info.weights[0].numpy() / info.weights.abs().max().item()
    largest = np.argsort(-weights)[:2]
    plot, *most, _ = sections[0].rows["grad_cam"]
    axes = axes_of(plot)
    drawn, marked = (np.array(lines.get_segments()) for lines in axes.collections)
    # Each from (channel, 0) to (channel, weight).
    np.testing.assert_allclose(drawn, [[[k, 0], [k, weight]] for k, weight in enumerate(weights)], atol=1e-6)
    np.testing.assert_allclose(marked, [[[k, 0], [k, weights[k]]] for k in largest], atol=1e-6)
    low, high = axes.get_ylim()
    assert low < weights.min() < 0 < weights.max() < high
    for k, cell in zip(largest, map(panel, most), strict=True):
        assert cell.title == f"channel {k}"
        assert cell.note.startswith(f"weight {weights[k]:.2f}")
