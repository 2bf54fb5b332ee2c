"""The work on one part: photos in, rows out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastcam.datasets.loader import ViewBatch, loader
from fastcam.datasets.sample import DataSet, Sample
from fastcam.datasets.views import Views
from fastcam.evaluation.checks import check_classes, metric_options
from fastcam.evaluation.explaining import Made, calls_of, explain_all, seed_of
from fastcam.evaluation.memory import Portions
from fastcam.evaluation.parts import Part
from fastcam.evaluation.store import Bad
from fastcam.evaluation.study import ModelSpec, Study
from fastcam.evaluation.tables import study_columns
from fastcam.metrics.batch import Batch
from fastcam.metrics.measure import Chosen, choose, measure
from fastcam.metrics.registry import METRICS
from fastcam.metrics.trial import Trial
from fastcam.models.loading import LoadedModel
from fastcam.network.arguments import NotFiniteError
from fastcam.network.cache import network_for

T = TypeVar("T")
# Told of every batch that is done: images.
Tick = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found of images: N images, K pairs of method and layer; all on the CPU.

    places: (label, layer) of each pair. targets, predicted, probability: (N,). values: per column (K, N), curves
    (K, N, S).
    """

    places: tuple[tuple[str, str], ...]
    targets: NDArray[np.int32]
    predicted: NDArray[np.int32]
    probability: NDArray[np.float32]
    values: Mapping[str, NDArray[np.float32]]


@dataclass
class Done:
    """The rows of a part, by column, and the photos that were left out; batch: the most images at a time."""

    rows: dict[str, Any]
    bad: tuple[Bad, ...]
    batch: int


@dataclass(frozen=True, eq=False)
class Filled:
    """A batch of N photos, of which some are left out; the first that is not stands in for them.

    So the others are computed as they would be beside the missing ones: no row depends, not even by its rounding, on
    which other photos can be read and explained.

    positions: in the data set; None where a photo is only stood in for. names: of the samples asked for. samples: those
    shown. images: uint8 (N, 3, H, W). regions: (N, H, W). photo_regions: N tensors (h, w).
    """

    positions: tuple[int | None, ...]
    names: tuple[str, ...]
    samples: tuple[Sample, ...]
    images: Tensor
    regions: Tensor | None
    photo_regions: tuple[Tensor, ...] | None

    def __getitem__(self, portion: slice) -> "Filled":
        """Some of the photos."""
        return Filled(
            self.positions[portion],
            self.names[portion],
            self.samples[portion],
            self.images[portion],
            None if self.regions is None else self.regions[portion],
            None if self.photo_regions is None else self.photo_regions[portion],
        )

    def without(self, places: Sequence[int]) -> "Filled | None":
        """The same with the photos at these places left out; None if no other is there."""
        positions = tuple(None if place in places else position for place, position in enumerate(self.positions))
        good = next((place for place, position in enumerate(positions) if position is not None), None)
        if good is None:
            return None
        rows = [good if place in places else place for place in range(len(positions))]
        return Filled(
            positions,
            self.names,
            tuple(self.samples[row] for row in rows),
            self.images[rows],
            None if self.regions is None else self.regions[rows],
            None if self.photo_regions is None else tuple(self.photo_regions[row] for row in rows),
        )


@dataclass(frozen=True, eq=False)
class Worked(Generic[T]):
    """A portion of photos and what was found of them."""

    filled: Filled
    found: T


def fill(positions: Sequence[int], views: ViewBatch, samples: Sequence[Sample]) -> Filled | None:
    """The photos at these positions of the data set; None if none of them could be read."""
    if not views.indices:
        return None
    place = {index: row for row, index in enumerate(views.indices)}
    rows = [place.get(position, 0) for position in positions]
    return Filled(
        positions=tuple(position if position in place else None for position in positions),
        names=tuple(samples[position].name for position in positions),
        samples=tuple(samples[views.indices[row]] for row in rows),
        images=views.images[rows],
        regions=None if views.regions is None else views.regions[rows],
        photo_regions=None if views.photo_regions is None else tuple(views.photo_regions[row] for row in rows),
    )


@dataclass(eq=False)
class Worker:
    """A model at work on a study.

    model: on its device. portions: how many images at a time. workers: processes that read photos.
    """

    study: Study
    spec: ModelSpec
    model: LoadedModel
    dataset: DataSet
    portions: Portions
    device: torch.device
    workers: int

    def __post_init__(self) -> None:
        study = self.study
        self._checked = False
        self.columns = study_columns(study, METRICS)
        self.labels = [method.label for method in study.methods]
        self.calls = calls_of(self.model.model, study.methods, self.spec.layers, study.precision)
        black = self.model.preprocessing.black
        self.chosen = choose([METRICS[name] for name in study.metrics], metric_options(study, black=black))
        # A distance in pixels is one of the photo's own: the protocol for VOC and COCO (Zhang et al. 2018).
        self.on_photo = [each for each in self.chosen if each.options.get("tolerance", 0) > 0]
        self._views = Views(
            self.dataset, self.model.preprocessing, device=self.device, photo_regions=bool(self.on_photo)
        )

    def views(self, batches: Sequence[Sequence[int]]) -> Iterator[ViewBatch]:
        """The photos of batches, read ahead."""
        return loader(self._views, batches, self.workers)

    def screen(self, part: Part, views: Iterator[ViewBatch], tick: Tick) -> Done:
        """What the model predicts for each photo."""
        rows: dict[str, list[Any]] = {"index": [], "predicted": []}
        bad: list[Bad] = []
        for filled in self._filled(part, views, bad, tick):
            for portion in self._in_portions(filled, self._predicted, bad):
                for position, predicted in zip(portion.filled.positions, portion.found.tolist(), strict=True):
                    if position is not None:
                        rows["index"].append(position)
                        rows["predicted"].append(predicted)
        return Done(rows=rows, bad=tuple(bad), batch=self._batch())

    def measure(self, part: Part, views: Iterator[ViewBatch], tick: Tick) -> Done:
        """The part's rows: sample by sample, with each method in the study's order at each layer."""
        rows: dict[str, list[Any]] = {}
        bad: list[Bad] = []
        for filled in self._filled(part, views, bad, tick):
            for portion in self._in_portions(filled, self.measured, bad):
                for name, values in self._rows(portion.filled.positions, portion.found).items():
                    rows.setdefault(name, []).extend(values)
        return Done(rows=rows, bad=tuple(bad), batch=self._batch())

    def measured(self, filled: Filled) -> Measured:
        """Everything about a portion of images."""
        images, samples = self.images(filled), filled.samples
        self._check_classes(images)
        labels = None
        if self.study.targets == "label":
            labels = torch.tensor([sample.label for sample in samples], device=self.device)
        explained = explain_all(self.calls, self.labels, images, labels, seed_of(self.study.seed, filled.names[0]))
        probabilities, targets = explained.probabilities, explained.targets
        batch = self.batch_of(images, probabilities)
        values = [self.metrics(batch, filled, made, targets, self.chosen) for made in explained.made]
        return Measured(
            places=tuple((made.label, made.layer) for made in explained.made),
            targets=targets.to(torch.int32).cpu().numpy(),
            predicted=probabilities.argmax(dim=1).to(torch.int32).cpu().numpy(),
            probability=probabilities.gather(1, targets[:, None])[:, 0].to(torch.float32).cpu().numpy(),
            values={c.name: torch.stack([of[c.name] for of in values]).cpu().numpy() for c in self.columns},
        )

    def metrics(
        self, batch: Batch, filled: Filled, made: Made, targets: Tensor, chosen: Sequence[Chosen]
    ) -> dict[str, Tensor]:
        """The columns of some of the study's metrics, for the maps of one method at one layer."""
        regions = None if filled.regions is None else filled.regions.to(self.device)
        found = measure(
            Trial(batch, made.maps, targets, explain=made.explain, regions=regions),
            [each for each in chosen if each not in self.on_photo],
        )
        on_photo = [each for each in chosen if each in self.on_photo]
        if on_photo and filled.photo_regions is not None:
            photo_regions = [region.to(self.device) for region in filled.photo_regions]
            found |= measure(Trial(batch, made.maps, targets, explain=made.explain, regions=photo_regions), on_photo)
        return found

    def batch_of(self, images: Tensor, probabilities: Tensor | None = None) -> Batch:
        """Images with the model; where memory was short, no forward pass takes more than there is room for."""
        batch = Batch(self.model.model, images, precision=self.study.precision, probabilities=probabilities)
        if self._batch() < self.study.batch:
            batch.batch_size = min(batch.batch_size, self._batch())
        return batch

    def images(self, filled: Filled) -> Tensor:
        """The network's input (N, 3, H, W)."""
        scaled = self.model.preprocessing.scaled(filled.images.to(self.device))
        # A model of another dtype gets its own.
        floats = (p.dtype for p in self.model.model.parameters() if p.is_floating_point())
        return scaled.to(next(floats, torch.float32))

    def _in_portions(self, filled: Filled, work: Callable[[Filled], T], bad: list[Bad]) -> list[Worked[T]]:
        """`work` on as many photos at a time as memory holds; `bad` gets those that have to be left out."""
        portions = self.portions.each(
            len(filled.positions), lambda portion: _spared(work, filled[portion], self.spec.name)
        )
        bad += [each for _, left_out in portions for each in left_out]
        return [worked for worked, _ in portions if worked is not None]

    def _predicted(self, filled: Filled) -> NDArray[np.int32]:
        images = self.images(filled)
        self._check_classes(images)
        batch = self.batch_of(images)
        predicted: NDArray[np.int32] = batch.probabilities.argmax(dim=1).to(torch.int32).cpu().numpy()
        batch.settle()
        return predicted

    def _check_classes(self, images: Tensor) -> None:
        """See once that the data set's labels are the model's, whose outputs are counted when it is captured."""
        if not self._checked:
            network = network_for(self.model.model, images, precision=self.study.precision)
            check_classes(self.study, self.dataset, self.spec.name, network.graph.classes)
            self._checked = True

    def _filled(self, part: Part, views: Iterator[ViewBatch], bad: list[Bad], tick: Tick) -> Iterator[Filled]:
        """The part's batches; `bad` gets the photos that cannot be read."""
        for positions, found in zip(part.batches(self.study.batch), views, strict=False):
            bad += [Bad(part.model, each.name, each.reason) for each in found.bad]
            filled = fill(positions, found, self.dataset.samples)
            if filled is not None:
                yield filled
            tick(len(positions))

    def _batch(self) -> int:
        return min(self.portions.size, self.study.batch)

    def _rows(self, positions: Sequence[int | None], found: Measured) -> dict[str, list[Any]]:
        """Columns of rows for the photos that are not left out."""
        places = found.places
        kept = [place for place, position in enumerate(positions) if position is not None]
        samples = [self.dataset.samples[position] for position in positions if position is not None]
        each = len(places)

        def spread(values: Sequence[Any]) -> list[Any]:
            return [value for value in values for _ in range(each)]

        def of_images(name: str) -> list[Any]:
            return spread(getattr(found, name)[kept].tolist())

        rows: dict[str, list[Any]] = {
            "name": spread([sample.name for sample in samples]),
            "index": spread([position for position in positions if position is not None]),
            "model": [self.spec.name] * (each * len(samples)),
            "method": [label for label, _ in places] * len(samples),
            "layer": [layer for _, layer in places] * len(samples),
            "label": spread([sample.label for sample in samples]),
            "target": of_images("targets"),
            "predicted": of_images("predicted"),
            "probability": of_images("probability"),
            "difficult": spread([sample.difficult for sample in samples]),
        }
        for column in self.columns:
            # (K, N, ...) to image-major, as the rows are.
            values = found.values[column.name][:, kept].swapaxes(0, 1)
            rows[column.name] = values.reshape(-1, *values.shape[2:]).tolist()
        return rows


def _spared(work: Callable[[Filled], T], filled: Filled, model: str) -> tuple[Worked[T] | None, tuple[Bad, ...]]:
    """`work` on photos, without those for which it comes upon NaN or infinity; None if nothing else is left.

    Raises:
        NotFiniteError: photos together have such values, and none of them alone.
    """
    try:
        return Worked(filled, work(filled)), ()
    except NotFiniteError as error:
        told = str(error)
    # One at a time tells which; the others are then worked on as they would be beside a photo that cannot be read.
    reasons = {place: why for place in range(len(filled.names)) if (why := _reason(work, filled[place : place + 1]))}
    if not reasons:
        raise NotFiniteError(f"{told} (photos {', '.join(filled.names)})")
    bad = tuple(
        Bad(model, filled.names[place], why) for place, why in reasons.items() if filled.positions[place] is not None
    )
    others = filled.without(list(reasons))
    return (None if others is None else Worked(others, work(others))), bad


def _reason(work: Callable[[Filled], object], one: Filled) -> str:
    """What is not finite about one photo; nothing if all is."""
    try:
        work(one)
    except NotFiniteError as error:
        return str(error)
    return ""
