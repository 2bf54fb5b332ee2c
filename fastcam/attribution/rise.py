"""RISE: random masks, each weighted by the score of the image that it leaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.attribution.case import Case
from fastcam.attribution.checks import check_batch_size, check_generator, check_number, check_whole
from fastcam.attribution.masks import times
from fastcam.attribution.method import Evidence, Method, Options, Whole
from fastcam.attribution.random_numbers import uniform
from fastcam.attribution.scoring import ask
from fastcam.network.layers import Layer
from fastcam.network.portions import chunks


@dataclass(frozen=True, eq=False)
class RandomMasks:
    """Masks as what they are drawn from: cells (B, s, s), kept or not, and the shifts (B, 2) of the enlarged grids."""

    cells: Tensor
    shifts: Tensor

    def __getitem__(self, chunk: slice) -> "RandomMasks":
        return RandomMasks(self.cells[chunk], self.shifts[chunk])

    def at(self, size: Sequence[int]) -> Tensor:
        """The masks (B, H, W).

        The grid is enlarged bilinearly to (s + 1) cells of ceil(H / s) pixels per axis, and H x W of these are cut
        out at the shift: two matrix products, without the enlarged grid.
        """
        rows, columns = (_interpolation(self.cells, self.shifts[:, axis], size[axis]) for axis in (0, 1))
        return rows @ self.cells @ columns.mT


def draw_masks(
    count: int, cells: int, keep: float, size: Sequence[int], like: Tensor, generator: torch.Generator | None
) -> RandomMasks:
    """Masks whose cells are kept with probability `keep`, shifted by less than a cell along each axis."""
    kept = (uniform((count, cells, cells), like, generator) < keep).to(like.dtype)
    cell = torch.tensor([math.ceil(side / cells) for side in size], device=like.device, dtype=like.dtype)
    return RandomMasks(kept, (uniform((count, 2), like, generator) * cell).floor())


def _interpolation(cells: Tensor, shift: Tensor, side: int) -> Tensor:
    """(B, side, s): the weights of a row's cells at each pixel behind the shift, bilinear, half-pixel centres."""
    count = cells.shape[1]
    enlarged = (count + 1) * math.ceil(side / count)
    pixel = torch.arange(side, dtype=cells.dtype, device=cells.device) + shift.unsqueeze(1)
    place = ((pixel + 0.5) * count / enlarged - 0.5).clamp(0, count - 1)
    distance = place.unsqueeze(2) - torch.arange(count, dtype=cells.dtype, device=cells.device)
    return (1 - distance.abs()).clamp_(min=0)


def _rise(case: Case, _: Sequence[Layer], options: Options) -> Evidence:
    targets, count, keep = case.targets, options["masks"], options["keep"]
    prepared = case.network.prepare(case.images)
    size = (prepared.shape[2], prepared.shape[3])
    wide = torch.empty((), dtype=torch.promote_types(prepared.dtype, torch.float32), device=prepared.device)
    masks = draw_masks(count, options["cells"], keep, size, wide, options["generator"])
    batch = options["batch_size"] or case.network.portion(prepared.device)
    sums = wide.new_zeros((*targets.shape, size[0] * size[1]))
    for some in chunks(len(prepared), batch):
        images, classes = prepared[some], targets[some]
        # All of these images with as many masks as fit: (masks, images) in one forward pass.
        for portion in chunks(count, max(1, batch // len(images))):
            shown = masks[portion].at(size)
            index = torch.arange(len(images), device=prepared.device).repeat(len(shown))

            def build(chunk: slice, x: Tensor = images, n: Tensor = index, m: Tensor = shown) -> Tensor:
                return times(x, n[chunk], m.repeat_interleave(len(x), dim=0)[chunk])

            scores = ask(case.network, build, classes[index], batch=batch)
            # sum_i p_c(x M_i) M_i: (images, T, masks) times (masks, H W)
            by_image = scores.view(len(shown), *classes.shape).permute(1, 2, 0)
            sums[some] += by_image @ shown.flatten(1)
    maps = sums.div_(count * keep).view(*targets.shape, *size)
    return Evidence(case.logits, targets, [Whole(maps)])


def _check(options: Options) -> None:
    check_whole("masks", options["masks"])
    check_whole("cells", options["cells"])
    check_number("keep", options["keep"], "a number between 0 and 1", lambda keep: 0 < keep < 1)
    check_generator(options["generator"])
    check_batch_size(options["batch_size"])


RISE = Method(
    name="rise",
    family="score",
    paper="Petsiuk et al. 2018",
    find=_rise,
    relu=False,
    layer="none",
    forwards="1 + masks",
    options={"masks": 4000, "cells": 7, "keep": 0.5, "generator": None, "batch_size": None},
    check=_check,
)
