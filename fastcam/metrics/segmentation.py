"""Maps as segmentations of their class, against masks: average precision, pixel accuracy, intersection over union.

Regions (the masks) are booleans of the maps' shape, or a list with one tensor (h, w) per map, at the size of its photo:
then the map is resized to the photo, bilinearly. A map whose mask has no pixel gets NaN.

Source of the protocol: Guillaumin et al., ImageNet auto-annotation with segmentation propagation, IJCV 2014 (the
masks); Chefer et al., Transformer interpretability beyond attention visualization, CVPR 2021, section 4 (the measures).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.regions import Score, above, overlap, regions_of, score_given, score_regions
from fastcam.metrics.trial import Regions, Trial


def average_precision(maps: Tensor, regions: Regions) -> Tensor:
    """Average precision of each map as a score of its pixels for being in the mask.

    AP = sum_n (R_n - R_(n-1)) P_n, where P_n and R_n are precision and recall of the pixels of the n largest different
    values: equal pixels are taken together. The mean over a data set is its mAP.

    Args:
        maps: (N, H, W) or (N, T, H, W), as they are.
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.

    Returns:
        (N,) or (N, T), float32 in (0, 1]; a flat map gets the mask's share of the pixels, NaN: a mask has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.
    """
    return score_given(_average_precision, maps, regions)


def pixel_accuracy(maps: Tensor, regions: Regions) -> Tensor:
    """The share of pixels that are in both or in neither of {map > its mean} and the mask.

    Args:
        maps: (N, H, W) or (N, T, H, W), as they are; no pixel of a flat map is above its mean.
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.

    Returns:
        (N,) or (N, T), float32 in [0, 1]; NaN where a mask has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.
    """
    return score_given(_pixel_accuracy, maps, regions)


def segmentation_iou(maps: Tensor, regions: Regions) -> Tensor:
    """Intersection over union of {map > its mean} and the mask.

    Args:
        maps: (N, H, W) or (N, T, H, W), as they are; no pixel of a flat map is above its mean.
        regions: booleans of the maps' shape, or a list with one tensor (h, w) per map.

    Returns:
        (N,) or (N, T), float32 in [0, 1]; NaN where a mask has no pixel.

    Raises:
        ValueError, TypeError: for an argument that is not valid.
    """
    return score_given(_iou, maps, regions)


def _average_precision(maps: Tensor, regions: Tensor) -> Tensor:
    values, order = maps.flatten(1).sort(dim=1, descending=True)
    found = regions.flatten(1).gather(1, order).cumsum(dim=1)
    taken = torch.arange(1, values.shape[1] + 1, device=maps.device)
    # The last pixel of each value: there, all pixels of at least this value are taken.
    last = F.pad(values[:, 1:] != values[:, :-1], (0, 1), value=True)
    # `found` never falls, so the greatest at earlier last pixels is that of the value before.
    before = F.pad((found * last).cummax(dim=1).values[:, :-1], (1, 0))
    gains = (found - before) * last * (found / taken).to(maps.dtype)
    return gains.sum(dim=1) / found[:, -1]


def _foreground(maps: Tensor) -> Tensor:
    return above(maps, maps.mean(dim=(1, 2)))


def _pixel_accuracy(maps: Tensor, regions: Tensor) -> Tensor:
    return (_foreground(maps) == regions).to(maps.dtype).mean(dim=(1, 2))


def _iou(maps: Tensor, regions: Tensor) -> Tensor:
    return overlap(_foreground(maps), regions)


def _metric(name: str, title: str, score: Score) -> Metric:
    def measure(trial: Trial, options: Options) -> Mapping[str, Tensor]:
        return {name: score_regions(score, trial.maps, regions_of(trial))}

    return Metric(
        name=name,
        title=title,
        source="Guillaumin 2014, Chefer 2021",
        columns=(Column(name=name, title=title, better="higher"),),
        measure=measure,
        needs=frozenset({"regions"}),
    )


AVERAGE_PRECISION = _metric("average_precision", "Average precision", _average_precision)
PIXEL_ACCURACY = _metric("pixel_accuracy", "Pixel accuracy", _pixel_accuracy)
SEGMENTATION_IOU = _metric("segmentation_iou", "Segmentation IoU", _iou)
