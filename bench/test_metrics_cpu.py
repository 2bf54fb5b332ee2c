"""CPU benchmark of insertion and deletion against torchcam's.

    make bench-metrics     # writes bench/results/metrics.json

resnet18 and efficientnet_lite0, 8 random images of 224 px with random maps, float32, 28 steps of 1,792 pixels. Both
score the images first, and then the same number of perturbed ones; torchcam inserts into zeros, which saves it a blur.
It runs under inference_mode, at the fastest of four batch sizes, on both memory layouts, and is given the maps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torchcam.metrics import DeletionInsertionMetric
from torchvision.models import resnet18

import fastcam
from bench.compare import Variants, compare, fastest_batch
from fastcam import metrics
from tests.metrics.given_maps import GivenMaps

SIZE, STEPS = 224, 28
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet18(weights=None),
    "efficientnet_lite0": lambda: fastcam.models.efficientnet_lite0(pretrained=True),
}


def torchcam(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int], batch: int) -> Callable[[], Any]:
    metric = DeletionInsertionMetric(
        GivenMaps(model, maps), lambda logits: logits.softmax(dim=-1), steps=STEPS, batch_size=batch
    )

    def run() -> dict[str, float]:
        with torch.inference_mode():
            metric.reset()
            metric.update(images, targets)
            return metric.summary()

    return run


def own(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int]) -> Callable[[], Any]:
    step = images.shape[2] * images.shape[3] // STEPS
    return lambda: metrics.evaluate(model, images, maps, targets, metrics=["insertion", "deletion"], step=step)


@pytest.mark.parametrize("name", NETWORKS)
def test_insertion_and_deletion(benchmark: BenchmarkFixture, name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, SIZE, SIZE, generator=generator)
    maps = torch.rand(8, SIZE, SIZE, generator=generator)
    targets = [int(t) for t in model(images).argmax(dim=1)]
    variants: Variants = {"fastcam": own(model, images, maps, targets)}
    for layout, form in (("", torch.contiguous_format), (", channels-last", torch.channels_last)):
        peer, laid_out = copy.deepcopy(model).to(memory_format=form), images.contiguous(memory_format=form)
        batch = fastest_batch(peer, laid_out[:1], rounds=2)
        variants[f"torchcam{layout}, batches of {batch}"] = torchcam(peer, laid_out, maps, targets, batch)
    compare(
        benchmark,
        variants,
        yardstick="fastcam",
        rounds=3,
        warmups=1,
        model=name,
        method="insertion + deletion",
        batch=8,
        precision="float32",
    )
