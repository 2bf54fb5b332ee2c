"""Maps as segmentations: against loops over pixels, scikit-learn, and sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from fastcam.metrics.segmentation import average_precision, pixel_accuracy, segmentation_iou

FUNCTIONS = {"ap": average_precision, "accuracy": pixel_accuracy, "iou": segmentation_iou}
EVERY = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def some(count: int = 6, levels: int | None = None, seed: int = 0, share: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, 8, 11, generator=generator)
    if levels is not None:
        maps = (maps * levels).round() / levels
    regions = torch.rand(count, 8, 11, generator=generator) < share
    regions[:, 3, 4] = True
    return maps, regions


def slow_average_precision(values: Tensor, region: Tensor) -> float:
    """A threshold at every different value, from above."""
    pixels = list(zip(values.flatten().tolist(), region.flatten().tolist(), strict=True))
    positives, total, before = sum(r for _, r in pixels), 0.0, 0.0
    for threshold in sorted({v for v, _ in pixels}, reverse=True):
        taken = [r for v, r in pixels if v >= threshold]
        recall = sum(taken) / positives
        total += (recall - before) * sum(taken) / len(taken)
        before = recall
    return total


@pytest.mark.parametrize("levels", [None, 4, 1], ids=["distinct", "some_ties", "many_ties"])
def test_average_precision_as_a_loop_and_scikit_learn_have_it(levels: int | None) -> None:
    maps, regions = some(levels=levels)
    values = average_precision(maps, regions)
    pairs = list(zip(maps, regions, strict=True))
    assert values.dtype == torch.float32
    assert values.tolist() == pytest.approx([slow_average_precision(m, r) for m, r in pairs], abs=1e-6)
    theirs = [average_precision_score(r.flatten().numpy(), m.flatten().numpy()) for m, r in pairs]
    assert values.tolist() == pytest.approx(theirs, abs=1e-6)


def test_average_precision_of_many_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 224, 224, generator=generator)
    regions = torch.rand(2, 224, 224, generator=generator) < maps
    theirs = [
        average_precision_score(r.flatten().numpy(), m.flatten().numpy()) for m, r in zip(maps, regions, strict=True)
    ]
    assert average_precision(maps, regions).tolist() == pytest.approx(theirs, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=12, max_size=12),
    mask=st.lists(st.booleans(), min_size=12, max_size=12).filter(any),
)
def test_average_precision_with_any_ties(values: list[int], mask: list[bool]) -> None:
    maps, regions = torch.tensor(values).float().view(1, 3, 4), torch.tensor(mask).view(1, 3, 4)
    expected = slow_average_precision(maps[0], regions[0])
    assert float(average_precision(maps, regions)) == pytest.approx(expected, abs=1e-6)
    # Only the order counts.
    assert float(average_precision(maps.exp(), regions)) == pytest.approx(expected, abs=1e-6)


def test_accuracy_and_iou_as_loops_have_them() -> None:
    maps, regions = some()
    accuracies, ious = [], []
    for m, r in zip(maps.double().flatten(1).tolist(), regions.flatten(1).tolist(), strict=True):
        mean = sum(m) / len(m)
        pairs = [(v > mean, inside) for v, inside in zip(m, r, strict=True)]
        accuracies.append(sum(f == i for f, i in pairs) / len(pairs))
        ious.append(sum(f and i for f, i in pairs) / sum(f or i for f, i in pairs))
    assert pixel_accuracy(maps, regions).tolist() == pytest.approx(accuracies, abs=1e-6)
    assert segmentation_iou(maps, regions).tolist() == pytest.approx(ious, abs=1e-6)


def test_by_hand() -> None:
    maps = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    regions = torch.tensor([[[True, False], [True, False]]])
    # Precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision(maps, regions).tolist() == [pytest.approx(5 / 6)]
    assert pixel_accuracy(maps, regions).tolist() == [0.5]  # above 2.5: the 4 and the 3
    assert segmentation_iou(maps, regions).tolist() == [pytest.approx(1 / 3)]


@EVERY
def test_a_map_that_is_its_mask_is_perfect(function: Any) -> None:
    _, regions = some()
    assert function(regions.float(), regions).tolist() == [1] * 6


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_flat_maps(value: float) -> None:
    _, regions = some()
    maps, share = torch.full((6, 8, 11), value), regions.float().mean((1, 2))
    assert average_precision(maps, regions).tolist() == pytest.approx(share.tolist())
    assert pixel_accuracy(maps, regions).tolist() == pytest.approx((1 - share).tolist())
    assert segmentation_iou(maps, regions).tolist() == [0] * 6


@EVERY
def test_a_mask_without_a_pixel_is_undefined(function: Any) -> None:
    maps, regions = some(3)
    regions[2] = False
    assert function(maps, regions).isnan().tolist() == [False, False, True]


@EVERY
def test_maps_are_resized_to_their_photos(function: Any) -> None:
    maps, _ = some(3)
    generator = torch.Generator().manual_seed(3)
    regions = [torch.rand(size, generator=generator) < 0.4 for size in [(20, 31), (8, 11), (20, 31)]]
    resized = [
        F.interpolate(m[None, None], r.shape, mode="bilinear", align_corners=False)[0]
        for m, r in zip(maps, regions, strict=True)
    ]
    expected = [float(function(m, r[None])) for m, r in zip(resized, regions, strict=True)]
    assert function(maps, regions).tolist() == pytest.approx(expected, abs=1e-6)


@EVERY
def test_several_maps_per_image(function: Any) -> None:
    maps, regions = some(6)
    several = function(maps.view(2, 3, 8, 11), regions.view(2, 3, 8, 11))
    assert torch.equal(several, function(maps, regions).view(2, 3))


@EVERY
def test_bad_input(function: Any) -> None:
    maps, regions = some(3)
    with pytest.raises(TypeError, match=r"maps: torch.int64 given"):
        function(maps.long(), regions)
    with pytest.raises(ValueError, match=r"regions: torch.bool \(3, 7, 11\) given, .*\(3, 8, 11\)"):
        function(maps, regions[:, 1:])
    with pytest.raises(ValueError, match=r"maps: NaN or infinite"):
        function(maps / 0, regions)
