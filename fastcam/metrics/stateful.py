"""The metrics for users' own loops: torchmetrics' `Metric` with `update`, `compute` and `reset`.

    metric = AverageDrop(model)
    for images, labels in loader:
        metric.update(images, fastcam.grad_cam(model, images))
    print(metric.compute())

States are sums in float64 and counts, added up over processes: a process that saw no image adds nothing. Maps for which
a metric is undefined (NaN: a box that did not survive the crop) are left out, and counted in `left_out`. Without any
map the result is NaN.

In a `torchmetrics.MetricCollection`, give `update` its arguments by name (images, maps, targets, regions, labels): each
metric takes those that it knows. One that holds the same metric for two models needs `compute_groups=False`, since
torchmetrics takes metrics for one whose states agree after the first batch. Several metrics of the same images share
their forward passes in `fastcam.metrics.evaluate`, which gives the values per image; here every metric runs its own.

`fastcam.metrics.randomization` and `selectivity` have none here: they give stages and channels, not a value per map.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastcam.metrics.adcc import ADCC as ADCC_METRIC
from fastcam.metrics.adcc import COHERENCY, COMPLEXITY, harmonic_adcc
from fastcam.metrics.batch import Batch
from fastcam.metrics.density import NEGATIVE_DENSITY, POSITIVE_DENSITY
from fastcam.metrics.faithfulness import DROP, INCREASE
from fastcam.metrics.localization import ENERGY_POINTING, IOU, POINTING, energy_pointing_game, iou, pointing_game
from fastcam.metrics.measure import choose, measure
from fastcam.metrics.metric import Metric
from fastcam.metrics.perturbation import DELETION, INSERTION
from fastcam.metrics.segmentation import (
    AVERAGE_PRECISION,
    PIXEL_ACCURACY,
    SEGMENTATION_IOU,
    average_precision,
    pixel_accuracy,
    segmentation_iou,
)
from fastcam.metrics.trial import Explain, Regions, Trial
from fastcam.network.arguments import Targets, check_model
from fastcam.network.cache import Output

try:
    import torchmetrics
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "torchmetrics is not installed, and fastcam.metrics.stateful is made of it: pip install 'fastcam[eval]'"
    ) from error

# What torchmetrics' own constructor takes; all else is a metric's option.
_TORCHMETRICS = (
    "compute_on_cpu",
    "dist_sync_on_step",
    "process_group",
    "dist_sync_fn",
    "distributed_available_fn",
    "sync_on_compute",
    "compute_with_cache",
)


class _Means(torchmetrics.Metric):
    """Sums of columns over maps, and the number of maps; the mean of the first metric's first column.

    metrics: what the class computes, the one that it is named for first; its options are the class's.
    """

    is_differentiable = False
    full_state_update = False
    metrics: ClassVar[tuple[Metric, ...]]

    count: Tensor
    left_out: Tensor

    def __init__(self, **settings: Any) -> None:
        own = {name: value for name, value in settings.items() if name not in _TORCHMETRICS}
        super().__init__(**{name: value for name, value in settings.items() if name in _TORCHMETRICS})
        choose(self.metrics[:1], own)
        self._chosen, self._options = choose(self.metrics, own), own
        self.columns = [metric.columns[0].name for metric in self.metrics]
        for column in self.columns:
            self.add_state(self._sum(column), torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("count", "left_out"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean over all maps, float64; NaN where there was none."""
        return self._mean(self.columns[0])

    def _add(self, values: Mapping[str, Tensor]) -> None:
        wide = torch.stack([values[column].flatten() for column in self.columns]).to(self.count.device, torch.float64)
        defined = ~wide.isnan().any(dim=0)
        for column, row in zip(self.columns, wide, strict=True):
            setattr(self, self._sum(column), getattr(self, self._sum(column)) + torch.where(defined, row, 0).sum())
        self.count = self.count + defined.sum()
        self.left_out = self.left_out + (~defined).sum()

    def _mean(self, column: str) -> Tensor:
        total: Tensor = getattr(self, self._sum(column))
        return total / self.count

    def _sum(self, column: str) -> str:
        # torchmetrics takes two metrics of a collection for one if their states have the same names and, after the
        # first batch, the same values: names tell metrics and options apart.
        options = (f"{name}_{value}" for name, value in sorted(self._options.items()))
        return "".join(c if c.isalnum() else "_" for c in "_".join(["sum", column, *options]))


class _OfModel(_Means):
    """A metric that asks the model."""

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: str | None = None,
        output: Output | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        # In a tuple, so that torch does not take the user's modules for parts of the metric: moving the metric must not
        # move them.
        self._held: tuple[nn.Module, Explain | None] = (check_model(model), None)
        self._common: dict[str, Any] = {"precision": precision, "output": output, "batch_size": batch_size}

    def update(self, images: Tensor, maps: Tensor, targets: Targets = None) -> None:
        """Add maps.

        images: float (N, C, H, W), preprocessed as the model expects. maps: (N, H, W), or (N, T, H, W) where targets
        are (N, T). targets: the classes that the maps explain; None: the predicted ones.
        """
        model, explain = self._held
        trial = Trial(Batch(model, images, **self._common), maps, targets, explain=explain)
        self._add(measure(trial, self._chosen))


class _Explaining(_OfModel):
    """A metric that makes maps of further images."""

    def __init__(
        self,
        model: nn.Module,
        explain: Explain,
        *,
        precision: str | None = None,
        output: Output | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, precision=precision, output=output, batch_size=batch_size, **settings)
        if not callable(explain):
            raise TypeError(
                f"explain: {type(explain).__name__} given, the method that made the maps is valid: a "
                "fastcam.Explainer, or a function from images (M, C, H, W) and targets (M,) to maps (M, H, W)"
            )
        self._held = (self._held[0], explain)


class _OfRegions(_Means):
    """A metric that asks where the class is."""

    higher_is_better = True
    function: ClassVar[Callable[..., Tensor]]

    def update(self, maps: Tensor, regions: Regions) -> None:
        """Add maps.

        maps: (N, H, W) or (N, T, H, W). regions: booleans of the maps' shape, or a list with one tensor (h, w) per map,
        at the size of its photo.
        """
        self._add({self.columns[0]: type(self).function(maps, regions, **self._options)})


class AverageDrop(_OfModel):
    """Average drop, in %: how much of the class's probability is lost when the image is masked by its map.

    The mean of max(0, y - o) / y * 100 over all maps; see `fastcam.metrics.average_drop` for the options.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (DROP,)
    higher_is_better = False


class AverageIncrease(_OfModel):
    """Average increase, in %: of how many maps the masked image is more probably of the class than the image.

    The mean of [o > y] * 100 over all maps; see `fastcam.metrics.average_increase` for the options.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (INCREASE,)
    higher_is_better = True


class Coherency(_Explaining):
    """Coherency, 0 to 1: how alike a map is to the map of the image that it masks.

    The mean of (r + 1) / 2, r Pearson's correlation, over all maps; see `fastcam.metrics.coherency`.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        explain: the method that made the maps: a `fastcam.Explainer`, or a function from images (M, C, H, W) and
            targets (M,) to maps (M, H, W).
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (COHERENCY,)
    higher_is_better = True


class Complexity(_OfModel):
    """Complexity, 0 to 1: how much of the image a map holds for important.

    The mean of the normalised maps; see `fastcam.metrics.complexity`.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (COMPLEXITY,)
    higher_is_better = False


class ADCC(_Explaining):
    """ADCC, 0 to 1: the harmonic mean of coherency, 1 - complexity and 1 - drop.

    `compute` gives both figures that are in use: "adcc", the mean of the maps' own values, and "adcc_of_means", the
    harmonic mean of the three means. A map that lacks one of the parts is left out of all. See `fastcam.metrics.adcc`.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        explain: the method that made the maps: a `fastcam.Explainer`, or a function from images (M, C, H, W) and
            targets (M,) to maps (M, H, W).
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (ADCC_METRIC, COHERENCY, COMPLEXITY, DROP)
    higher_is_better = True

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Both figures, float64; NaN where there was no map."""
        of_means = harmonic_adcc(self._mean("coherency"), self._mean("complexity"), self._mean("drop") / 100)
        return {"adcc": self._mean("adcc"), "adcc_of_means": of_means}


class Insertion(_OfModel):
    """Insertion, 0 to 1: the area under the class's probability while pixels come into a blurred image, best first.

    The mean over all maps; see `fastcam.metrics.insertion` for the options.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (INSERTION,)
    higher_is_better = True


class Deletion(_OfModel):
    """Deletion, 0 to 1: the area under the class's probability while pixels go from the image, best first.

    The mean over all maps; see `fastcam.metrics.deletion` for the options.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (DELETION,)
    higher_is_better = False


class PositiveDensity(_OfModel):
    """Positive density: the class's probability for the image under its map, per unit of map.

    The mean of p_c(image * map) / mean(map) over all maps; see `fastcam.metrics.positive_density`.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (POSITIVE_DENSITY,)
    higher_is_better = True


class NegativeDensity(_OfModel):
    """Negative density: the class's probability for what the map leaves out, per unit of that.

    The mean of p_c(image * (1 - map)) / mean(1 - map) over all maps; see `fastcam.metrics.negative_density`.

    Args:
        model: the classifier; not changed, and no part of the metric's own state.
        precision, output, batch_size: as in `fastcam.metrics.evaluate`.
        settings: options of the metric, and torchmetrics' own.
    """

    metrics = (NEGATIVE_DENSITY,)
    higher_is_better = False


class PointingGame(_OfRegions):
    """Accuracy of the pointing game, 0 to 1: hits over maps within each class, then the mean of the classes seen.

    `accuracies` are those of the classes, NaN for one that was not seen. See `fastcam.metrics.pointing_game`.

    Args:
        num_classes: labels are 0 to num_classes - 1. The state is two numbers per class, whatever was seen, so that
            processes add up.
        settings: `tolerance` in pixels, and torchmetrics' own.
    """

    metrics = (POINTING,)

    hits: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__(**settings)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes: {num_classes!r} given, a positive integer is valid")
        self.num_classes = num_classes
        for name in ("hits", "seen"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, regions: Regions, labels: Tensor) -> None:  # type: ignore[override]
        """Add maps.

        maps, regions: as in `fastcam.metrics.pointing_game`. labels: the class of each map, integers of shape (N,), or
        (N, T) for maps (N, T, H, W).
        """
        values = pointing_game(maps, regions, **self._options)
        classes = self._check_labels(labels, values).flatten().to(self.hits.device)
        self._add({"pointing": values})
        found = values.flatten().to(self.hits.device)
        # What is undefined counts nowhere.
        self.hits = self.hits.index_add(0, classes, (found == 1).to(torch.int64))
        self.seen = self.seen.index_add(0, classes, (~found.isnan()).to(torch.int64))

    def compute(self) -> Tensor:
        """The mean of the accuracies of the classes that were seen, float64; NaN where there was none."""
        return self.accuracies.nanmean()

    @property
    def accuracies(self) -> Tensor:
        """Hits over maps per class, (num_classes,), float64; NaN for a class that was not seen."""
        return self.hits.to(torch.float64) / self.seen

    def _check_labels(self, labels: object, values: Tensor) -> Tensor:
        valid = f"integers of shape {tuple(values.shape)} from 0 to {self.num_classes - 1} are valid"
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels: {given} given, {valid}")
        if labels.shape != values.shape:
            raise ValueError(f"labels: shape {tuple(labels.shape)} given, {valid}")
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise ValueError(f"labels: {int(labels.min())} to {int(labels.max())} given, {valid}")
        return labels.to(torch.int64)


class EnergyPointingGame(_OfRegions):
    """Energy pointing game, 0 to 1: the mean share of the maps that lies in their classes' regions.

    See `fastcam.metrics.energy_pointing_game`.

    Args:
        settings: torchmetrics' own.
    """

    metrics = (ENERGY_POINTING,)
    function = staticmethod(energy_pointing_game)


class IoU(_OfRegions):
    """Intersection over union of the maps' bright pixels and their classes' regions, 0 to 1: the mean over all maps.

    See `fastcam.metrics.iou`.

    Args:
        settings: `std`, and torchmetrics' own.
    """

    metrics = (IOU,)
    function = staticmethod(iou)


class AveragePrecision(_OfRegions):
    """Average precision of maps as segmentations, 0 to 1: the mean over all maps, as mAP is for ImageNet-Segmentation.

    See `fastcam.metrics.average_precision`.

    Args:
        settings: torchmetrics' own.
    """

    metrics = (AVERAGE_PRECISION,)
    function = staticmethod(average_precision)


class PixelAccuracy(_OfRegions):
    """Share of pixels that maps, thresholded at their means, put on the right side, 0 to 1: the mean over all maps.

    See `fastcam.metrics.pixel_accuracy`.

    Args:
        settings: torchmetrics' own.
    """

    metrics = (PIXEL_ACCURACY,)
    function = staticmethod(pixel_accuracy)


class SegmentationIoU(_OfRegions):
    """Intersection over union of maps, thresholded at their means, with masks, 0 to 1: the mean over all maps.

    See `fastcam.metrics.segmentation_iou`.

    Args:
        settings: torchmetrics' own.
    """

    metrics = (SEGMENTATION_IOU,)
    function = staticmethod(segmentation_iou)


__all__ = [
    "ADCC",
    "AverageDrop",
    "AverageIncrease",
    "AveragePrecision",
    "Coherency",
    "Complexity",
    "Deletion",
    "EnergyPointingGame",
    "Insertion",
    "IoU",
    "NegativeDensity",
    "PixelAccuracy",
    "PointingGame",
    "PositiveDensity",
    "SegmentationIoU",
]
