"""Several metrics of the same maps, with one forward pass for whatever they share."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from fastcam.metrics.batch import Batch
from fastcam.metrics.measure import Chosen, choose, measure
from fastcam.metrics.registry import METRICS
from fastcam.metrics.trial import Explain, Regions, Trial
from fastcam.network.arguments import Targets
from fastcam.network.cache import Output


def choose_metrics(names: str | Sequence[str], options: Mapping[str, Any]) -> list[Chosen]:
    """Metrics by name, each with those of the options that are its own.

    Raises:
        ValueError: a name that is unknown (close names are told), repeated, or none; an invalid option.
        TypeError: an option that none of them has.
    """
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in METRICS:
            close = get_close_matches(str(name), METRICS, n=3)
            offer = f"close names: {', '.join(close)}" if close else f"valid are {', '.join(METRICS)}"
            raise ValueError(f"metrics: {name!r} given, which is none; {offer}")
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"metrics: {listed!r} given, a name or a list of different names is valid")
    return choose([METRICS[name] for name in listed], options)


def evaluate(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Targets = None,
    *,
    metrics: str | Sequence[str],
    regions: Regions | None = None,
    explain: Explain | None = None,
    precision: str | None = None,
    output: Output | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Judge maps by several metrics at once.

    The images' own scores, the scores of images under their soft masks, the maps of those and the ranking of pixels
    are computed once, however many metrics ask for them.

    Args:
        model: any CNN classifier; it scores as in eval mode, and is never changed.
        images: float (N, C, H, W), preprocessed as the model expects, on the model's device.
        maps: float (N, H, W), or (N, T, H, W) for targets (N, T), at the images' size; raw or normalised: metrics
            that mask take the positive part, min-max scaled, those that rank or threshold take maps as they are.
        targets: the classes that the maps explain: None (the predicted class), an int, (N,) or (N, T) integers.
        metrics: names, see `fastcam.metrics.METRICS`.
        regions: where the class is, for metrics of localisation and segmentation: booleans of the maps' shape, or a
            list with one tensor (h, w) per map.
        explain: the method that made the maps, for coherency and adcc: from images (M, C, H, W), of the images' dtype,
            and targets (M,) to maps (M, H, W); a `fastcam.Explainer` is one.
        precision: of the model's forward passes, as in `fastcam.explain`.
        output: picks the logits (N, classes) from what the model returns, if that is something else.
        batch_size: the most images per forward pass; no more perturbed images are held in memory at a time. None: 8
            on a CPU, elsewhere as many as there are images, at least 8.
        options: of the metrics, see their functions; each takes those that it knows.

    Returns:
        For each column of each metric one value per map, float32, (N,) or (N, T), on the images' device; curves
        have a further axis. NaN where a metric is undefined for a map.

    Raises:
        ValueError, TypeError: for an argument that is not valid; it names the argument, what was given and what is
            valid.
    """
    chosen = choose_metrics(metrics, options)
    batch = Batch(model, images, precision=precision, output=output, batch_size=batch_size)
    return measure(Trial(batch, maps, targets, regions=regions, explain=explain), chosen)
