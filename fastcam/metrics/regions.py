"""Maps against the regions where their classes are: what the metrics of places share."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from fastcam.metrics.given import check_planes
from fastcam.metrics.trial import Regions, Trial, check_regions
from fastcam.network.arguments import DeferredChecks
from fastcam.ops.maps import is_flat, upsample

# From maps (K, h, w) and regions (K, h, w), booleans with a pixel each, to values (K,).
Score = Callable[[Tensor, Tensor], Tensor]


def score_regions(score: Score, maps: Tensor, regions: Regions) -> Tensor:
    """A value per map (M,), float32; NaN where the region has no pixel.

    Regions at sizes of their own (those of the photos) get their maps resized bilinearly, all of one size together.
    """
    if isinstance(regions, Tensor):
        return _score(score, maps, regions)
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, region in enumerate(regions):
        places[region.shape[0], region.shape[1]].append(place)
    values = torch.empty(len(maps), dtype=torch.float32, device=maps.device)
    for size, of_size in places.items():
        if 0 in size:
            raise ValueError(f"regions: a tensor of size {size} given, a region at its photo's size is valid")
        index = torch.tensor(of_size, device=maps.device)
        resized = upsample(maps[index].unsqueeze(1), size).squeeze(1)
        values[index] = _score(score, resized, torch.stack([regions[place] for place in of_size]))
    return values


def _score(score: Score, maps: Tensor, regions: Tensor) -> Tensor:
    return torch.where(regions.flatten(1).any(dim=1), score(maps, regions), torch.nan).to(torch.float32)


def score_given(score: Score, maps: object, regions: object) -> Tensor:
    """`score_regions` of what a user gave: maps (N, H, W) to (N,), maps (N, T, H, W) to (N, T).

    Raises TypeError or ValueError for maps and regions that are not valid or do not fit each other.
    """
    checks = DeferredChecks()
    checked = check_planes("maps", maps, checks)
    if checked.dim() not in (3, 4):
        raise ValueError(f"maps: shape {tuple(checked.shape)} given, (N, H, W) or (N, T, H, W) is valid")
    flat = checked.flatten(0, -3)
    values = score_regions(score, flat, check_regions(regions, flat))
    checks.settle()
    return values.view(checked.shape[:-2])


def regions_of(trial: Trial) -> Regions:
    """The regions of a trial."""
    assert trial.regions is not None, "a metric that needs regions is measured with them"
    return trial.regions


def above(maps: Tensor, thresholds: Tensor) -> Tensor:
    """The pixels above a threshold per map, (K,): booleans (K, h, w); a flat map has none."""
    return (maps > thresholds.view(-1, 1, 1)) & ~is_flat(maps).view(-1, 1, 1)


def overlap(found: Tensor, regions: Tensor) -> Tensor:
    """Intersection over union of two sets of pixels, (K, h, w) each: (K,)."""
    return (found & regions).sum(dim=(1, 2)) / (found | regions).sum(dim=(1, 2))
