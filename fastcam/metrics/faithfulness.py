"""Average drop and average increase: what the score does when the model sees the explanation alone."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.metrics.masking import MASKS, Baseline, check_baseline, masked_score
from fastcam.metrics.measure import Common, measure_one
from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.trial import Trial
from fastcam.network.arguments import Targets, check_choice


def drop_share(trial: Trial, mask: str, baseline: Baseline) -> Tensor:
    """max(0, y - o) / y, (M,), in [0, 1]; 0 where y is 0."""
    y, o = trial.score, masked_score(trial, MASKS[mask], baseline)
    return torch.where(y > 0, (y - o).clamp(min=0) / y, 0)


def _drop(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"drop": 100 * drop_share(trial, options["mask"], options["baseline"])}


def _increase(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    o = masked_score(trial, MASKS[options["mask"]], options["baseline"])
    return {"increase": 100.0 * (o > trial.score)}


def _check(options: Options) -> None:
    check_choice("mask", options["mask"], tuple(MASKS))
    check_baseline(options)


DROP = Metric(
    name="drop",
    title="Average drop",
    source="Chattopadhay et al. 2018; Poppi et al. 2021, section 3",
    columns=(Column(name="drop", title="Average drop", better="lower", unit="%"),),
    measure=_drop,
    options={"mask": "soft", "baseline": 0.0},
    check=_check,
)
INCREASE = Metric(
    name="increase",
    title="Average increase",
    source="Chattopadhay et al. 2018; Poppi et al. 2021, section 3",
    columns=(Column(name="increase", title="Average increase", better="higher", unit="%"),),
    measure=_increase,
    options={"mask": "soft", "baseline": 0.0},
    check=_check,
)


def average_drop(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    mask: str = "soft",
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """Average drop (Chattopadhay et al. 2018; adcc section 3): max(0, y - o) / y * 100.

    y = p_c(x) is the image's score, o = p_c(x m + b (1 - m)) the masked image's. Of a data set the mean is taken.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        mask: what m is. "soft": the map's positive part, min-max scaled (adcc). "top50": 1 at the H W // 2 pixels that
            rank highest, 0 elsewhere; equal pixels in the order of their index (relevance-cam, abs-cam). "soft_top50":
            the scaled map on that half, 0 elsewhere (the public code of relevance-cam).
        baseline: what a masked pixel becomes, b, in the normalised space of the images: a number or one per channel
            (C,). 0 is the mean colour; black is -mean / std of the preprocessing.

    Returns:
        Percent, 0 to 100, (N,) or (N, T); 0 where y is 0. Lower is better.
    """
    options = {"mask": mask, "baseline": baseline}
    return measure_one(DROP, model, images, maps, targets, options, **common)["drop"]


def average_increase(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    mask: str = "soft",
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """Average increase (Chattopadhay et al. 2018; adcc section 3): 100 where the masked image's score is higher, o > y.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        mask, baseline: see `average_drop`.

    Returns:
        0 or 100, (N,) or (N, T), so that the mean is in percent. Higher is better.
    """
    options = {"mask": mask, "baseline": baseline}
    return measure_one(INCREASE, model, images, maps, targets, options, **common)["increase"]
