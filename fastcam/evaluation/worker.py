"""The work on one part: photos in, rows out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastcam.datasets.sample import Sample
from fastcam.datasets.views import Unreadable, View
from fastcam.evaluation.checks import metric_options
from fastcam.evaluation.explaining import calls_of, explain_all, seed_of
from fastcam.evaluation.memory import Portions
from fastcam.evaluation.parts import Part
from fastcam.evaluation.store import Bad
from fastcam.evaluation.study import ModelSpec, Study
from fastcam.metrics.batch import Batch
from fastcam.metrics.measure import choose, measure
from fastcam.metrics.metric import Column
from fastcam.metrics.registry import METRICS
from fastcam.metrics.trial import Trial
from fastcam.models.loading import LoadedModel

# From batches of positions in the data set to what each photo became, batch by batch.
Load = Callable[[Sequence[Sequence[int]]], Iterator[Sequence[View | Unreadable]]]
# Told of every batch that is done: images.
Tick = Callable[[int], None]


def study_columns(study: Study) -> tuple[Column, ...]:
    """The columns of a study's metrics, each once, in order."""
    return tuple({column.name: column for name in study.metrics for column in METRICS[name].columns}.values())


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


@dataclass(eq=False)
class Worker:
    """A model at work on a study.

    model: on its device. samples: of the data set. load: its photos. portions: how many images at a time.
    """

    study: Study
    spec: ModelSpec
    model: LoadedModel
    samples: Sequence[Sample]
    load: Load
    portions: Portions
    device: torch.device
    columns: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        study = self.study
        self.columns = study_columns(study)
        self.labels = [method.label for method in study.methods]
        self.calls = calls_of(self.model.model, study.methods, self.spec.layers, study.precision)
        black = self.model.preprocessing.black
        self.chosen = choose([METRICS[name] for name in study.metrics], metric_options(study, black=black))

    def screen(self, part: Part, tick: Tick) -> Done:
        """What the model predicts for each photo."""
        rows: dict[str, list[int]] = {"index": [], "predicted": []}
        bad: list[Bad] = []
        for positions, views in self._batches(part, bad, tick):
            found = self.portions.each(len(views), lambda portion, views=views: self._predicted(views[portion]))
            of_all = np.concatenate(found)
            for place, position in enumerate(positions):
                if position is not None:
                    rows["index"].append(position)
                    rows["predicted"].append(int(of_all[place]))
        return Done(rows=rows, bad=tuple(bad), batch=self._batch())

    def measure(self, part: Part, tick: Tick) -> Done:
        """The part's rows: sample by sample, with each method in the study's order at each layer."""
        rows: dict[str, list[Any]] = {}
        bad: list[Bad] = []
        for positions, views in self._batches(part, bad, tick):
            samples = [self.samples[p] if p is not None else None for p in positions]
            known = [s for s in samples if s is not None]

            def work(
                portion: slice,
                views: Sequence[View] = views,
                samples: Sequence[Sample | None] = samples,
                known: Sequence[Sample] = known,
            ) -> Measured:
                # A photo that could not be read is stood in for by another, class and all.
                return self.measured(views[portion], [s or known[0] for s in samples[portion]])

            found = self.portions.each(len(views), work)
            for name, values in self._rows(positions, found).items():
                rows.setdefault(name, []).extend(values)
        return Done(rows=rows, bad=tuple(bad), batch=self._batch())

    def measured(self, views: Sequence[View], samples: Sequence[Sample]) -> Measured:
        """Everything about a portion of images."""
        images = self.images(views)
        labels = None
        if self.study.targets == "label":
            labels = torch.tensor([sample.label for sample in samples], device=self.device)
        explained = explain_all(self.calls, self.labels, images, labels, seed_of(self.study.seed, samples[0].name))
        probabilities, targets = explained.probabilities, explained.targets
        batch = Batch(
            self.model.model,
            images,
            precision=self.study.precision,
            batch_size=len(views) if self._batch() < self.study.batch else None,
            probabilities=probabilities,
        )
        regions = self.regions(views)
        values: list[dict[str, Tensor]] = []
        for made in explained.made:
            trial = Trial(batch, made.maps, targets, explain=made.explain, regions=regions)
            values.append(measure(trial, self.chosen))
        return Measured(
            places=tuple((made.label, made.layer) for made in explained.made),
            targets=targets.to(torch.int32).cpu().numpy(),
            predicted=probabilities.argmax(dim=1).to(torch.int32).cpu().numpy(),
            probability=probabilities.gather(1, targets[:, None])[:, 0].to(torch.float32).cpu().numpy(),
            values={c.name: torch.stack([of[c.name] for of in values]).cpu().numpy() for c in self.columns},
        )

    def regions(self, views: Sequence[View]) -> Tensor | None:
        """Where the classes are, (N, H, W); None where nothing tells."""
        regions = [view.region for view in views if view.region is not None]
        return torch.stack(regions).to(self.device) if len(regions) == len(views) else None

    def _predicted(self, views: Sequence[View]) -> NDArray[np.int32]:
        batch = Batch(self.model.model, self.images(views), precision=self.study.precision)
        predicted: NDArray[np.int32] = batch.probabilities.argmax(dim=1).to(torch.int32).cpu().numpy()
        batch.settle()
        return predicted

    def _batches(self, part: Part, bad: list[Bad], tick: Tick) -> Iterator[tuple[list[int | None], list[View]]]:
        """Each batch's positions and views; None where a photo could not be read, which `bad` then holds.

        In its place stands the batch's first photo, so that the others are computed as they would be beside it: no
        row depends, not even by its rounding, on which other photos can be read.
        """
        batches = part.batches(self.study.batch)
        for positions, views in zip(batches, self.load(batches), strict=True):
            good = [view for view in views if not isinstance(view, Unreadable)]
            bad += [
                Bad(part.model, self.samples[position].name, view.reason)
                for position, view in zip(positions, views, strict=True)
                if isinstance(view, Unreadable)
            ]
            if good:
                kept = [None if isinstance(v, Unreadable) else p for p, v in zip(positions, views, strict=True)]
                yield kept, [good[0] if isinstance(view, Unreadable) else view for view in views]
            tick(len(positions))

    def images(self, views: Sequence[View]) -> Tensor:
        """The network's input (N, C, H, W)."""
        pixels = torch.stack([view.pixels for view in views]).to(self.device)
        # A model of another dtype gets its own.
        floats = (p.dtype for p in self.model.model.parameters() if p.is_floating_point())
        return self.model.preprocessing.scaled(pixels).to(next(floats, torch.float32))

    def _batch(self) -> int:
        return min(self.portions.size, self.study.batch)

    def _rows(self, positions: Sequence[int | None], found: Sequence[Measured]) -> dict[str, list[Any]]:
        """Columns of rows for the photos that could be read."""
        places = found[0].places
        kept = [place for place, position in enumerate(positions) if position is not None]
        samples = [self.samples[position] for position in positions if position is not None]
        each = len(places)

        def spread(values: Sequence[Any]) -> list[Any]:
            return [value for value in values for _ in range(each)]

        def of_images(name: str) -> list[Any]:
            return spread(np.concatenate([getattr(part, name) for part in found])[kept].tolist())

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
            values = np.concatenate([part.values[column.name] for part in found], axis=1)[:, kept].swapaxes(0, 1)
            rows[column.name] = values.reshape(-1, *values.shape[2:]).tolist()
        return rows
