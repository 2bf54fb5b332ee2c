"""Does a map lie where its class is: pointing game, energy pointing game, intersection over union.

Regions are booleans of the maps' shape, or a list with one tensor (h, w) per map, at the size of its photo: then the
map is resized to the photo, bilinearly. A map whose region has no pixel (a box that did not survive the crop) gets NaN.
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.regions import above, overlap, regions_of, score_given, score_regions
from fastcam.metrics.trial import Regions, Trial
from fastcam.network.arguments import check_number
from fastcam.ops.maps import is_flat, min_max_


def pointing_game(maps: Tensor, regions: Regions, *, tolerance: float = 0) -> Tensor:
    """Whether each map's maximum lies in its class's region: 1 for a hit, 0 for a miss.

    hit = some pixel of the region lies within `tolerance` of the first pixel at which the map is largest. A flat map
    is a miss. The accuracy is the mean within each class, then over the classes (`PointingGame` of
    `fastcam.metrics.stateful`).

    Args:
        maps: (N, H, W) or (N, T, H, W), as they are; signed ones too.
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.
        tolerance: Euclidean distance in pixels of the region's tensor, 0 or more. The protocol for VOC and COCO takes
            15, with regions at the size of the original photo.

    Returns:
        (N,) or (N, T), float32; NaN where a region has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.

    Source: Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018, section 5.1.
    """
    check_tolerance(tolerance)
    return score_given(partial(_hits, tolerance=tolerance), maps, regions)


def energy_pointing_game(maps: Tensor, regions: Regions) -> Tensor:
    """The share of each map that lies in its class's region.

    sum_inside L / sum L, with L the map's positive part, min-max scaled; 0 for an all-zero L.

    Args:
        maps: (N, H, W) or (N, T, H, W).
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.

    Returns:
        (N,) or (N, T), float32 in [0, 1]; NaN where a region has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.

    Source: Wang et al., Score-CAM, CVPR workshops 2020, section 4.3.
    """
    return score_given(_energy, maps, regions)


def iou(maps: Tensor, regions: Regions, *, std: float = 1.0) -> Tensor:
    """Intersection over union of the map's bright pixels and its class's region.

    |B and R| / |B or R| with B = {map > mean + std * s}, mean and s (of the population) over the map's pixels. A flat
    map has no bright pixels.

    Args:
        maps: (N, H, W) or (N, T, H, W), as they are.
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.
        std: how many standard deviations above the mean.

    Returns:
        (N,) or (N, T), float32 in [0, 1]; NaN where a region has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.

    Source: Lee et al., Relevance-CAM, CVPR 2021, section 4.3.
    """
    check_std(std)
    return score_given(partial(_iou, std=std), maps, regions)


def check_tolerance(tolerance: object) -> None:
    """Raise ValueError unless a tolerance is valid."""
    check_number("tolerance", tolerance, "a finite number of at least 0", lambda pixels: 0 <= pixels < math.inf)


def check_std(std: object) -> None:
    """Raise ValueError unless a number of standard deviations is valid."""
    check_number("std", std, "a finite number", math.isfinite)


def _hits(maps: Tensor, regions: Tensor, tolerance: float) -> Tensor:
    height, width = maps.shape[1:]
    # Of equal values, argmax gives the first.
    peak = maps.flatten(1).argmax(dim=1).view(-1, 1, 1)
    rows = torch.arange(height, device=maps.device).view(1, -1, 1) - peak // width
    columns = torch.arange(width, device=maps.device).view(1, 1, -1) - peak % width
    near = rows.square() + columns.square() <= tolerance**2
    return ((near & regions).flatten(1).any(dim=1) & ~is_flat(maps)).to(maps.dtype)


def _energy(maps: Tensor, regions: Tensor) -> Tensor:
    positive = min_max_(maps.clamp(min=0))
    total = positive.sum(dim=(1, 2))
    return (positive * regions).sum(dim=(1, 2)) / torch.where(total > 0, total, 1)


def _iou(maps: Tensor, regions: Tensor, std: float) -> Tensor:
    thresholds = maps.mean(dim=(1, 2)) + std * maps.std(dim=(1, 2), correction=0)
    return overlap(above(maps, thresholds), regions)


def _measure_pointing(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    score = partial(_hits, tolerance=options["tolerance"])
    return {"pointing": score_regions(score, trial.maps, regions_of(trial))}


def _measure_energy(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"energy_pointing": score_regions(_energy, trial.maps, regions_of(trial))}


def _measure_iou(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"iou": score_regions(partial(_iou, std=options["std"]), trial.maps, regions_of(trial))}


POINTING = Metric(
    name="pointing",
    title="Pointing game",
    source="Zhang 2018",
    columns=(Column(name="pointing", title="Pointing game", better="higher", aggregate="class mean"),),
    measure=_measure_pointing,
    needs=frozenset({"regions"}),
    options={"tolerance": 0},
    check=lambda options: check_tolerance(options["tolerance"]),
)

ENERGY_POINTING = Metric(
    name="energy_pointing",
    title="Energy pointing game",
    source="Wang 2020",
    columns=(Column(name="energy_pointing", title="Energy pointing game", better="higher"),),
    measure=_measure_energy,
    needs=frozenset({"regions"}),
)

IOU = Metric(
    name="iou",
    title="IoU with the class's boxes",
    source="Lee 2021 (Relevance-CAM), section 4.3",
    columns=(Column(name="iou", title="IoU", better="higher"),),
    measure=_measure_iou,
    needs=frozenset({"regions"}),
    options={"std": 1.0},
    check=lambda options: check_std(options["std"]),
)
