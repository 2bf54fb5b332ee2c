"""Measuring: metrics with their options, applied to a trial, and the way there from a model, images and maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from fastcam.metrics.batch import Batch
from fastcam.metrics.metric import Metric, Options
from fastcam.metrics.trial import Explain, Trial
from fastcam.network.arguments import Targets
from fastcam.network.cache import Output


class Common(TypedDict, total=False):
    """What every metric that asks the model takes besides its own options; see `fastcam.metrics.evaluate`."""

    precision: str | None
    output: Output | None
    batch_size: int | None


@dataclass(frozen=True, eq=False)
class Chosen:
    """A metric with the options that this call gives it."""

    metric: Metric
    options: Options


# What to say of a trial that lacks what a metric needs.
_MISSING = {
    "regions": "pass where the class is, regions=(N, H, W) booleans or a list of one tensor (h, w) per map",
    "explain": "pass the method that made the maps, explain=fastcam.Explainer(model, method=...) or a function from "
    "images (M, C, H, W) and targets (M,) to maps (M, H, W)",
}


def choose(metrics: Sequence[Metric], options: Mapping[str, Any]) -> list[Chosen]:
    """Metrics, each with those of the options that are its own, checked. Raises TypeError for one that is nobody's."""
    known = dict.fromkeys(option for metric in metrics for option in metric.options)
    unknown = [option for option in options if option not in known]
    if unknown:
        names = ", ".join(metric.name for metric in metrics)
        valid = f"{', '.join(known)} are valid" if known else "they have none"
        raise TypeError(f"{unknown[0]}: no option of {names}; {valid}")
    chosen = [Chosen(m, {name: options.get(name, default) for name, default in m.options.items()}) for m in metrics]
    for each in chosen:
        each.metric.check(each.options)
    return chosen


def measure(trial: Trial, chosen: Sequence[Chosen]) -> dict[str, Tensor]:
    """Every column of the metrics, float32, as the maps were given: (N,) or (N, T), with a further axis for curves.

    Raises:
        ValueError: the trial lacks what a metric needs; images, maps or scores that are not finite.
    """
    for each in chosen:
        for need in sorted(each.metric.needs):
            if getattr(trial, need) is None:
                raise ValueError(f"{need}: not given, but {each.metric.name} needs it; {_MISSING[need]}")
    with torch.inference_mode(False), torch.no_grad():
        found = {name: values for each in chosen for name, values in each.metric.measure(trial, each.options).items()}
        trial.batch.settle()
        return {name: trial.shaped(values.to(torch.float32)) for name, values in found.items()}


def measure_one(
    metric: Metric,
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets,
    options: Options,
    *,
    explain: Explain | None = None,
    **common: Unpack[Common],
) -> dict[str, Tensor]:
    """The columns of one metric."""
    chosen = choose([metric], options)
    return measure(Trial(Batch(model, images, **common), maps, targets, explain=explain), chosen)
