"""Maps against the regions where their classes are: what the metrics of places share."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

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
    checked = check_maps_alone(maps, checks)
    flat = checked.flatten(0, -3)
    values = score_regions(score, flat, check_regions(regions, flat))
    checks.settle()
    return values.view(checked.shape[:-2])


def check_maps_alone(maps: object, checks: DeferredChecks) -> Tensor:
    """Maps that come without images, in at least float32."""
    valid = "a float tensor (N, H, W) or (N, T, H, W) is valid"
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError(f"maps: {maps.dtype if isinstance(maps, Tensor) else type(maps).__name__} given, {valid}")
    if maps.dim() not in (3, 4) or maps.numel() == 0:
        raise ValueError(f"maps: a tensor of shape {tuple(maps.shape)} given, {valid}, with at least one map")
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    checks.add(~maps.isfinite().all(), lambda: "maps: NaN or infinite values; all must be finite")
    return maps


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


def check_number(name: str, value: object, *, least: float | None = None) -> None:
    """Raise TypeError for what is no number, ValueError for one that is not finite or less than `least`."""
    valid = "a finite number" + (f" of at least {least:g}" if least is not None else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: {value!r} given, {valid} is valid")
    if not (abs(value) < float("inf") and (least is None or value >= least)):
        raise ValueError(f"{name}: {value!r} given, {valid} is valid")
