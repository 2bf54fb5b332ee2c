"""Insertion and deletion (RISE): the score while pixels come or go, the most important first."""

from collections.abc import Mapping
from itertools import product
from math import ceil
from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.metrics.measure import Common, measure_one
from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.trial import Trial
from fastcam.network.arguments import Targets, check_number, check_whole
from fastcam.network.portions import chunks


def step_counts(pixels: int, step: int) -> list[int]:
    """How many pixels are replaced at each point of a curve: 0, step, 2 step, ..., pixels; the last may be shorter."""
    return [*range(0, pixels, step), pixels]


def fractions_of(size: tuple[int, int], step: int) -> Tensor:
    """The shares of the pixels replaced, (S,), from 0 to 1, for maps of a size (H, W)."""
    pixels = size[0] * size[1]
    return torch.tensor(step_counts(pixels, step), dtype=torch.float64).div_(pixels)


def area(curve: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """The area under curves (..., S) over the fractions, by trapezoids."""
    fractions = fractions_of(size, step).to(device=curve.device, dtype=curve.dtype)
    return torch.trapezoid(curve, fractions, dim=-1)


def _curve(trial: Trial, step: int, shown: Tensor, base: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Scores (M, S) while the pixels of `shown` (N, C, H, W) become those of `base`, by rank.

    ends: the scores (M,) of the first and of the last point, which other maps of these images share.
    """
    batch = trial.batch
    counts = step_counts(trial.maps[0].numel(), step)
    curve = ends[0].new_empty((len(trial.maps), len(counts)))
    curve[:, 0], curve[:, -1] = ends
    inner = torch.tensor(counts[1:-1], device=shown.device)
    maps_at_once, steps_at_once = _portion(len(trial.maps), len(inner), batch.batch_size)
    for maps, steps in product(chunks(len(trial.maps), maps_at_once), chunks(len(inner), steps_at_once)):
        some = inner[steps]
        images = ops.perturbed_inputs(trial.each(shown, maps), trial.each(base, maps), trial.rank[maps], some)
        scores = batch.scores(images, trial.targets[maps].repeat_interleave(len(some)))
        curve[maps, 1:-1][:, steps] = scores.view(-1, len(some))
    return batch.check(curve, "perturbed images")


def _portion(maps: int, steps: int, most: int) -> tuple[int, int]:
    """How many maps and how many steps to take at a time, `most` images together, for the fewest forward passes.

    Small ones leave a processor idle: where a pass takes 6, two of 8 maps with three steps each, not 6 maps and then 2.
    """
    choices = [(some, most // some) for some in range(1, min(maps, most) + 1)]
    return min(choices, key=lambda choice: ceil(maps / choice[0]) * ceil(steps / choice[1]))


def deletion_scores(trial: Trial, step: int) -> Tensor:
    """p_c while the image's pixels become 0, (M, S)."""
    images = trial.batch.images
    ends = (trial.score, trial.batch.blank_probabilities[0, trial.targets])
    return trial.once(("deletion", step), lambda: _curve(trial, step, images, torch.zeros_like(images), ends))


def insertion_scores(trial: Trial, step: int, taps: int, sigma: float) -> Tensor:
    """p_c while the blurred image's pixels become the image's, (M, S)."""
    batch = trial.batch
    blurred = batch.blurred(taps, sigma)
    ends = (batch.blurred_probabilities(taps, sigma)[trial.owner, trial.targets], trial.score)
    key = ("insertion", step, taps, sigma)
    return trial.once(key, lambda: _curve(trial, step, blurred, batch.images, ends))


def _deletion(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    curve = deletion_scores(trial, options["step"])
    return _columns("deletion", curve, trial, options["step"])


def _insertion(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    curve = insertion_scores(trial, options["step"], options["taps"], options["sigma"])
    return _columns("insertion", curve, trial, options["step"])


def _columns(name: str, curve: Tensor, trial: Trial, step: int) -> dict[str, Tensor]:
    size = trial.maps.shape[1], trial.maps.shape[2]
    share = min(step / (size[0] * size[1]), 1)
    areas = area(curve, step, size)
    return {name: areas, f"{name}_curve": curve, f"{name}_step": torch.full_like(areas, share)}


def _check_step(options: Options) -> None:
    check_whole("step", options["step"])


def _check_insertion(options: Options) -> None:
    _check_step(options)
    taps = options["taps"]
    if type(taps) is not int or taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps: {taps!r} given, an odd positive integer is valid")
    check_number("sigma", options["sigma"], "a positive number", lambda sigma: 0 < sigma < float("inf"))


DELETION = Metric(
    name="deletion",
    title="Deletion",
    source="Petsiuk et al. 2018",
    columns=(
        Column(name="deletion", title="Deletion", better="lower"),
        Column(name="deletion_curve", title="Deletion curve", better=None, curve=True),
        # Where the curve's points lie is not in its length: the last step may be shorter.
        Column(name="deletion_step", title="Share of the pixels in a step", better=None, hidden=True),
    ),
    measure=_deletion,
    options={"step": 224},
    check=_check_step,
)
INSERTION = Metric(
    name="insertion",
    title="Insertion",
    source="Petsiuk et al. 2018",
    columns=(
        Column(name="insertion", title="Insertion", better="higher"),
        Column(name="insertion_curve", title="Insertion curve", better=None, curve=True),
        Column(name="insertion_step", title="Share of the pixels in a step", better=None, hidden=True),
    ),
    measure=_insertion,
    options={"step": 224, "taps": 11, "sigma": 5.0},
    check=_check_insertion,
)


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    step: int = 224,
    **common: Unpack[Common],
) -> Tensor:
    """Deletion (Petsiuk et al. 2018): the area under p_c while pixels become 0, in descending order of the map.

    0 is the mean colour in the images' normalised space. Pixels go `step` at a time; equal ones in the order of their
    index. The area is taken by trapezoids over the share of pixels that are gone, from 0 to 1; where `step` does not
    divide their number, the last step is shorter.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        step: pixels at a time; 224 (RISE), 1792 in several papers' tables.

    Returns:
        0 to 1, (N,) or (N, T). Lower is better.
    """
    return measure_one(DELETION, model, images, maps, targets, {"step": step}, **common)["deletion"]


def insertion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    step: int = 224,
    taps: int = 11,
    sigma: float = 5.0,
    **common: Unpack[Common],
) -> Tensor:
    """Insertion (Petsiuk et al. 2018): the area under p_c while a blurred image's pixels become the image's.

    Pixels come in descending order of the map; otherwise as `deletion`.

    The blur reflects an image at its edges. RISE's public code has zeros beyond them, and a kernel that is flatter than
    the Gaussian of its sigma, since it is one reflected into its 11 x 11 pixels: it starts from another image, and its
    values differ.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        step: pixels at a time; 224 (RISE), 1792 in several papers' tables.
        taps, sigma: of the Gaussian blur: 11 and 5 are RISE's numbers; 51 and 50 elsewhere.

    Returns:
        0 to 1, (N,) or (N, T). Higher is better.
    """
    options = {"step": step, "taps": taps, "sigma": sigma}
    return measure_one(INSERTION, model, images, maps, targets, options, **common)["insertion"]


def deletion_curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    step: int = 224,
    **common: Unpack[Common],
) -> tuple[Tensor, Tensor]:
    """The curve that `deletion` takes the area of: scores (N, S) or (N, T, S), and the shares of pixels gone, (S,)."""
    curve = measure_one(DELETION, model, images, maps, targets, {"step": step}, **common)["deletion_curve"]
    return curve, _fractions_like(curve, maps, step)


def insertion_curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    step: int = 224,
    taps: int = 11,
    sigma: float = 5.0,
    **common: Unpack[Common],
) -> tuple[Tensor, Tensor]:
    """The curve that `insertion` takes the area of: scores (N, S) or (N, T, S), and the shares of pixels back, (S,)."""
    options = {"step": step, "taps": taps, "sigma": sigma}
    curve = measure_one(INSERTION, model, images, maps, targets, options, **common)["insertion_curve"]
    return curve, _fractions_like(curve, maps, step)


def _fractions_like(curve: Tensor, maps: Tensor, step: int) -> Tensor:
    return fractions_of((maps.shape[-2], maps.shape[-1]), step).to(device=curve.device, dtype=curve.dtype)
