"""Every metric against its definition, worked out one pixel and one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastcam import metrics
from tests.metrics import slow
from tests.metrics.toys import CLASSES, all_maps, gradient_maps, model_of, some_images

MODEL = model_of(torch.float64)
MAPS = all_maps()
IMAGES = some_images(len(MAPS))
TARGETS = torch.arange(len(MAPS)) % CLASSES
BLACK = [-2.1, -1.5, 0.5]


def close(found: Tensor, expected: list[float]) -> None:
    """Equal but for one rounding to float32."""
    assert found.dtype == torch.float32
    assert found.shape == (len(expected),)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64).float(), rtol=1e-6, atol=1e-7, equal_nan=True
    )


def per_image(of_one: Callable[[Tensor, Tensor, int], float]) -> list[float]:
    return [of_one(x, m, int(c)) for x, m, c in zip(IMAGES, MAPS, TARGETS, strict=True)]


@pytest.mark.parametrize("baseline", [0.0, -1.25, BLACK], ids=["mean", "number", "black"])
@pytest.mark.parametrize("mask", ["soft", "top50", "soft_top50"])
def test_drop_and_increase(mask: str, baseline: Any) -> None:
    drop = metrics.average_drop(MODEL, IMAGES, MAPS, TARGETS, mask=mask, baseline=baseline)
    increase = metrics.average_increase(MODEL, IMAGES, MAPS, TARGETS, mask=mask, baseline=baseline)
    options = {"kind": mask, "baseline": baseline}
    close(drop, per_image(lambda x, m, c: slow.drop(MODEL, x, m, c, **options)))
    close(increase, per_image(lambda x, m, c: slow.increase(MODEL, x, m, c, **options)))
    # Or else these figures would say nothing.
    assert drop.max() > 20
    assert 0 < increase.count_nonzero() < len(increase)


@pytest.mark.parametrize("baseline", [0.0, BLACK], ids=["mean", "black"])
def test_adcc_and_its_parts(baseline: Any) -> None:
    options = {"explain": gradient_maps, "baseline": baseline}
    coherency = metrics.coherency(MODEL, IMAGES, MAPS, TARGETS, **options)
    adcc = metrics.adcc(MODEL, IMAGES, MAPS, TARGETS, **options)
    close(coherency, per_image(lambda x, m, c: slow.coherency(gradient_maps, x, m, c, baseline=baseline)))
    close(metrics.complexity(MAPS), [slow.complexity(m) for m in MAPS])
    close(adcc, per_image(lambda x, m, c: slow.adcc(MODEL, gradient_maps, x, m, c, baseline=baseline)))
    assert 0.1 < adcc.max() < 1


@pytest.mark.parametrize("baseline", [0.0, BLACK], ids=["mean", "black"])
def test_densities(baseline: Any) -> None:
    positive = metrics.positive_density(MODEL, IMAGES, MAPS, TARGETS, baseline=baseline)
    negative = metrics.negative_density(MODEL, IMAGES, MAPS, TARGETS, baseline=baseline)
    close(positive, per_image(lambda x, m, c: slow.positive_density(MODEL, x, m, c, baseline=baseline)))
    close(negative, per_image(lambda x, m, c: slow.negative_density(MODEL, x, m, c, baseline=baseline)))
    # "negative", "zero" and "flat" have no positive part to divide by; the others do.
    assert positive.isnan().tolist() == [False, False, False, False, True, True, True, False]


# 156 pixels: 13 steps; 12 and a shorter one; one only; more than there are.
@pytest.mark.parametrize("step", [12, 37, 156, 999])
def test_deletion(step: int) -> None:
    found = metrics.deletion(MODEL, IMAGES, MAPS, TARGETS, step=step)
    close(found, per_image(lambda x, m, c: slow.deletion(MODEL, x, m, c, step=step)))
    curves, shares = metrics.deletion_curve(MODEL, IMAGES, MAPS, TARGETS, step=step)
    for one, image, of_map, target in zip(curves, IMAGES, MAPS, TARGETS, strict=True):
        scores, at = slow.curve(MODEL, image, torch.zeros_like(image), of_map, int(target), step)
        close(one, scores)
        close(shares, at)


@pytest.mark.parametrize(("step", "taps", "sigma"), [(12, 11, 5.0), (37, 5, 1.5), (999, 11, 5.0)])
def test_insertion(step: int, taps: int, sigma: float) -> None:
    options = {"step": step, "taps": taps, "sigma": sigma}
    found = metrics.insertion(MODEL, IMAGES[:4], MAPS[:4], TARGETS[:4], **options)
    curves, shares = metrics.insertion_curve(MODEL, IMAGES[:4], MAPS[:4], TARGETS[:4], **options)
    for i, (image, of_map, target) in enumerate(zip(IMAGES[:4], MAPS[:4], TARGETS[:4], strict=True)):
        scores, at = slow.curve(MODEL, slow.blurred(image, taps, sigma), image, of_map, int(target), step)
        close(curves[i], scores)
        close(shares, at)
        close(found[i : i + 1], [slow.area(scores, at)])


def test_the_default_step_and_blur_are_those_of_rise() -> None:
    images, maps = some_images(2, size=(16, 15)), torch.rand(2, 16, 15, generator=torch.Generator().manual_seed(0))
    model = model_of(torch.float64)
    assert torch.equal(
        metrics.insertion(model, images, maps, 1),
        metrics.insertion(model, images, maps, 1, step=224, taps=11, sigma=5.0),
    )
    assert torch.equal(metrics.deletion(model, images, maps, 1), metrics.deletion(model, images, maps, 1, step=224))
    assert metrics.deletion_curve(model, images, maps, 1)[1].tolist() == pytest.approx([0, 224 / 240, 1])


def test_none_stands_for_the_predicted_class() -> None:
    predicted = MODEL(IMAGES).argmax(dim=1)
    assert torch.equal(metrics.average_drop(MODEL, IMAGES, MAPS), metrics.average_drop(MODEL, IMAGES, MAPS, predicted))


def test_several_targets_are_as_many_calls() -> None:
    targets = torch.tensor([[0, 3], [2, 2], [4, 1]])
    images, maps = IMAGES[:3], MAPS[:6].view(3, 2, *MAPS.shape[1:])
    options: dict[str, Any] = {"metrics": list(metrics.METRICS), "step": 50}
    options["explain"] = gradient_maps
    # regions are asked for by other metrics.
    options["metrics"] = [name for name in metrics.METRICS if "regions" not in metrics.METRICS[name].needs]
    together = metrics.evaluate(MODEL, images, maps, targets, batch_size=4, **options)
    for column in range(2):
        alone = metrics.evaluate(MODEL, images, maps[:, column], targets[:, column], **options)
        for name, values in alone.items():
            torch.testing.assert_close(together[name][:, column], values, rtol=1e-6, atol=1e-7, equal_nan=True)
