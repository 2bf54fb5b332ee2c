"""What each method and metric costs, timed alone."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fastcam.evaluation.explaining import calls_of, seed_of
from fastcam.evaluation.worker import Filled, Worker, fill
from fastcam.metrics.batch import Batch
from fastcam.metrics.measure import Chosen


def measure_cost(worker: Worker, positions: Sequence[int]) -> dict[str, Any]:
    """Seconds per image on one batch, of one call each that nothing is shared with.

    "images": how many were in the batch. "load": reading and preparing the photos, in this process. "forward": the
    network alone. "methods": by label, all layers of the study together. "metrics": by name, one method's map at one
    layer, the unmasked scores being known. Nothing at all, if none of the photos can be read.
    """
    began = time.perf_counter()
    (views,) = worker.views([positions])
    load = (time.perf_counter() - began) / len(positions)
    filled = fill(positions, views, worker.dataset.samples)
    if filled is None:
        return {}
    timed = worker.portions.first(len(positions), lambda portion: _timed(worker, filled[portion]))
    return {"load": load, **timed}


def _timed(worker: Worker, filled: Filled) -> dict[str, Any]:
    count, study, model = len(filled.positions), worker.study, worker.model.model
    images, seed = worker.images(filled), seed_of(study.seed, filled.names[0])
    calls = {spec.label: calls_of(model, [spec], worker.spec.layers, study.precision)[0] for spec in study.methods}
    explanation, (made, *_) = calls[worker.labels[0]](images, None, seed)

    def batch() -> Batch:
        return worker.batch_of(images, explanation.probabilities)

    def timed(work: Callable[[], object]) -> float:
        return _seconds(work, images.device) / count

    def of_metric(each: Chosen) -> float:
        return timed(lambda: worker.metrics(batch(), filled, made, explanation.targets, [each]))

    network = batch()
    return {
        "images": count,
        "forward": timed(lambda: network.probabilities_of(network.images)),
        "methods": {label: timed(partial(call, images, None, seed)) for label, call in calls.items()},
        "metrics": {each.metric.name: of_metric(each) for each in worker.chosen},
    }


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The time of one call; on a GPU of the best of three, behind one that prepares."""
    on_gpu = device.type == "cuda"
    times = []
    for _ in range(4 if on_gpu else 1):
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
