"""What must hold for any map: ranges, invariances, and the maps whose scores are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastcam
from fastcam import metrics
from tests.metrics.toys import SIZE, all_maps, build, explainer, gradient_maps, model_of, some_images

MODEL = model_of(torch.float64)
IMAGES = some_images(2)
PIXELS = SIZE[0] * SIZE[1]
# Whole numbers, many of them equal.
WHOLE_MAPS = st.lists(st.integers(-4, 6), min_size=2 * PIXELS, max_size=2 * PIXELS).map(
    lambda values: torch.tensor(values, dtype=torch.float64).view(2, *SIZE)
)
SHARES = st.floats(0, 1, allow_subnormal=False)


@settings(max_examples=12, deadline=None)
@given(maps=WHOLE_MAPS, target=st.integers(0, 4), mask=st.sampled_from(["soft", "top50", "soft_top50"]))
def test_ranges(maps: Tensor, target: int, mask: str) -> None:
    names = ["drop", "increase", "coherency", "complexity", "adcc", "insertion", "deletion", "negative_density"]
    options: dict[str, Any] = {"mask": mask, "step": 40, "explain": gradient_maps}
    found = metrics.evaluate(MODEL, IMAGES, maps, target, metrics=names, **options)
    highest = {"drop": 100, "adcc_drop": 100, "increase": 100, "negative_density": float("inf")}
    for name, values in found.items():
        assert values.isfinite().all(), name
        assert values.min() >= 0, name
        assert values.max() <= highest.get(name, 1), name
    # The mean of three is between the least and the greatest of them.
    drop = metrics.average_drop(MODEL, IMAGES, maps, target)
    parts = torch.stack([found["coherency"], 1 - found["complexity"], 1 - drop / 100])
    assert (found["adcc"] <= parts.amax(0) * (1 + 1e-5)).all()
    assert (found["adcc"] >= parts.amin(0) * (1 - 1e-5) - 1e-7).all()


@settings(max_examples=12, deadline=None)
@given(maps=WHOLE_MAPS)
def test_insertion_and_deletion_know_the_order_of_pixels_alone(maps: Tensor) -> None:
    """Of transforms that keep order and ties, and are exact on whole numbers."""
    options: dict[str, Any] = {"metrics": ["insertion", "deletion"], "step": 31}
    expected = metrics.evaluate(MODEL, IMAGES, maps, 1, **options)
    for same in (maps**3, 4 * maps - 100, torch.where(maps > 0, maps + 7, maps)):
        for name, values in metrics.evaluate(MODEL, IMAGES, same, 1, **options).items():
            assert torch.equal(values, expected[name]), name


@settings(max_examples=12, deadline=None)
@given(maps=WHOLE_MAPS, scale=st.sampled_from([0.25, 2.0, 64.0]))
def test_scale_and_negative_values_of_a_map_do_not_count(maps: Tensor, scale: float) -> None:
    options: dict[str, Any] = {"metrics": ["drop", "adcc", "positive_density"], "explain": gradient_maps}
    expected = metrics.evaluate(MODEL, IMAGES, maps, 2, **options)
    other = torch.where(maps < 0, maps - 3, maps) * scale
    for name, values in metrics.evaluate(MODEL, IMAGES, other, 2, **options).items():
        assert torch.equal(values.nan_to_num(-1), expected[name].nan_to_num(-1)), name


@given(coherency=SHARES, complexity=SHARES, drop=SHARES)
def test_harmonic_adcc(coherency: float, complexity: float, drop: float) -> None:
    parts = [coherency, 1 - complexity, 1 - drop]
    given_parts = [torch.tensor(value, dtype=torch.float64) for value in (coherency, complexity, drop)]
    expected = 0.0 if min(parts) == 0 else 3 / sum(1 / part for part in parts)
    assert metrics.harmonic_adcc(*given_parts).item() == pytest.approx(expected, rel=1e-12)


def test_harmonic_adcc_of_several_at_once() -> None:
    found = metrics.harmonic_adcc(
        torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.5, 0.2, 1.0]), torch.tensor([0.5, 0.1, 0])
    )
    assert found.tolist() == [0.5, 0.0, 0.0]


def test_fake_cam_scores_as_its_paper_says() -> None:
    """adcc section 3: hardly a drop, and coherent, but so complex that hardly any ADCC is left."""
    model, images = build(), some_images(4, size=(32, 32)).float()
    explain = fastcam.Explainer(model, method="fake_cam")
    names = ["drop", "coherency", "complexity", "adcc"]
    found = metrics.evaluate(model, images, explain(images), metrics=names, explain=explain)
    assert found["drop"].max() < 3
    assert found["coherency"].min() > 0.999
    assert torch.allclose(found["complexity"], torch.tensor(1023 / 1024))
    assert found["adcc"].max() < 0.01


def test_a_map_of_the_whole_object_drops_nothing() -> None:
    # 1 wherever the image is not 0 already: the masked image is the image.
    images = some_images(2)
    images[:, :, :, :4] = 0
    maps = torch.zeros(2, *SIZE, dtype=torch.float64)
    maps[:, :, 4:] = 1
    assert metrics.average_drop(MODEL, images, maps, 0).tolist() == [0, 0]
    assert metrics.average_increase(MODEL, images, maps, 0).tolist() == [0, 0]
    assert metrics.complexity(maps).tolist() == pytest.approx([9 / 13] * 2)


def test_the_upper_half_of_an_odd_number_of_pixels_is_the_smaller_one() -> None:
    images = some_images(1, size=(3, 5))
    maps = torch.arange(15.0, dtype=torch.float64).view(1, 3, 5)
    kept = torch.zeros(3, 5, dtype=torch.float64)
    kept.view(-1)[8:] = 1
    y, o = (MODEL(x).softmax(1)[0, 3].item() for x in (images, images * kept))
    found = metrics.average_drop(MODEL, images, maps, 3, mask="top50").item()
    assert found == pytest.approx(100 * max(0, y - o) / y, rel=1e-6)


def test_no_score_no_drop() -> None:
    """In float32 a class can have a probability of 0."""
    model = build()
    with torch.no_grad():
        model.head[-1].bias[1] = -1e4
    found = metrics.evaluate(model, IMAGES.float(), all_maps()[:2], 1, metrics=["drop", "increase"])
    assert found["drop"].tolist() == [0, 0]
    assert found["increase"].tolist() == [0, 0]


def test_complexity_takes_maps_of_any_number() -> None:
    maps = all_maps().view(2, 4, *SIZE)
    assert torch.equal(metrics.complexity(maps).flatten(), metrics.complexity(all_maps()))
    assert metrics.complexity(all_maps()[0]).shape == ()
    assert metrics.complexity(maps.half()).dtype == torch.float32


def test_the_second_explanation_is_of_the_same_classes() -> None:
    seen: list[Tensor] = []

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return explainer(torch.float64)(images, targets)

    maps = explainer(torch.float64)(IMAGES, [[0, 3], [2, 1]])
    metrics.coherency(MODEL, IMAGES, maps, [[0, 3], [2, 1]], explain=explain)
    assert torch.cat(seen).tolist() == [0, 3, 2, 1]
