"""The metrics as torchmetrics: means of the values per map, whatever batches and processes the maps came in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchmetrics
from torch import Tensor, nn

from fastcam.metrics import METRICS, evaluate, stateful
from fastcam.metrics.localization import energy_pointing_game, iou, pointing_game
from fastcam.metrics.segmentation import average_precision, pixel_accuracy, segmentation_iou
from tests.attribution.test_model_untouched import assert_unchanged, snapshot
from tests.metrics.toys import CLASSES, SIZE, gradient_maps, model_of, some_images

OF_MODEL: dict[str, type[torchmetrics.Metric]] = {
    "drop": stateful.AverageDrop,
    "increase": stateful.AverageIncrease,
    "coherency": stateful.Coherency,
    "complexity": stateful.Complexity,
    "adcc": stateful.ADCC,
    "insertion": stateful.Insertion,
    "deletion": stateful.Deletion,
    "positive_density": stateful.PositiveDensity,
    "negative_density": stateful.NegativeDensity,
}
OF_REGIONS: dict[str, tuple[type[torchmetrics.Metric], Callable[..., Tensor]]] = {
    "energy_pointing": (stateful.EnergyPointingGame, energy_pointing_game),
    "iou": (stateful.IoU, iou),
    "average_precision": (stateful.AveragePrecision, average_precision),
    "pixel_accuracy": (stateful.PixelAccuracy, pixel_accuracy),
    "segmentation_iou": (stateful.SegmentationIoU, segmentation_iou),
}
EXPLAINING = ("coherency", "adcc")
NAMES = [*OF_MODEL, *OF_REGIONS, "pointing"]
# A step that takes few forward passes.
OPTIONS: dict[str, dict[str, Any]] = {"insertion": {"step": 40}, "deletion": {"step": 40}}


def make(name: str, **settings: Any) -> torchmetrics.Metric:
    if name == "pointing":
        return stateful.PointingGame(CLASSES, **settings)
    if name in OF_REGIONS:
        return OF_REGIONS[name][0](**settings)
    first = (model_of(torch.float64), gradient_maps) if name in EXPLAINING else (model_of(torch.float64),)
    return OF_MODEL[name](*first, **OPTIONS.get(name, {}), **settings)


def batch(count: int, seed: int) -> dict[str, Tensor]:
    """Images, signed maps, classes, and regions, one of which has no pixel."""
    generator = torch.Generator().manual_seed(seed)
    regions = torch.rand(count, *SIZE, generator=generator) < 0.2
    regions[0] = False
    return {
        "images": some_images(count, seed=seed),
        "maps": torch.randn(count, *SIZE, generator=generator),
        "targets": torch.randint(CLASSES, (count,), generator=generator),
        "labels": torch.randint(CLASSES - 1, (count,), generator=generator),
        "regions": regions,
    }


# Of different sizes: a mean of means would be another number.
BATCHES = [batch(count, seed) for seed, count in enumerate((2, 5, 3))]


def feed(metric: torchmetrics.Metric, name: str, given: dict[str, Tensor]) -> None:
    takes = ("images", "maps", "targets") if name in OF_MODEL else ("maps", "regions")
    metric.update(**{key: given[key] for key in (*takes, *(["labels"] if name == "pointing" else []))})


def filled(name: str, batches: list[dict[str, Tensor]] = BATCHES) -> torchmetrics.Metric:
    metric = make(name)
    for given in batches:
        feed(metric, name, given)
    return metric


def values_of(name: str, columns: tuple[str, ...]) -> dict[str, Tensor]:
    """Every map's own values, float64, by the functions."""
    model, found = model_of(torch.float64), []
    for b in BATCHES:
        settings = {"explain": gradient_maps, "metrics": [name], **OPTIONS.get(name, {})}
        if name == "adcc":
            settings["metrics"] = list(columns)
        found.append(evaluate(model, b["images"], b["maps"], b["targets"], **settings))
    return {column: torch.cat([f[column] for f in found]).double() for column in columns}


def test_every_metric_has_its_class() -> None:
    assert set(METRICS) <= set(NAMES)
    assert len(stateful.__all__) == len(NAMES)


@pytest.mark.parametrize("name", [name for name in OF_MODEL if name != "adcc"])
def test_means_over_all_maps(name: str) -> None:
    metric = filled(name)
    values = values_of(name, (name,))[name]
    assert len(values) == 10
    assert float(metric.compute()) == pytest.approx(float(values.mean()), abs=1e-12)
    assert metric.compute().dtype == torch.float64
    assert (int(metric.count), int(metric.left_out)) == (10, 0)


def test_adcc_both_ways() -> None:
    found = filled("adcc").compute()
    values = values_of("adcc", ("adcc", "coherency", "complexity", "drop"))
    parts = [float(values["coherency"].mean()), 1 - float(values["complexity"].mean())]
    parts.append(1 - float(values["drop"].mean()) / 100)
    assert float(found["adcc"]) == pytest.approx(float(values["adcc"].mean()), abs=1e-12)
    assert float(found["adcc_of_means"]) == pytest.approx(3 / sum(1 / part for part in parts), abs=1e-9)
    assert float(found["adcc"]) < float(found["adcc_of_means"])


@pytest.mark.parametrize("name", OF_REGIONS)
def test_means_over_all_maps_with_a_region(name: str) -> None:
    metric = filled(name)
    values = torch.cat([OF_REGIONS[name][1](b["maps"], b["regions"]) for b in BATCHES]).double()
    assert int(values.isnan().sum()) == 3
    assert float(metric.compute()) == pytest.approx(float(values.nanmean()), abs=1e-12)
    assert (int(metric.count), int(metric.left_out)) == (7, 3)


def test_pointing_accuracy_is_the_mean_over_classes() -> None:
    metric = filled("pointing")
    hits: dict[int, list[float]] = {}
    for b in BATCHES:
        for value, label in zip(pointing_game(b["maps"], b["regions"]).tolist(), b["labels"].tolist(), strict=True):
            if value == value:
                hits.setdefault(label, []).append(value)
    accuracies = {label: sum(found) / len(found) for label, found in hits.items()}
    assert 1 < len(hits) < CLASSES
    assert float(metric.compute()) == pytest.approx(sum(accuracies.values()) / len(accuracies))
    of_classes = metric.accuracies.tolist()
    assert {k: v for k, v in enumerate(of_classes) if v == v} == pytest.approx(accuracies)
    # A mean over all maps would be another number.
    everything = [value for found in hits.values() for value in found]
    assert float(metric.compute()) != pytest.approx(sum(everything) / len(everything))
    assert int(metric.left_out) == 3


def test_options() -> None:
    settings = {"mask": "top50", "baseline": -0.5}
    metric = stateful.AverageDrop(model_of(torch.float64), **settings)
    b = BATCHES[1]
    metric.update(b["images"], b["maps"], b["targets"])
    values = evaluate(
        model_of(torch.float64), b["images"], b["maps"], b["targets"], metrics="drop", **settings
    )["drop"]  # fmt: skip
    assert float(metric.compute()) == pytest.approx(float(values.double().mean()), abs=1e-12)
    wide = stateful.PointingGame(CLASSES, tolerance=2)
    wide.update(b["maps"], b["regions"], torch.zeros_like(b["labels"]))
    assert float(wide.compute()) == float(pointing_game(b["maps"], b["regions"], tolerance=2).nanmean())
    loose = stateful.IoU(std=0)
    loose.update(b["maps"], b["regions"])
    assert float(loose.compute()) == pytest.approx(float(iou(b["maps"], b["regions"], std=0).nanmean()))


def test_several_maps_per_image() -> None:
    b = BATCHES[1]
    maps, targets = torch.stack([b["maps"], -b["maps"]], 1), torch.stack([b["targets"], (b["targets"] + 1) % 5], 1)
    metric = make("drop")
    metric.update(b["images"], maps, targets)
    values = evaluate(model_of(torch.float64), b["images"], maps, targets, metrics="drop")["drop"]
    assert float(metric.compute()) == pytest.approx(float(values.double().mean()), abs=1e-12)
    assert int(metric.count) == 10
    pointing = make("pointing")
    regions, labels = b["regions"][:, None].expand(-1, 2, -1, -1), b["labels"][:, None].expand(-1, 2)
    pointing.update(maps, regions, labels)
    assert int(pointing.count) == 8


@pytest.mark.parametrize("name", ["drop", "iou", "pointing"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_without_a_map_there_is_no_number(name: str) -> None:
    assert bool(make(name).compute().isnan())
    metric = filled(name)
    metric.reset()
    assert bool(metric.compute().isnan())
    assert int(metric.count) == int(metric.left_out) == 0
    feed(metric, name, BATCHES[0])
    again = make(name)
    feed(again, name, BATCHES[0])
    assert torch.equal(metric.compute(), again.compute())


def test_a_call_gives_the_batchs_own_value_and_adds_it() -> None:
    metric, b = make("drop"), BATCHES
    own = [metric(g["images"], g["maps"], g["targets"]) for g in b]
    for value, given in zip(own, b, strict=True):
        assert torch.equal(value, filled("drop", [given]).compute())
    assert float(metric.compute()) == pytest.approx(float(filled("drop").compute()), abs=1e-12)


def test_sums_are_in_float64() -> None:
    """In float32, 2^24 + 1 would be 2^24."""
    metric = make("complexity")
    feed(metric, "complexity", BATCHES[0])
    before = float(metric.sum_complexity)
    metric.sum_complexity += 2.0**24
    feed(metric, "complexity", BATCHES[0])
    assert float(metric.sum_complexity) - 2.0**24 == pytest.approx(2 * before, rel=1e-6)
    assert metric.half().sum_complexity.dtype == torch.float64


def test_collections_take_arguments_by_name() -> None:
    collection = torchmetrics.MetricCollection({name: make(name) for name in NAMES})
    for given in BATCHES:
        collection.update(**given)
    found = collection.compute()
    for name in NAMES:
        if name != "adcc":
            assert torch.equal(found[name], filled(name).compute()), name
    assert torch.equal(found["adcc_of_means"], filled("adcc").compute()["adcc_of_means"])


def test_collections_do_not_take_metrics_for_one_that_differ_in_options() -> None:
    """They agree on the first batch: torchmetrics would update only one of them from then on."""
    near = stateful.PointingGame(1)
    collection = torchmetrics.MetricCollection({"near": near, "far": stateful.PointingGame(1, tolerance=3)})
    maps, regions = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool)
    maps[0, 4, 4], regions[0, 4, 4] = 1, True
    moved = regions.roll(2, 2)
    for region in (regions, moved):
        collection.update(maps=maps, regions=region, labels=torch.tensor([0]))
    assert {name: float(value) for name, value in collection.compute().items()} == {"near": 0.5, "far": 1}


def test_the_model_is_no_part_of_the_metric() -> None:
    model = model_of(torch.float64)
    before = snapshot(model)
    metric = filled("adcc")
    assert list(metric.parameters()) == []
    assert dict(metric.state_dict()) == {}
    metric.to(torch.float16).set_dtype(torch.float16)
    metric.train()
    assert_unchanged(model, before)
    assert [type(m) for m in metric.modules()] == [stateful.ADCC]


# -- processes


def outcomes(rank: int | None) -> dict[str, Any]:
    """What every metric computes. rank 1 sees no map in the first round; in the second each rank has its share."""
    found: dict[str, Any] = {}
    for name in NAMES:
        found[f"empty {name}"] = filled(name, BATCHES if rank != 1 else []).compute()
    for name in ("drop", *OF_REGIONS, "pointing"):
        found[f"shares {name}"] = filled(name, BATCHES if rank is None else BATCHES[rank::2]).compute()
    return found


def join(folder: Path, rank: int) -> dict[str, Any]:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        return outcomes(rank)
    finally:
        dist.destroy_process_group()


def second(folder: Path) -> None:
    torch.save(join(folder, 1), folder / "second.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_of_which_one_may_be_empty(tmp_path: Path) -> None:
    alone = outcomes(None)
    other = mp.get_context("spawn").Process(target=second, args=(tmp_path,))
    other.start()
    try:
        first = join(tmp_path, 0)
        other.join(120)
        assert other.exitcode == 0
    finally:
        if other.is_alive():
            other.kill()
    theirs = torch.load(tmp_path / "second.pt")
    assert list(first) == list(theirs) == list(alone)
    for name, expected in alone.items():
        for found in (first[name], theirs[name]):
            both = (found, expected) if isinstance(expected, dict) else ({"": found}, {"": expected})
            assert both[0].keys() == both[1].keys()
            for key, value in both[1].items():
                assert float(both[0][key]) == pytest.approx(float(value), abs=1e-12), (name, key)


# -- bad input


def test_bad_labels() -> None:
    b = BATCHES[0]
    metric = stateful.PointingGame(3)

    def update(labels: Any) -> None:
        metric.update(b["maps"], b["regions"], labels)

    with pytest.raises(TypeError, match=r"labels: list given, integers of shape \(2,\) from 0 to 2"):
        update([0, 1])
    with pytest.raises(TypeError, match=r"labels: torch.float32 given"):
        update(torch.zeros(2))
    with pytest.raises(ValueError, match=r"labels: shape \(3,\) given"):
        update(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels: 0 to 3 given, .* from 0 to 2"):
        update(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels: -1 to 0 given"):
        update(torch.tensor([0, -1]))
    assert int(metric.count) == int(metric.seen.sum()) == 0


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda m: stateful.PointingGame(0), ValueError, r"num_classes: 0 given, a positive integer"),
        (lambda m: stateful.PointingGame(3, tolerance=-1), ValueError, r"tolerance: -1 given"),
        (lambda m: stateful.IoU(tolerance=3), TypeError, r"tolerance: no option of iou; std are valid"),
        (lambda m: stateful.AverageDrop(m, mask="hard"), ValueError, r"mask: 'hard' given"),
        (lambda m: stateful.ADCC(m, gradient_maps, mask="top50"), TypeError, r"mask: no option of adcc"),
        (lambda m: stateful.ADCC(m, "grad_cam"), TypeError, r"explain: str given"),
        (lambda m: stateful.Deletion("resnet50"), TypeError, r"model: str given, a torch.nn.Module"),
    ],
    ids=["classes", "tolerance", "unknown", "mask", "another's", "explain", "model"],
)
def test_bad_settings(build: Callable[[nn.Module], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        build(model_of(torch.float64))


def test_bad_maps_add_nothing() -> None:
    metric, b = filled("drop", BATCHES[:1]), BATCHES[1]
    before = metric.compute().clone()
    with pytest.raises(ValueError, match=r"maps: shape"):
        metric.update(b["images"], b["maps"][:2], b["targets"])
    with pytest.raises(ValueError, match=r"maps: NaN"):
        metric.update(b["images"], b["maps"] / 0, b["targets"])
    assert int(metric.count) == 2
    assert torch.equal(metric.sum_drop / metric.count, before)


def test_without_torchmetrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "fastcam.metrics.stateful")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastcam\[eval\]'"):
        __import__("fastcam.metrics.stateful")
