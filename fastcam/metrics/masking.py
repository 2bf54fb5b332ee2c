"""Images masked by their maps, the scores of what is left, and the maps of it: shared by the metrics that mask.

With a mask m in [0, 1] and what a masked pixel becomes, b (a value, or one per colour channel):

    masked image = x * m + b * (1 - m)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam.metrics.trial import Trial, check_maps

Baseline = float | Sequence[float] | Tensor
# One value for all colour channels, or one for each.
Fill = tuple[float, ...]


def soft(trial: Trial) -> Tensor:
    """m = the map's positive part, min-max scaled."""
    return trial.normalized


def upper_half(trial: Trial) -> Tensor:
    """m = 1 at the H W // 2 pixels that rank highest in the map, 0 elsewhere."""
    height, width = trial.maps.shape[1:]
    return trial.once(("upper half",), lambda: trial.rank < height * width // 2)


def soft_upper_half(trial: Trial) -> Tensor:
    """m = the scaled map on its upper half, 0 elsewhere."""
    return trial.normalized * upper_half(trial)


def inverse(trial: Trial) -> Tensor:
    """m = 1 - the scaled map."""
    return 1 - trial.normalized


Mask = Callable[[Trial], Tensor]
MASKS: Mapping[str, Mask] = {"soft": soft, "top50": upper_half, "soft_top50": soft_upper_half}


def masked_score(trial: Trial, mask: Mask, baseline: Baseline) -> Tensor:
    """o = p_c(masked image), (M,)."""
    fill = fill_of(baseline)

    def make() -> Tensor:
        masks = mask(trial)
        return trial.batch.scores_of(lambda maps: masked_images(trial, masks, fill, maps), trial.targets)

    return trial.once(("masked score", mask, fill), make)


def maps_of_masked(trial: Trial, baseline: Baseline) -> Tensor:
    """The maps, by the same method, of the images under their soft masks: (M, H, W)."""
    fill, explain = fill_of(baseline), trial.explain
    assert explain is not None, "a metric that needs explain is measured with it"

    def make() -> Tensor:
        found = []
        for maps in trial.batch.portions(len(trial.maps)):
            images = masked_images(trial, trial.normalized, fill, maps)
            # A function of the user's own may want gradients.
            with torch.enable_grad():
                explained = explain(images, trial.targets[maps])
            found.append(check_maps(explained, (len(images), *trial.maps.shape[1:]), trial.batch, name="explain"))
        return torch.cat(found)

    return trial.once(("maps of masked", fill), make)


def masked_images(trial: Trial, masks: Tensor, fill: Fill, maps: slice) -> Tensor:
    """The images of some of the maps under their masks (M, H, W): (m, C, H, W) in the dtype of the images given."""
    given = trial.batch.given
    if len(fill) not in (1, given.shape[1]):
        raise ValueError(
            f"baseline: {len(fill)} values given for images of {given.shape[1]} channels; one value, or one per "
            "channel is valid"
        )
    shown, kept = trial.each(given, maps), masks[maps].unsqueeze(1)
    masked = shown * kept
    if any(fill):
        blank = torch.tensor(fill, dtype=masked.dtype, device=masked.device).view(1, -1, 1, 1)
        masked = masked + blank * (1 - kept.to(masked.dtype))
    return masked.to(given.dtype)


def fill_of(baseline: object) -> Fill:
    """A baseline as numbers. Raises ValueError unless it is a finite number or a sequence (C,) of them."""
    try:
        values = torch.as_tensor(baseline, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.dim() > 1 or values.numel() == 0 or not values.isfinite().all():
        raise ValueError(f"baseline: {baseline!r} given, a finite number, or one per channel (C,) is valid")
    return tuple(values.reshape(-1).tolist())


def check_baseline(options: Mapping[str, Any]) -> None:
    """Raise ValueError unless the baseline is valid."""
    fill_of(options["baseline"])
