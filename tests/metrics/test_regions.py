"""The metrics of places in a trial: the same values as their functions give without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastcam.metrics.batch import Batch
from fastcam.metrics.localization import (
    ENERGY_POINTING,
    IOU,
    POINTING,
    energy_pointing_game,
    iou,
    pointing_game,
)
from fastcam.metrics.measure import choose, measure
from fastcam.metrics.metric import Metric
from fastcam.metrics.segmentation import (
    AVERAGE_PRECISION,
    PIXEL_ACCURACY,
    SEGMENTATION_IOU,
    average_precision,
    pixel_accuracy,
    segmentation_iou,
)
from fastcam.metrics.trial import Trial
from tests.metrics.toys import SIZE, model_of, some_images

CASES: dict[str, tuple[Metric, Callable[..., Tensor], dict[str, Any]]] = {
    "pointing": (POINTING, pointing_game, {"tolerance": 2}),
    "energy_pointing": (ENERGY_POINTING, energy_pointing_game, {}),
    "iou": (IOU, iou, {"std": 0.5}),
    "average_precision": (AVERAGE_PRECISION, average_precision, {}),
    "pixel_accuracy": (PIXEL_ACCURACY, pixel_accuracy, {}),
    "segmentation_iou": (SEGMENTATION_IOU, segmentation_iou, {}),
}
EVERY = pytest.mark.parametrize(("metric", "function", "options"), CASES.values(), ids=CASES)


def given(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(*shape, *SIZE, generator=generator), torch.rand(*shape, *SIZE, generator=generator) < 0.05


def found(metric: Metric, maps: Tensor, regions: Any, targets: Any, **options: Any) -> dict[str, Tensor]:
    batch = Batch(model_of(torch.float32), some_images(len(maps)).float())
    return measure(Trial(batch, maps, targets, regions=regions), choose([metric], options))


@EVERY
def test_a_trial_gives_what_the_function_gives(
    metric: Metric, function: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    maps, regions = given(6)
    for where in (regions, list(regions)):
        columns = found(metric, maps, where, 0, **options)
        assert list(columns) == [column.name for column in metric.columns] == [metric.name]
        assert torch.equal(columns[metric.name], function(maps, where, **options))
    assert len(function(maps, regions, **options).unique()) > 1
    if options:
        # An option reaches the metric; without it, its default does.
        plain = found(metric, maps, regions, 0)[metric.name]
        assert torch.equal(plain, function(maps, regions))
        assert not torch.equal(plain, function(maps, regions, **options))


@EVERY
def test_several_classes_per_image(metric: Metric, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
    maps, regions = given(3, 2)
    targets = torch.tensor([[0, 1], [2, 3], [4, 0]])
    values = found(metric, maps, regions, targets, **options)[metric.name]
    assert values.shape == (3, 2)
    assert torch.equal(values, function(maps, regions, **options))


@EVERY
def test_regions_are_needed(metric: Metric, function: Callable[..., Tensor], options: dict[str, Any]) -> None:
    maps, _ = given(2)
    with pytest.raises(ValueError, match=rf"regions: not given, but {metric.name} needs it"):
        found(metric, maps, None, 0, **options)


def test_options_are_checked() -> None:
    maps, regions = given(2)
    with pytest.raises(ValueError, match="tolerance: -1 given"):
        found(POINTING, maps, regions, 0, tolerance=-1)
    with pytest.raises(ValueError, match="std: '1' given"):
        found(IOU, maps, regions, 0, std="1")


def test_accuracy_is_a_mean_of_classes() -> None:
    assert [column.aggregate for column in POINTING.columns] == ["class mean"]
