"""What each method and metric costs, timed alone."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcam.datasets.views import View
from fastcam.evaluation.explaining import calls_of, seed_of
from fastcam.evaluation.worker import Worker
from fastcam.metrics.batch import Batch
from fastcam.metrics.measure import measure
from fastcam.metrics.trial import Trial


def measure_cost(worker: Worker, positions: Sequence[int]) -> dict[str, Any]:
    """Seconds per image on one batch, of one call each that nothing is shared with.

    "images": how many were in the batch. "load": reading and preparing the photos, in this process. "forward": the
    network alone. "methods": by label, all layers of the study together. "metrics": by name, one method's map at one
    layer, the unmasked scores being known.
    """
    began = time.perf_counter()
    (views,) = worker.load([positions])
    load = time.perf_counter() - began
    good = [(view, position) for view, position in zip(views, positions, strict=True) if isinstance(view, View)]
    good = good[: worker.portions.size]
    if not good:
        return {}
    shown, first = [view for view, _ in good], worker.samples[good[0][1]]
    seed, count, study = seed_of(worker.study.seed, first.name), len(good), worker.study
    images = worker.images(shown)
    network = Batch(worker.model.model, images, precision=study.precision)

    def timed(work: Callable[[], object]) -> float:
        return _seconds(work, images) / count

    calls = {
        spec.label: calls_of(worker.model.model, [spec], worker.spec.layers, study.precision)[0]
        for spec in study.methods
    }
    explanation, made = calls[worker.labels[0]](images, None, seed)

    def trial() -> Trial:
        batch = Batch(worker.model.model, images, precision=study.precision, probabilities=explanation.probabilities)
        return Trial(batch, made[0].maps, explanation.targets, explain=made[0].explain, regions=worker.regions(shown))

    chosen = {each.metric.name: each for each in worker.chosen}
    return {
        "images": count,
        "load": load / len(positions),
        "forward": timed(lambda: network.probabilities_of(network.images)),
        "methods": {label: timed(lambda call=call: call(images, None, seed)) for label, call in calls.items()},
        "metrics": {name: timed(lambda each=each: measure(trial(), [each])) for name, each in chosen.items()},
    }


def _seconds(work: Callable[[], object], images: Tensor) -> float:
    """The time of one call; on a GPU of the best of three, behind one that prepares."""
    on_gpu = images.device.type == "cuda"
    times = []
    for _ in range(4 if on_gpu else 1):
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(images.device)
        times.append(time.perf_counter() - began)
    return min(times)
