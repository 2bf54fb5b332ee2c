"""Coherency, complexity and ADCC, the harmonic mean of what is good about both and about the drop (Poppi et al.)."""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from fastcam.metrics.faithfulness import drop_share
from fastcam.metrics.given import check_planes
from fastcam.metrics.masking import Baseline, check_baseline, maps_of_masked
from fastcam.metrics.measure import Common, measure_one
from fastcam.metrics.metric import Column, Metric, Options
from fastcam.metrics.trial import Explain, Trial
from fastcam.network.arguments import DeferredChecks, Targets
from fastcam.ops.maps import min_max_


def harmonic_adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop)) (adcc eq. 5), all in [0, 1]; 0 if any part is 0.

    Of one image's values, or of the means of a data set. The drop is a share here, not percent.
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop]).clamp(min=0)
    # A part of 0 is an infinite term: the mean is 0.
    return 3 / (1 / parts).sum(dim=0)


def map_complexity(normalized: Tensor) -> Tensor:
    """The mean of scaled maps (..., H, W)."""
    return normalized.mean(dim=(-2, -1))


def map_coherency(maps: Tensor, others: Tensor) -> Tensor:
    """(r + 1) / 2 with r Pearson's correlation of two maps (M, H, W) each; 0 where one of them is flat."""
    a, b = (m.flatten(1) - m.flatten(1).mean(dim=1, keepdim=True) for m in (maps, others))
    scale = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    correlation = ((a * b).sum(dim=1) / scale).clamp(-1, 1)
    # Scaled maps: a flat one is all zeros to the bit, so that its deviations are, too.
    return torch.where(scale > 0, (correlation + 1) / 2, 0)


def _coherency_of(trial: Trial, baseline: Baseline) -> Tensor:
    others = maps_of_masked(trial, baseline)
    return map_coherency(trial.normalized, min_max_(others.clamp(min=0)))


def _coherency(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"coherency": _coherency_of(trial, options["baseline"])}


def _complexity(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    return {"complexity": map_complexity(trial.normalized)}


def _adcc(trial: Trial, options: Options) -> Mapping[str, Tensor]:
    baseline = options["baseline"]
    coherency, complexity = _coherency_of(trial, baseline), map_complexity(trial.normalized)
    drop = drop_share(trial, "soft", baseline)
    return {
        "adcc": harmonic_adcc(coherency, complexity, drop),
        "adcc_coherency": coherency,
        "adcc_complexity": complexity,
        "adcc_drop": 100 * drop,
    }


COHERENCY = Metric(
    name="coherency",
    title="Coherency",
    source="Poppi et al. 2021, eq. 3",
    columns=(Column(name="coherency", title="Coherency", better="higher"),),
    measure=_coherency,
    needs=frozenset({"explain"}),
    options={"baseline": 0.0},
    check=check_baseline,
)
COMPLEXITY = Metric(
    name="complexity",
    title="Complexity",
    source="Poppi et al. 2021, eq. 4",
    columns=(Column(name="complexity", title="Complexity", better="lower"),),
    measure=_complexity,
)
ADCC = Metric(
    name="adcc",
    title="ADCC",
    source="Poppi et al. 2021, eq. 5",
    columns=(
        Column(name="adcc", title="ADCC", better="higher"),
        # Of their means the ADCC of the means is made, whatever other metrics a study has and whatever their mask.
        Column(name="adcc_coherency", title="Coherency in ADCC", better="higher", hidden=True),
        Column(name="adcc_complexity", title="Complexity in ADCC", better="lower", hidden=True),
        Column(name="adcc_drop", title="Drop in ADCC", better="lower", unit="%", hidden=True),
    ),
    measure=_adcc,
    needs=frozenset({"explain"}),
    options={"baseline": 0.0},
    check=check_baseline,
)


def coherency(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    explain: Explain,
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """Coherency (adcc eq. 3): does the method explain what its map leaves of the image by the same map?

    (r + 1) / 2 with r Pearson's correlation of the map with the map of (x m + b (1 - m)), m the map's positive part,
    min-max scaled. Of both maps the positive part is compared; 0 where one has none or is flat.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        explain: the method that made the maps: from images (M, C, H, W) and targets (M,) to maps (M, H, W). A
            `fastcam.Explainer` is one.
        baseline: what a masked pixel becomes, see `average_drop`.

    Returns:
        0 to 1, (N,) or (N, T). Higher is better.
    """
    options = {"baseline": baseline}
    return measure_one(COHERENCY, model, images, maps, targets, options, explain=explain, **common)["coherency"]


def complexity(maps: Tensor) -> Tensor:
    """Complexity (adcc eq. 4): the mean of the map's positive part, min-max scaled.

    Args:
        maps: float (..., H, W), raw or normalised.

    Returns:
        0 to 1, the maps' leading shape, float32. Lower is better.

    Raises:
        TypeError, ValueError: maps that are not float tensors of at least two axes, NaN or infinite values.
    """
    checks = DeferredChecks()
    with torch.inference_mode(False), torch.no_grad():
        wide = check_planes("maps", maps, checks)
        values = map_complexity(min_max_(wide.clamp(min=0))).to(torch.float32)
    checks.settle()
    return values


def adcc(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    explain: Explain,
    baseline: Baseline = 0.0,
    **common: Unpack[Common],
) -> Tensor:
    """ADCC (adcc eq. 5): the harmonic mean of coherency, 1 - complexity and 1 - average drop, for each image.

    The drop is that of the soft mask. 0 if any part is 0. A data set's figure is the mean of these, or the value of
    the parts' means (`harmonic_adcc`), as in the paper's table 2: they differ.

    Args:
        model, images, maps, targets, common: see `fastcam.metrics.evaluate`.
        explain, baseline: see `coherency`.

    Returns:
        0 to 1, (N,) or (N, T). Higher is better.
    """
    options = {"baseline": baseline}
    return measure_one(ADCC, model, images, maps, targets, options, explain=explain, **common)["adcc"]
