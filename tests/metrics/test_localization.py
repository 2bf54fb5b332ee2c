"""Pointing game, energy pointing game and IoU: against loops over pixels, sums done by hand, and Quantus."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import quantus
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from torch import Tensor

from fastcam.metrics.localization import energy_pointing_game, iou, pointing_game

FUNCTIONS = {"pointing": pointing_game, "energy_pointing": energy_pointing_game, "iou": iou}
EVERY = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def some(
    count: int = 6, height: int = 9, width: int = 12, *, levels: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Signed maps, of few different values for many ties, and regions: a rectangle each."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, height, width, generator=generator)
    if levels is not None:
        maps = (maps * levels).round() / levels
    regions = torch.zeros(count, height, width, dtype=torch.bool)
    for region in regions:
        top, left = (int(torch.randint(0, size - 2, (), generator=generator)) for size in (height, width))
        region[top : top + 4, left : left + 5] = True
    return maps, regions


def slow_pointing(values: Tensor, region: Tensor, tolerance: float) -> float:
    """Every pixel of the region, one after the other."""
    table = values.tolist()
    pixels = [(y, x) for y in range(len(table)) for x in range(len(table[0]))]
    top, left = max(pixels, key=lambda p: (table[p[0]][p[1]], -p[0], -p[1]))
    if all(table[y][x] == table[top][left] for y, x in pixels):
        return 0.0
    return float(any(region[y, x] and math.hypot(y - top, x - left) <= tolerance for y, x in pixels))


def slow_energy(values: Tensor, region: Tensor) -> float:
    positive = [max(v, 0.0) for v in values.double().flatten().tolist()]
    low, high = min(positive), max(positive)
    scaled = [0.0 if high == low else (v - low) / (high - low) for v in positive]
    total = sum(scaled)
    inside = sum(v for v, r in zip(scaled, region.flatten().tolist(), strict=True) if r)
    return inside / total if total > 0 else 0.0


def slow_iou(values: Tensor, region: Tensor, std: float) -> float:
    numbers = values.double().flatten().tolist()
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in numbers) / len(numbers))
    bright = [v > mean + std * deviation for v in numbers]
    pairs = list(zip(bright, region.flatten().tolist(), strict=True))
    return sum(b and r for b, r in pairs) / sum(b or r for b, r in pairs)


@pytest.mark.parametrize("levels", [None, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3, 100])
def test_pointing_game_as_a_loop_has_it(tolerance: float, levels: int | None) -> None:
    maps, regions = some(12, levels=levels)
    expected = [slow_pointing(m, r, tolerance) for m, r in zip(maps, regions, strict=True)]
    values = pointing_game(maps, regions, tolerance=tolerance)
    assert values.tolist() == expected
    assert values.dtype == torch.float32


def test_energy_as_a_loop_has_it() -> None:
    maps, regions = some()
    maps[1] += 10  # nowhere 0: its least value counts as nothing
    maps[2] = -maps[2].abs()  # no positive part
    expected = [slow_energy(m, r) for m, r in zip(maps, regions, strict=True)]
    assert expected[2] == 0
    assert energy_pointing_game(maps, regions).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("std", [1.0, 0, -0.5, 2])
def test_iou_as_a_loop_has_it(std: float) -> None:
    maps, regions = some()
    expected = [slow_iou(m, r, std) for m, r in zip(maps, regions, strict=True)]
    assert iou(maps, regions, std=std).tolist() == pytest.approx(expected, abs=1e-6)


def test_by_hand() -> None:
    maps = torch.tensor([[[0.0, 0, 0], [0, 3, 1], [0, 0, 0]]])
    regions = torch.zeros(1, 3, 3, dtype=torch.bool)
    regions[0, 1:, 2] = True  # the 1, and the pixel below it
    assert pointing_game(maps, regions).tolist() == [0]
    assert pointing_game(maps, regions, tolerance=1).tolist() == [1]
    assert energy_pointing_game(maps, regions).tolist() == [0.25]
    # mean 4/9, variance 10/9 - 16/81 = 74/81: only the 3 lies above 4/9 + 0.956
    assert iou(maps, regions).tolist() == [0]
    assert iou(maps, regions, std=0.5).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e-30])
def test_flat_maps(value: float) -> None:
    maps, regions = torch.full((1, 7, 11), value), torch.ones(1, 7, 11, dtype=torch.bool)
    assert pointing_game(maps, regions).tolist() == [0]
    assert energy_pointing_game(maps, regions).tolist() == [0]
    assert iou(maps, regions, std=-1).tolist() == [0]
    # The same when the map is resized, which a flat map survives up to rounding.
    large = [torch.ones(50, 37, dtype=torch.bool)]
    assert [f(maps, large).tolist() for f in FUNCTIONS.values()] == [[0], [0], [0]]


@EVERY
def test_a_region_without_a_pixel_is_undefined(function: Any) -> None:
    maps, regions = some(3)
    regions[1] = False
    assert function(maps, regions).isnan().tolist() == [False, True, False]
    assert function(maps, list(regions)).isnan().tolist() == [False, True, False]


def test_of_equal_maxima_the_first_counts() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = maps[0, 3, 3] = 1
    regions = torch.zeros(2, 4, 4, dtype=torch.bool)
    regions[0, 1, 2] = regions[1, 3, 3] = True
    assert pointing_game(maps.expand(2, 4, 4), regions).tolist() == [1, 0]


@EVERY
def test_maps_are_resized_to_their_photos(function: Any) -> None:
    maps, _ = some(4)
    sizes = [(20, 31), (9, 12), (20, 31), (5, 40)]
    generator = torch.Generator().manual_seed(3)
    regions = [torch.rand(size, generator=generator) < 0.4 for size in sizes]
    resized = [
        F.interpolate(m[None, None], r.shape, mode="bilinear", align_corners=False)[0]
        for m, r in zip(maps, regions, strict=True)
    ]
    expected = [float(function(m, r[None])) for m, r in zip(resized, regions, strict=True)]
    assert function(maps, regions).tolist() == pytest.approx(expected, abs=1e-6)


def test_tolerance_is_in_pixels_of_the_photo() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 4, 4] = 1
    region = torch.zeros(80, 80, dtype=torch.bool)
    # The maximum is near (44.5, 44.5) of the photo.
    region[44, 60] = True
    assert pointing_game(maps, [region], tolerance=10).tolist() == [0]
    assert pointing_game(maps, [region], tolerance=16).tolist() == [1]


@EVERY
def test_several_maps_per_image(function: Any) -> None:
    maps, regions = some(6)
    expected = function(maps, regions).view(3, 2)
    assert torch.equal(function(maps.view(3, 2, 9, 12), regions.view(3, 2, 9, 12)), expected)
    assert torch.equal(function(maps.view(3, 2, 9, 12), list(regions)), expected)


@EVERY
def test_maps_are_not_changed(function: Any) -> None:
    maps, regions = some(3)
    before = maps.clone()
    function(maps, regions)
    function(maps, list(regions))
    assert torch.equal(maps, before)


@EVERY
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([2.0**-10, 0.5, 4.0, 2.0**20]))
def test_the_scale_of_a_map_does_not_matter(function: Any, seed: int, scale: float) -> None:
    """Powers of two round nothing."""
    maps, regions = some(3, seed=seed)
    assert torch.equal(function(maps * scale, regions), function(maps, regions))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tolerance=st.floats(0, 8))
def test_more_tolerance_never_loses_a_hit(seed: int, tolerance: float) -> None:
    maps, regions = some(4, seed=seed, levels=2)
    assert bool((pointing_game(maps, regions, tolerance=tolerance) >= pointing_game(maps, regions)).all())
    assert bool((pointing_game(maps, regions, tolerance=tolerance + 1) >= pointing_game(maps, regions)).all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_energy_in_a_region_and_outside_it_is_all_of_it(seed: int) -> None:
    maps, regions = some(4, seed=seed)
    total = energy_pointing_game(maps, regions) + energy_pointing_game(maps, ~regions)
    assert total.tolist() == pytest.approx([1] * 4, abs=1e-5)


def quantus_hits(maps: np.ndarray, regions: np.ndarray) -> list[float]:
    game = quantus.PointingGame(normalise=False, disable_warnings=True, return_aggregate=False)
    scores = game.evaluate_batch(a_batch=maps[:, None], s_batch=regions[:, None], x_batch=None, y_batch=None)
    return [float(score) for score in scores]


def test_pointing_game_as_quantus_has_it() -> None:
    """Quantus takes any of equal maxima and counts flat maps as hits; it agrees where the maximum is one pixel."""
    maps, regions = some(40, seed=5)
    hits = pointing_game(maps, regions).tolist()
    assert hits == quantus_hits(maps.numpy(), regions.numpy())
    assert 0 < sum(hits) < 40
    flat, whole = torch.ones(1, 9, 12), torch.ones(1, 9, 12, dtype=torch.bool)
    assert quantus_hits(flat.numpy(), whole.numpy()) == [1]
    assert pointing_game(flat, whole).tolist() == [0]


@pytest.mark.parametrize("tolerance", [1, 2, 3.5])
def test_tolerance_as_quantus_has_it_on_grown_regions(tolerance: float) -> None:
    """Quantus has no tolerance: a region grown by a disc of that radius says the same."""
    maps, regions = some(200, 16, 20, seed=6)
    reach = math.floor(tolerance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = y**2 + x**2 <= tolerance**2
    grown = np.stack([binary_dilation(region, disc) for region in regions.numpy()])
    hits = pointing_game(maps, regions, tolerance=tolerance).tolist()
    assert hits == quantus_hits(maps.numpy(), grown)
    assert sum(hits) > sum(pointing_game(maps, regions).tolist())


# -- bad input

MAPS, REGIONS = some(3)
NAN = MAPS.clone()
NAN[1, 2, 3] = math.nan


@EVERY
@pytest.mark.parametrize(
    ("maps", "regions", "error", "match"),
    [
        (MAPS.numpy(), REGIONS, TypeError, r"maps: ndarray given, a float tensor \(..., H, W\)"),
        (REGIONS, REGIONS, TypeError, r"maps: torch.bool given"),
        (MAPS[0], REGIONS[0], ValueError, r"maps: .*\(9, 12\) given"),
        (MAPS[:0], REGIONS[:0], ValueError, r"maps: .*\(0, 9, 12\).*at least one"),
        (NAN, REGIONS, ValueError, r"maps: NaN"),
        (MAPS, REGIONS.float(), ValueError, r"regions: torch.float32 .* given, booleans of shape \(3, 9, 12\)"),
        (MAPS, REGIONS[:2], ValueError, r"regions: torch.bool \(2, 9, 12\) given"),
        (MAPS, list(REGIONS[:2]), ValueError, r"regions: list given.*a list of 3"),
        (MAPS, [*REGIONS[:2], REGIONS[2, 0]], ValueError, r"regions: list"),
        (MAPS, [*REGIONS[:2], REGIONS[2, :0]], ValueError, r"regions: .*\(0, 12\)"),
        (MAPS, None, ValueError, r"regions: NoneType"),
    ],
    ids=["numpy", "bool_maps", "one_map", "no_maps", "nan", "float", "few", "short", "row", "empty", "none"],
)  # fmt: skip
def test_bad_maps_and_regions(function: Any, maps: Any, regions: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        function(maps, regions)


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), ("15", ValueError), (True, ValueError)],
)
def test_bad_tolerances(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"tolerance: .* given, a finite number of at least 0 is valid"):
        pointing_game(MAPS, REGIONS, tolerance=value)


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), (None, ValueError)])
def test_bad_stds(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"std: .* given, a finite number is valid"):
        iou(MAPS, REGIONS, std=value)
