"""Positive and negative map density: the score that a part of the image keeps, for the size of that part."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.metrics.masking import Baseline, Mask, check_baseline, inverse, masked_score, soft
from fastcam.metrics.measure import Common, measure_one
from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.trial import Trial
from fastcam.network.arguments import Targets


def _density(trial: Trial, mask: Mask, options: Options) -> Tensor:
    """p_c(masked image) / mean(m), (M,); NaN where m is 0 everywhere."""
    size = mask(trial).mean(dim=(-2, -1))
    return torch.where(size > 0, masked_score(trial, mask, options["baseline"]) / size, torch.nan)


def _positive(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"positive_density": _density(trial, soft, options)}


def _negative(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"negative_density": _density(trial, inverse, options)}


POSITIVE_DENSITY = Metric(
    name="positive_density",
    title="Positive map density",
    source="Jalwana et al. 2021; Jung et al. 2023, table 5",
    columns=(Column(name="positive_density", title="Positive density", better="higher"),),
    measure=_positive,
    options={"baseline": 0.0},
    check=check_baseline,
)
NEGATIVE_DENSITY = Metric(
    name="negative_density",
    title="Negative map density",
    source="Jalwana et al. 2021; Jung et al. 2023, table 5",
    columns=(Column(name="negative_density", title="Negative density", better="lower"),),
    measure=_negative,
    options={"baseline": 0.0},
    check=check_baseline,
)


def positive_density(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """Positive map density (Jalwana et al. 2021; ucag table 5): p_c(x m + b (1 - m)) / mean(m).

    m is the map's positive part, min-max scaled.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        baseline: what a masked pixel becomes, b; see `average_drop`.

    Returns:
        At least 0, (N,) or (N, T); NaN for a map without a positive part, and for a flat one. Higher is better.
    """
    options = {"baseline": baseline}
    return measure_one(POSITIVE_DENSITY, model, images, maps, targets, options, **common)["positive_density"]


def negative_density(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """Negative map density (Jalwana et al. 2021; ucag table 5): p_c(x (1 - m) + b m) / mean(1 - m).

    m is the map's positive part, min-max scaled. The definition is the one that fits the figures of ucag's table.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        baseline: what a masked pixel becomes, b; see `average_drop`.

    Returns:
        At least 0, (N,) or (N, T). Lower is better.
    """
    options = {"baseline": baseline}
    return measure_one(NEGATIVE_DENSITY, model, images, maps, targets, options, **common)["negative_density"]
