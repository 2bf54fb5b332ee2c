"""What the benchmark of an evaluation computes without measuring."""

import json
import math
import mmap
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import evaluation, evaluation_hours
from bench.evaluation_hours import BATCH, Work, cost_of, forward_work, hours, measured_rates, metric_passes, passes
from bench.evaluation_memory import resident, slope, write_photos
from bench.evaluation_run import METHODS, STEP, clocks, sample_command, share_beyond
from bench.tables import evaluation_tables
from fastcam import metrics
from fastcam.attribution.registry import METHODS as KNOWN
from fastcam.attribution.registry import methods
from fastcam.evaluation import worker
from fastcam.metrics.batch import Batch
from tests.evaluation.nets import tiny


@pytest.fixture(scope="module")
def estimated() -> dict[str, Any]:
    return hours({})


# -- the roofline


def test_resnet50_does_what_is_known_of_it() -> None:
    work = forward_work(2)
    # 4.09 billion multiplications an image (torchvision's own figure), two operations each.
    assert sum(w.flops for w in work) / 2 == pytest.approx(2 * 4.09e9, rel=1e-3)
    first = work[0]
    assert first.name == "convolution"
    assert first.flops == 2 * 2 * 64 * 3 * 7 * 7 * 112 * 112
    assert first.moved == 2 * (2 * 3 * 224 * 224 + 64 * 3 * 7 * 7 + 2 * 64 * 112 * 112)
    assert [w.name for w in work[-2:]] == ["mean", "addmm"]
    assert sum(w.name == "add_" for w in work) == 16
    # Weights are read once, whatever the batch: 25.5 million parameters less batch norms and the last bias.
    moved = [sum(w.moved for w in forward_work(batch)) for batch in (1, 2)]
    assert 2 * moved[0] - moved[1] == 2 * (25_557_032 - 53_120 - 1000)


def test_an_operation_takes_the_longer_of_computing_and_moving() -> None:
    assert Work("a", flops=989 * 10**12, moved=1).seconds(0.5) == pytest.approx(2)
    assert Work("b", flops=1, moved=48 * 10**11).seconds(0.25) == pytest.approx(4)


# -- passes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("2 + channels that are not 0", 2050),
        ("1 + samples x channels that are not 0", 1 + 35 * 2048),
        ("steps, at up to 4.1 times the side", 8),
        ("1; of the head: channels that are not 0", 1),
        ("1 + 1 up to the layer", 2),
    ],
)
def test_passes_are_read_from_a_methods_words(text: str, count: int) -> None:
    assert passes(text, {"channels": 2048, "samples": 35, "steps": 8}) == count


def test_words_that_are_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'dozens of them': neither a number"):
        passes("1 + dozens of them", {"channels": 2048})


def test_every_method_has_a_cost() -> None:
    costs = {method.name: cost_of(method) for method in methods()}
    assert all(cost.seconds(1.0, 0.0) >= 1 for cost in costs.values())
    assert costs["score_cam"].forwards == 2 + 2048
    assert costs["rise"].forwards == 1 + KNOWN["rise"].options["masks"]
    assert (costs["lrp"].backwards, costs["grad_cam"].backwards) == (1, 0)
    assert (costs["lrp"].to_layer, costs["grad_cam"].to_layer) == (0, 1)
    sides = [224 + 100 * i for i in range(8)]
    assert costs["cameras"].area == pytest.approx(sum(side**2 for side in sides) / 8 / 224**2)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_metrics_take_the_passes_that_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in images that are scored but for the image itself, a blurred and an empty one."""
    monkeypatch.setattr(evaluation_hours, "SIDE", 32)
    scored, explained = [], []
    scores = Batch.scores

    def counted(batch: Batch, images: Tensor, targets: Tensor) -> Tensor:
        scored.append(len(images))
        return scores(batch, images, targets)

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        explained.append(len(images))
        return images.mean(dim=1)

    monkeypatch.setattr(Batch, "scores", counted)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    regions = torch.ones(3, 32, 32, dtype=torch.bool)
    metrics.evaluate(tiny(), images, images[:, 0], metrics=name, regions=regions, explain=explain)
    assert (sum(scored) / 3, sum(explained) / 3) == metric_passes(name)


# -- hours


def test_hours_are_passes_times_images(estimated: dict[str, Any]) -> None:
    forward = sum(w.seconds() for w in forward_work()) / BATCH
    assert estimated["forward_images_per_s"] == pytest.approx(1 / forward)
    of_methods, of_metrics = estimated["methods"], estimated["metrics"]
    assert set(of_methods) == {*KNOWN, "ucag of grad_cam"}
    assert set(of_metrics) == set(metrics.METRICS)
    assert of_methods["fake_cam"]["hours"] == pytest.approx(forward * 50_000 / 3600)
    assert of_methods["lrp"]["hours"] == pytest.approx(3 * of_methods["fake_cam"]["hours"])
    assert of_metrics["insertion"]["hours"] == pytest.approx(223 * forward * 50_000 / 3600)
    drop, adcc, again = of_metrics["drop"]["hours"], of_metrics["adcc"]["hours"], of_methods["grad_cam"]["hours"]
    assert adcc == pytest.approx(drop + again)
    # 36 patches of 322 pixels, and the image.
    passes = 1 + 36 * (322 / 224) ** 2 * again / of_methods["fake_cam"]["hours"]
    assert of_methods["ucag of grad_cam"]["hours"] == pytest.approx(passes * forward * 50_000 / 3600)
    assert estimated["source"] == "estimated from the roofline, not measured"


def test_measured_rates_take_the_place_of_estimates(tmp_path: Path, estimated: dict[str, Any]) -> None:
    assert measured_rates(tmp_path) == {}

    def row(model: str, method: str, layer: str | None, batch: int, rate: float) -> dict[str, Any]:
        rates = {"fastcam, bfloat16": rate, "stock forward, bfloat16 autocast": 10_000.0}
        return {"model": model, "method": method, "layer": layer, "batch": batch, "images_per_s": rates}

    rows = [
        row("resnet50", "grad_cam", "layer4", 256, 5000.0),
        row("resnet50", "grad_cam", "layer4", 1, 100.0),
        row("resnet50", "relevance_cam", "layer2", 256, 700.0),
        row("resnet50", "ucag", "layer4", 8, 40.0),
        row("efficientnet_lite0", "score_cam", "head.activation", 1, 9.0),
    ]
    file = {"machine": {"gpu": "NVIDIA H200"}, "methods": {"rows": rows}}
    (tmp_path / "gpu-h200.json").write_text(json.dumps(file), encoding="utf-8")
    found = hours(measured_rates(tmp_path))
    assert found["source"] == "measured on NVIDIA H200"
    assert found["methods"]["grad_cam"]["hours"] == pytest.approx(50_000 / 5000 / 3600)
    assert found["methods"]["grad_cam"]["measured"]
    assert not found["methods"]["relevance_cam"]["measured"]
    assert found["methods"]["ucag of grad_cam"]["hours"] == pytest.approx(50_000 / 40 / 3600)
    assert found["methods"]["ucag of grad_cam"]["measured"]
    assert found["forward_images_per_s"] == pytest.approx(10_000)
    assert found["metrics"]["drop"]["hours"] == pytest.approx(50_000 / 10_000 / 3600)
    assert "(estimated)" in evaluation_tables({"hours": found})
    assert "(estimated)" not in evaluation_tables({"hours": estimated})


def test_the_file_holds_what_is_computed_now(estimated: dict[str, Any]) -> None:
    kept = json.loads((evaluation.RESULTS / "evaluation.json").read_text(encoding="utf-8"))["hours"]
    now = json.loads(json.dumps(hours(measured_rates(evaluation.RESULTS))))
    assert kept == now
    assert estimated["images"] == kept["images"]


# -- memory


def test_the_slope_is_that_of_the_line_after_the_warm_up() -> None:
    images = list(range(50, 5001, 50))
    values = [1e6 * max(0, 1000 - x) + 3 * x + 7 + (-1) ** i for i, x in enumerate(images)]
    assert slope(images, values, 1000) == pytest.approx(3, abs=1e-3)
    assert slope(images, values, 0) < -1000
    assert math.isnan(slope([50], [1.0], 0))


def test_resident_memory_is_found() -> None:
    before, _ = resident()
    # Mapped afresh: an allocator may give out pages that are resident already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert resident()[0] - before > 32 * 2**20
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        time.sleep(0.2)
        assert resident()[1] > 2**20
        child.communicate(b"\n")


def test_photos_are_links_to_few(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 20)
    paths = sorted((tmp_path / "photos").iterdir())
    assert len(paths) == 20
    assert len({path.resolve() for path in paths}) == 8


# -- the runner's own time, and the sample


def test_what_is_beyond_the_inner_time() -> None:
    assert share_beyond(10.0, 9.0) == pytest.approx(0.1)


def test_clocks_tell_apart_where_time_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "explain_all", lambda seconds: now.append(now[-1] + seconds))
    monkeypatch.setattr(worker, "loader", lambda batches: iter(batches))
    now = [0.0]
    monkeypatch.setattr("bench.evaluation_run.time.perf_counter", lambda: now[-1])
    spent: dict[str, float] = {}
    with clocks(spent):
        worker.explain_all(2.0)
        worker.explain_all(3.0)
        assert list(worker.loader(["a", "b"])) == ["a", "b"]
    assert spent == {"work": 5.0, "waiting for photos": 0.0}
    worker.explain_all(9.0)
    assert spent["work"] == 5.0


def test_the_sample_is_the_command_of_the_readme() -> None:
    command = sample_command("DIR", "imagenet", "RUN")
    assert command[:5] == ["evaluate", "--data", "DIR", "--dataset", "imagenet"]
    assert command[command.index("--methods") + 1].split(",") == list(METHODS)
    assert command[command.index("--step") + 1] == str(STEP)
    assert 224 * 224 / STEP == 28


@pytest.mark.parametrize(("drop", "says"), [(0.004, "both near 0, as"), (20.0, "not both near 0")])
def test_fake_cams_sentence_is_drawn_from_its_figures(drop: float, says: str) -> None:
    figures = {"drop": [drop, 0.0, 30.0], "adcc": [0.0001, 0.0, 0.001]}
    machine = {
        "processor": "a processor", "instructions": "AVX2", "bfloat16_arithmetic": False, "python": "3.11",
        "packages": {"torch": "2.15"},
    }  # fmt: skip
    found = {
        "machine_info": machine, "command": "fastcam evaluate", "images": 100, "minutes": 5.0, "images_per_s": 0.33,
        "threads": 2, "titles": {"drop": "Average drop", "adcc": "ADCC"}, "methods": {"fake_cam": figures},
    }  # fmt: skip
    text = evaluation_tables({"sample": found})
    assert says in text
    assert f"| fake_cam | {drop:.3g} (0 to 30) | 0.0001 (0 to 0.001) |" in text


@pytest.mark.parametrize(
    ("arguments", "says"), [(["hour"], "unknown part hour"), (["decoder"], "--photos DIR"), ([], "--photos DIR")]
)
def test_wrong_use_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluation.parse(arguments)
    assert says in capsys.readouterr().err


def test_a_part_takes_its_place_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"hours": {"old": 1}, "decoder": {"images_per_s": 3}}), encoding="utf-8")
    monkeypatch.setattr(evaluation, "PARTS", {**evaluation.PARTS, "hours": lambda options: {"new": 2}})
    evaluation.main(["hours", "--output", str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == {"decoder": {"images_per_s": 3}, "hours": {"new": 2}}
