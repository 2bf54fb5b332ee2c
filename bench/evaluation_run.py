"""A study of five methods on photos: what the runner adds to it, what decoding takes, what it finds."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

import fastcam
from bench.interleave import interleave
from fastcam.datasets.loader import loader
from fastcam.datasets.opening import open_dataset
from fastcam.datasets.sample import PhotoFiles
from fastcam.datasets.views import View, Views
from fastcam.evaluation import runner, worker
from fastcam.evaluation.runner import How
from fastcam.evaluation.store import Store, read_run
from fastcam.evaluation.study import MethodSpec, ModelSpec, Study
from fastcam.evaluation.tables import results
from fastcam.metrics.batch import Batch
from fastcam.metrics.evaluate import choose_metrics
from fastcam.metrics.measure import measure
from fastcam.metrics.registry import METRICS
from fastcam.metrics.trial import Trial
from fastcam.models.loading import imagenet_class_names, load_model
from fastcam.models.preprocessing import Preprocessing

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
MODEL = "efficientnet_lite0"
METHODS = ("relevance_cam", "grad_cam", "layer_cam", "xgrad_cam", "fake_cam")
# 28 steps of insertion and deletion at 224 px.
STEP = 1792
REPEATS = 4
COSTS = "costs of methods and metrics"
STUDY = Study(
    dataset="folder",
    models=(ModelSpec(name="bench.evaluation_run:embedded"),),
    methods=tuple(MethodSpec(name=name, label=name) for name in METHODS),
    metrics=("drop", "increase", "adcc", "insertion", "deletion"),
    options={"step": STEP},
)


@cache
def embedded() -> nn.Module:
    """The embedded model; one, so that a process captures it once however many studies it runs."""
    return load_model(MODEL).model


def open_photos(root: Path, dataset: str, limit: int | None) -> PhotoFiles:
    """The photos of a folder, or the first of them."""
    found = open_dataset(dataset, root, class_names=imagenet_class_names())
    if not isinstance(found, PhotoFiles):
        raise SystemExit(f"{dataset}: a data set of photos in files of their own is needed")
    return replace(found, samples=found.samples[:limit])


# -- the runner's own time


def overhead(photos: PhotoFiles, *, size: int, workers: int, threads: int) -> dict[str, Any]:
    """The study on slices of the photos, in turn with the same calls on decoded images.

    share: (runner - bare) / runner, of the times summed over the slices. Every slice is a run of its own, with all
    that a run does once; but of the costs that a run measures (`cost.json`), on one batch whatever the number of
    photos, one slice's are counted. The bare calls share passes as the runner's do. accounted: where the runner's time
    went, by clocks around its parts: "work" are the methods and metrics themselves.
    """
    torch.set_num_threads(threads)
    seconds: dict[str, list[float]] = {"runner": [], "bare": []}
    accounted: dict[str, float] = {}
    for turn, begin in enumerate(range(0, len(photos.samples), size)):
        part = replace(photos, samples=photos.samples[begin : begin + size])
        images = decoded(part, Preprocessing(), STUDY.batch)

        def by_runner(part: PhotoFiles = part) -> None:
            found, _ = run_study(part, workers=workers)
            for name, value in found.items():
                accounted[name] = accounted.get(name, 0) + value

        def by_hand(images: Sequence[Tensor] = images) -> None:
            bare(embedded(), images)

        turns: list[tuple[str, Callable[[], None]]] = [("runner", by_runner), ("bare", by_hand)]
        for name, run in turns if turn % 2 else reversed(turns):
            seconds[name].append(timed(run)[0])
        print(f"{begin + len(part.samples)} photos:", {k: round(v[-1], 2) for k, v in seconds.items()}, flush=True)
    total = {name: sum(values) for name, values in seconds.items()}
    spared = accounted[COSTS] * (1 - 1 / len(seconds["runner"]))
    accounted[COSTS] -= spared
    total["runner"] -= spared
    return {
        "model": MODEL,
        "methods": METHODS,
        "metrics": STUDY.metrics,
        "step": STEP,
        "photos": len(photos.samples),
        "photos_a_slice": size,
        "batch": STUDY.batch,
        "threads": threads,
        "workers": workers,
        "seconds": total,
        "seconds_by_slice": seconds,
        "share": share_beyond(total["runner"], total["bare"]),
        "accounted": {**accounted, "other": total["runner"] - sum(accounted.values())},
        "accounted_share": share_beyond(total["runner"], accounted["work"]),
    }


def share_beyond(whole: float, inner: float) -> float:
    """The share of a time that is not the inner one; negative where noise makes the inner one longer."""
    return (whole - inner) / whole


def bare(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """The study's methods and metrics on batches of images that are there already."""
    explainer = fastcam.Explainer(model, method=list(METHODS), normalize=False)
    again = {name: fastcam.Explainer(model, method=name, normalize=False) for name in METHODS}
    chosen = choose_metrics(STUDY.metrics, STUDY.options)
    for images in batches:
        found = explainer.explanations(images)
        first = next(iter(found.values()))
        batch = Batch(model, images, probabilities=first.probabilities)
        for name, one in found.items():
            measure(Trial(batch, one.maps, first.targets, explain=again[name]), chosen)


def run_study(photos: PhotoFiles, *, workers: int) -> tuple[dict[str, float], float]:
    """The study, by the runner: seconds by what they were spent on, and altogether."""
    spent: dict[str, float] = {}
    how = How(device=torch.device("cpu"), workers=workers, quiet=True)
    with tempfile.TemporaryDirectory() as folder, clocks(spent):
        seconds, _ = timed(lambda: runner.evaluate(STUDY, photos, Path(folder) / "run", how))
    return spent, seconds


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Clocks around the runner's parts while the block runs: seconds are added up in `spent`."""
    depth = 0

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            nonlocal depth
            # Metrics that are timed for the costs are no work on rows.
            if depth:
                return function(*arguments, **keywords)
            depth += 1
            seconds, value = timed(lambda: function(*arguments, **keywords))
            depth -= 1
            spent[name] = spent.get(name, 0) + seconds
            return value

        return run

    def waited(*arguments: Any) -> Iterator[Any]:
        views = worker_loader(*arguments)
        while (batch := clocked("waiting for photos", lambda: next(views, None))()) is not None:
            yield batch

    worker_loader = worker.loader
    places: list[tuple[object, str, str]] = [
        (worker, "explain_all", "work"),
        (worker, "measure", "work"),
        (runner, "measure_cost", COSTS),
        (Store, "write", "writing"),
        (Store, "log", "writing"),
    ]
    with ExitStack() as stack:
        for place, attribute, name in places:
            stack.enter_context(patch.object(place, attribute, clocked(name, getattr(place, attribute))))
        stack.enter_context(patch.object(worker, "loader", waited))
        yield


def decoded(photos: PhotoFiles, preprocessing: Preprocessing, batch: int) -> list[Tensor]:
    """The network's input, a tensor per batch."""
    found = Views(photos, preprocessing).views(range(len(photos.samples)))
    pixels = [view.image for view in found if isinstance(view, View)]
    return [preprocessing.scaled(torch.stack(pixels[i : i + batch])) for i in range(0, len(pixels), batch)]


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what was returned."""
    began = time.perf_counter()
    value = run()
    return time.perf_counter() - began, value


# -- before a study


def start(*, threads: int) -> dict[str, Any]:
    """What comes before a study: a process with the command's imports, the model, its capture; medians of five."""
    torch.set_num_threads(threads)
    command = [sys.executable, "-c", "import fastcam.cli"]
    image = torch.zeros(1, 3, 224, 224)

    def capture() -> float:
        model = load_model(MODEL).model
        # The first call captures; the second tells what of it was the pass.
        first, second = (timed(lambda: fastcam.grad_cam(model, image))[0] for _ in range(2))
        return first - second

    return {
        "model": MODEL,
        "threads": threads,
        "process_and_imports_s": median(
            timed(lambda: subprocess.run(command, check=True, cwd=ROOT))[0] for _ in range(5)
        ),
        "model_s": median(timed(lambda: load_model(MODEL))[0] for _ in range(5)),
        "capture_s": median(capture() for _ in range(5)),
    }


# -- decoding


def decoder(photos: PhotoFiles, *, workers: int, threads: int) -> dict[str, Any]:
    """Photos per second: decoded, resized and cropped by one core, and as the runner asks for them."""
    torch.set_num_threads(threads)
    views = Views(photos, load_model(MODEL).preprocessing)
    # Several times over, since a run starts its processes once for many more photos.
    order = list(range(len(photos.samples))) * REPEATS
    batches = [order[i : i + STUDY.batch] for i in range(0, len(order), STUDY.batch)]

    def alone() -> None:
        torch.set_num_threads(1)
        for index in order:
            views[index]
        torch.set_num_threads(threads)

    def all_of(count: int) -> Callable[[], None]:
        def run() -> None:
            for _ in loader(views, batches, count):
                pass

        return run

    runs = {"one core": alone, "workers": all_of(workers)}
    found = interleave(runs, yardstick="one core", rounds=5)
    return {
        "photos": len(photos.samples),
        "megapixels": sum(_pixels(sample.path) for sample in photos.samples) / len(photos.samples) / 1e6,
        "workers": workers,
        "images_per_s": {name: len(order) / value["median"] for name, value in found.items()},
        "seconds": found,
    }


def _pixels(path: Path) -> int:
    with Image.open(path) as header:
        return header.width * header.height


# -- as a user calls it

_METRICS = ("drop", "increase", "coherency", "complexity", "adcc", "insertion", "deletion")


def sample_command(photos: str, dataset: str, run: str) -> list[str]:
    """The command, but for the program's name."""
    given = {
        "--data": photos,
        "--dataset": dataset,
        "--model": MODEL,
        "--methods": ",".join(METHODS),
        "--metrics": ",".join(_METRICS),
        "--step": str(STEP),
        "-o": run,
    }
    return ["evaluate", *(word for pair in given.items() for word in pair)]


def sample(photos: Path, dataset: str, kept: Path | None, *, limit: int | None) -> dict[str, Any]:
    """`fastcam evaluate` in a process of its own: its time, and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        run = kept or Path(folder) / "run"
        command = sample_command(str(photos.resolve()), dataset, str(run.resolve()))
        few = [] if limit is None else ["--subset", str(limit)]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fastcam", *command, "--quiet", *few], check=True, cwd=ROOT)
        seconds = time.perf_counter() - began
        found = read_run(run)
        table = results(found.rows, found.study, METRICS)
        images = max(line.count for line in table.lines)
        return {
            "command": " ".join(["fastcam", *sample_command("DIR", dataset, "RUN"), *few]),
            "images": images,
            "minutes": seconds / 60,
            "images_per_s": images / seconds,
            "threads": found.environment["threads"],
            "titles": {column.name: column.title for column in table.columns},
            "methods": {line.method: _figures(line.figures) for line in table.lines},
        }


def _figures(figures: Mapping[str, Any]) -> dict[str, list[float]]:
    """By column the mean and its interval."""
    return {name: [figure.value, figure.low, figure.high] for name, figure in figures.items()}
