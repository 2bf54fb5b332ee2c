"""rise: its masks, its estimate, its memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam.attribution.rise import draw_masks
from tests.attribution.toys import min_max, watched
from tests.zoo import conv_bn, head, randomise


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = randomise(nn.Sequential(conv_bn(3, 4), head(4)))
        net[1][2].weight.data *= 5
    return net.double()


def some_images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 11, 15, generator=seeded(2), dtype=torch.float64)


@pytest.mark.parametrize(("cells", "size"), [(7, (11, 15)), (3, (12, 9)), (1, (4, 4)), (7, (5, 5))], ids=str)
def test_masks_are_shifted_pieces_of_enlarged_grids(cells: int, size: tuple[int, int]) -> None:
    masks = draw_masks(40, cells, 0.4, size, torch.empty((), dtype=torch.float64), seeded())
    cell = [math.ceil(side / cells) for side in size]
    grown = F.interpolate(
        masks.cells[:, None], [(cells + 1) * c for c in cell], mode="bilinear", align_corners=False
    )[:, 0]  # fmt: skip
    shifts = masks.shifts.long()
    pieces = [g[r : r + size[0], c : c + size[1]] for g, (r, c) in zip(grown, shifts.tolist(), strict=True)]
    torch.testing.assert_close(masks.at(size), torch.stack(pieces))
    assert shifts.min() == 0
    assert shifts.amax(0).tolist() == [c - 1 for c in cell]


def test_cells_are_kept_with_the_probability_given() -> None:
    masks = draw_masks(2000, 5, 0.3, (20, 20), torch.empty(()), seeded())
    assert set(masks.cells.unique().tolist()) == {0, 1}
    assert (masks.cells.mean() - 0.3).abs() < 0.01
    assert (masks.at((20, 20)).mean((0,)) - 0.3).abs().max() < 0.06


def test_the_map_is_the_sum_of_masks_by_score(model: nn.Module) -> None:
    x, targets = some_images(), torch.tensor([[0, 1], [4, 2], [3, 3]])
    masks = draw_masks(30, 4, 0.3, (11, 15), torch.empty((), dtype=torch.float64), seeded()).at((11, 15))
    expected = torch.zeros(3, 2, 11, 15, dtype=torch.float64)
    for mask in masks:
        p = model(x * mask).softmax(1).gather(1, targets).detach()
        expected += p[..., None, None] * mask / (30 * 0.3)
    options = {"masks": 30, "cells": 4, "keep": 0.3}
    found = fastcam.rise(model, x, targets, generator=seeded(), normalize=False, **options)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fastcam.rise(model, x, targets, generator=seeded(), **options), min_max(expected))
    again = fastcam.rise(model, x, targets, generator=seeded(8), normalize=False, **options)
    assert (again - expected).abs().max() > 1e-3


class FixedMasks:
    """Masks that are given, in place of random ones."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def __getitem__(self, chunk: slice) -> FixedMasks:
        return FixedMasks(self.masks[chunk])

    def at(self, size: tuple[int, int]) -> Tensor:
        assert tuple(self.masks.shape[1:]) == size
        return self.masks


def test_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # y = (sum x, 0), so that the odds of class 0 are exp(sum x) : 1.
    odds = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    odds[1].weight.data.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 4))
    masks = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.5]]], dtype=torch.float64)
    monkeypatch.setattr("fastcam.attribution.rise.draw_masks", lambda *_: FixedMasks(masks))
    # The pixels' channels add up to (ln 3, ln 9): the masks leave odds of 3, of 9 and of 3 sqrt(9) = 9.
    image = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]], dtype=torch.float64) * math.log(3)
    image[0, 1] *= 2
    found = fastcam.rise(odds, image, [[0, 1]], masks=3, keep=0.4, normalize=False)
    # p_0 = 3/4, 9/10, 9/10. Both pixels are divided by 3 * 0.4 = 1.2.
    # Pixel 0: 0.75 * 1 + 0.9 * 0 + 0.9 * 1 = 1.65; pixel 1: 0.75 * 0 + 0.9 * 1 + 0.9 * 0.5 = 1.35.
    # p_1 = 1/4, 1/10, 1/10. Pixel 0: 0.25 + 0.1 = 0.35; pixel 1: 0.1 + 0.1 * 0.5 = 0.15.
    expected = torch.tensor([[[[1.375, 1.125]], [[0.35 / 1.2, 0.125]]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_it_finds_what_the_class_rests_on() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen = x[:, :, :6, :6].mean((1, 2, 3))
            return torch.stack([4 * seen, 0 * seen], 1)

    found = fastcam.rise(Corner(), torch.ones(1, 3, 24, 24), 0, masks=800, generator=seeded())[0]
    assert found[:6, :6].mean() > 0.8
    assert found[:6, :6].mean() > found[12:, 12:].mean() + 0.3


@pytest.mark.parametrize(
    ("images", "batch_size", "batches"),
    [(3, 7, [3, *[6] * 5]), (3, 2, [3, *[2] * 15]), (1, 4, [1, 4, 4, 2])],
    ids=["several_masks", "several_portions_of_images", "one_image"],
)
def test_memory_is_bounded(model: nn.Module, images: int, batch_size: int, batches: list[int]) -> None:
    x, options = some_images(images), {"masks": 10, "cells": 3}
    whole = fastcam.rise(model, x, 1, generator=seeded(), batch_size=1000, **options)
    with watched() as seen:
        parts = fastcam.rise(model, x, 1, generator=seeded(), batch_size=batch_size, **options)
    assert seen["forward"] == batches
    torch.testing.assert_close(parts, whole)


def test_each_image_alone_gives_the_same(model: nn.Module) -> None:
    x = some_images()
    together = fastcam.rise(model, x, [0, 1, 2], masks=20, generator=seeded())
    for n in range(3):
        alone = fastcam.rise(model, x[n : n + 1], n, masks=20, generator=seeded())
        torch.testing.assert_close(alone[0], together[n])
