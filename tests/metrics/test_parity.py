"""Agreement with what torchcam and grad-cam compute, and where their definitions differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.arcc import Coherency, Complexity
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from torch import Tensor
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from fastcam import metrics
from fastcam.ops.blur import gaussian_blur
from tests.metrics.given_maps import GivenMaps
from tests.metrics.toys import CLASSES, gradient_maps, model_of, some_images

MODEL = model_of(torch.float64)
IMAGES = some_images(6)
TARGETS = [i % CLASSES for i in range(6)]


def unit_maps() -> Tensor:
    """Both packages take maps as they are: of the range [0, 1] they are what is taken here."""
    maps = torch.rand(6, *IMAGES.shape[2:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


MAPS = unit_maps()


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


def test_torchcam_drop_and_increase() -> None:
    peer = ClassificationMetric(GivenMaps(MODEL, MAPS), softmax)
    peer.update(IMAGES, TARGETS)
    theirs = peer.summary()
    # torchcam divides by y + 1e-7 and gives shares.
    y = MODEL(IMAGES).softmax(dim=1)[range(6), TARGETS].detach()
    drop = metrics.average_drop(MODEL, IMAGES, MAPS, TARGETS).double() / 100 * y / (y + 1e-7)
    assert drop.mean().item() == pytest.approx(theirs["avg_drop"], rel=1e-6)
    assert drop.mean() > 0.1
    increase = metrics.average_increase(MODEL, IMAGES, MAPS, TARGETS).mean().item() / 100
    assert increase == pytest.approx(theirs["conf_increase"], rel=1e-6)


def test_torchcam_masks_by_negative_values_too() -> None:
    signed = MAPS - 0.5
    peer = ClassificationMetric(GivenMaps(MODEL, signed), softmax)
    peer.update(IMAGES, TARGETS)
    ours = metrics.average_drop(MODEL, IMAGES, signed, TARGETS).mean().item() / 100
    assert abs(ours - peer.summary()["avg_drop"]) > 0.01


def blur(images: Tensor) -> Tensor:
    return gaussian_blur(images, 11, 5.0)


# 156 pixels in 13 equal steps, and in 8 of which the last is shorter.
@pytest.mark.parametrize("step", [12, 20])
@pytest.mark.parametrize(
    ("ours", "name", "baseline"),
    [(metrics.deletion, "deletion_auc", None), (metrics.insertion, "insertion_auc", blur)],
    ids=["deletion", "insertion"],
)
def test_torchcam_deletion_and_insertion(ours: Callable[..., Tensor], name: str, baseline: Any, step: int) -> None:
    # torchcam inserts into what it deletes to, and takes the number of steps.
    steps = -(-MAPS[0].numel() // step)
    peer = DeletionInsertionMetric(GivenMaps(MODEL, MAPS), softmax, steps=steps, baseline=baseline)
    peer.update(IMAGES, TARGETS)
    found = ours(MODEL, IMAGES, MAPS, TARGETS, step=step).mean().item()
    assert found == pytest.approx(peer.summary()[name], rel=1e-5)


def test_grad_cam_complexity() -> None:
    assert np.allclose(metrics.complexity(MAPS), Complexity()(MAPS.numpy()), rtol=1e-6)
    # Theirs is the mean of the magnitudes, of whatever scale and sign.
    assert np.allclose(metrics.complexity(3 * MAPS), Complexity()(3 * MAPS.numpy()) / 3, rtol=1e-6)
    assert np.allclose(Complexity()(-MAPS.numpy()), Complexity()(MAPS.numpy()))
    assert metrics.complexity(-MAPS).count_nonzero() == 0


def positive_maps(images: Tensor, targets: Tensor) -> Tensor:
    return gradient_maps(images, targets).clamp(min=0)


def test_grad_cam_coherency() -> None:
    def explainer(input_tensor: Tensor, targets: list[ClassifierOutputTarget]) -> np.ndarray:
        return positive_maps(input_tensor, torch.tensor([target.category for target in targets])).numpy()

    chosen = [ClassifierOutputTarget(target) for target in TARGETS]
    theirs = Coherency()(IMAGES, MAPS.numpy(), chosen, MODEL, explainer)
    ours = metrics.coherency(MODEL, IMAGES, MAPS, TARGETS, explain=positive_maps)
    # Theirs adds 1e-8 to the product of the deviations.
    assert np.allclose(ours, theirs, atol=1e-5)

    # A map without contrast has no correlation: theirs calls that 0.5, the value of unrelated maps.
    def nothing(images: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros_like(images[:, 0])

    def blind(input_tensor: Tensor, targets: list[ClassifierOutputTarget]) -> np.ndarray:
        return np.zeros(MAPS.shape)

    blank = Coherency()(IMAGES, MAPS.numpy(), chosen, MODEL, blind)
    assert np.allclose(blank, 0.5)
    assert metrics.coherency(MODEL, IMAGES, MAPS, TARGETS, explain=nothing).count_nonzero() == 0


def test_grad_cam_drop_and_increase() -> None:
    # Theirs is the difference of probabilities, not divided by the first.
    model, images, maps = model_of(torch.float32), IMAGES.float(), MAPS.float()
    chosen = [ClassifierOutputSoftmaxTarget(target) for target in TARGETS]
    fall = DropInConfidence()(images, maps.numpy(), chosen, model)
    y = model(images).softmax(dim=1)[range(6), TARGETS].detach().numpy()
    assert np.allclose(metrics.average_drop(model, images, maps, TARGETS), 100 * fall / y, atol=0.01)
    rise = IncreaseInConfidence()(images, maps.numpy(), chosen, model)
    assert np.array_equal(metrics.average_increase(model, images, maps, TARGETS), 100 * rise)
