"""`fastcam report` on a finished run."""

import base64
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

import fastcam
from fastcam.cli import app
from fastcam.datasets.views import View, Views
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.layout import Group, shown_columns
from fastcam.evaluation.opening import open_data, place_noted
from fastcam.evaluation.report.curves import ceiling, plots
from fastcam.evaluation.report.gallery import Gallery, choose_samples, data_uri, galleries
from fastcam.evaluation.report.page import _embedded, write_report
from fastcam.evaluation.report.scatter import scatter
from fastcam.evaluation.store import Run, Store, read_run
from fastcam.evaluation.tables import MeanCurve
from fastcam.evaluation.tables import results as figures
from fastcam.metrics.metric import Column
from fastcam.metrics.registry import METRICS
from fastcam.models import Preprocessing
from fastcam.plots import overlay
from tests.evaluation.conftest import MODEL
from tests.evaluation.nets import tiny
from tests.evaluation.synthetic import METRICS as SYNTHETIC
from tests.evaluation.synthetic import make_rows, make_study


@pytest.fixture(scope="module")
def written(reference: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    page = tmp_path_factory.mktemp("report") / "report.html"
    result = CliRunner().invoke(
        app, ["report", str(reference.path), "-o", str(page), "--gallery", "3", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    return page, result


def test_the_page_needs_nothing_else(written: tuple[Path, Any]) -> None:
    html = written[0].read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", html)
    assert loaded
    assert all(address.startswith(("data:", "#")) for address in loaded)
    assert "@import" not in html
    assert not re.search(r"url\(\s*[\"']?https?:", html)


def test_the_page_names_what_was_compared(written: tuple[Path, Any], reference: Run) -> None:
    html = written[0].read_text(encoding="utf-8")
    for method in reference.study.methods:
        assert method.label in html
    assert "data:image/jpeg;base64," in html


def test_tables_hold_the_means_of_the_rows(written: tuple[Path, Any], reference: Run) -> None:
    page, result = written
    (table,) = [path for path in page.parent.iterdir() if path.suffix == ".csv"]
    assert str(table) in result.output
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    frame = reference.rows.to_pylist()
    places = {(r["method"], r["layer"]) for r in frame}
    assert {(row["method"], row["layer"], row["column"]) for row in rows} == {
        (*place, column) for place in places for column in ("drop", "insertion")
    }
    for row in rows:
        values = [r[row["column"]] for r in frame if (r["method"], r["layer"]) == (row["method"], row["layer"])]
        assert float(row["value"]) == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert int(row["count"]) == len(values)


@pytest.fixture(scope="module")
def marked(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run on ImageNet's layout with annotations and a class table that lie elsewhere; where, as options."""
    folder = tmp_path_factory.mktemp("marked")
    root, marks, classes = folder / "root", folder / "marks", folder / "classes.toml"
    shutil.copytree(photos, root / "val")
    marks.mkdir()
    classes.write_text("0 = 2\n1 = 1\n2 = -1\n")
    for photo in root.rglob("*.png"):
        (marks / f"{photo.stem}.xml").write_text(
            f"<annotation><size><width>21</width><height>18</height></size><object><name>{photo.parent.name}</name>"
            "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object></annotation>"
        )
    options = ["--data", str(root), "--annotations", str(marks), "--classes", str(classes)]
    asked = ["--dataset", "imagenet", "--model", MODEL, "--methods", "grad_cam,fake_cam", "--metrics", "drop,iou"]
    how = ["--resize", "16", "--crop", "16", "--threads", "1", "--workers", "0", "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(app, ["evaluate", *options, *asked, *how, "-o", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder, options


def report_of(run: Path, page: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["report", str(run), "-o", str(page), "--device", "cpu", *options])
    assert result.exit_code == 0, result.output
    return page.read_text(encoding="utf-8")


def test_the_gallery_opens_the_data_as_the_run_did(marked: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Annotations outline the class; the table leaves a folder out, so that positions are not those of all photos."""
    html = report_of(marked[0] / "run", tmp_path / "report.html")
    assert html.count("image, class outlined") == html.count('<details class="card">') > 0
    assert "There is no gallery" not in html


def test_the_gallery_finds_data_that_moved(marked: tuple[Path, list[str]], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(marked[0], moved)
    table = json.loads((moved / "run" / "run.json").read_text())
    table["data"] |= {"root": "/gone", "annotations": "/gone", "classes": "/gone"}
    (moved / "run" / "run.json").write_text(json.dumps(table))
    lost = report_of(moved / "run", tmp_path / "lost.html")
    assert "There is no gallery, since the photos are not at hand" in lost
    assert "image, class outlined" not in lost
    found = report_of(moved / "run", tmp_path / "found.html", *marked[1])
    assert "image, class outlined" in found


def test_a_run_goes_on_where_its_data_moved(marked: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Paths are noted, not compared: the fingerprint tells whether the data are the same."""
    moved = tmp_path / "moved"
    shutil.copytree(marked[0], moved)
    store = Store(moved / "run")
    asked = store.recorded()
    assert asked is not None
    store.begin(replace(asked, data={**asked.data, "root": "/elsewhere", "annotations": "/elsewhere"}))
    with pytest.raises(RunError, match=r"data\.fingerprint"):
        store.begin(replace(asked, data={**asked.data, "fingerprint": "another"}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bad": True}, ["1 photo could not be read or explained and is left out", "0/00.png", "no such thing"]),
        (
            {"halved": True},
            ["for 4 images at a time", "of as few as 1", "4 images, then 1", "but those of random_cam rest on other"],
        ),
        ({"part": True}, ["This run is not finished"]),
    ],
    ids=["bad", "halved", "part"],
)
def test_losses_are_told(change: dict[str, bool], told: list[str], reference: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(reference.path, tmp_path / "run"))
    if "halved" in change:
        line = {"model": MODEL, "kind": "out of memory", "batch_before": 4, "batch": 1, "rank": 0}
        with (run / "log-0.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    if "part" in change:
        sorted((run / "parts").iterdir())[-1].unlink()
    if "bad" in change:
        path = sorted((run / "parts").iterdir())[0]
        table = pq.read_table(path)
        note = json.loads(table.schema.metadata[b"fastcam"])
        note["bad"] = [{"model": MODEL, "name": "0/00.png", "reason": "no such thing"}]
        pq.write_table(table.replace_schema_metadata({b"fastcam": json.dumps(note)}), path)
    whole = report_of(reference.path, tmp_path / "whole.html", "--gallery", "0")
    html = report_of(run, tmp_path / "report.html", "--gallery", "0")
    for text in told:
        assert text in html
    assert told[0] not in whole


def gallery(run: Run, **place: Path) -> Gallery:
    results = figures(run.rows, run.study, METRICS, resamples=1)
    (found,) = galleries(
        run, results, place=place_noted(run.data, **place), most=9, device=torch.device("cpu"), before=lambda _: None
    )
    return found


def pixels(uri: str) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.float64)


def test_pictures_are_the_maps_of_the_class_explained(marked: tuple[Path, list[str]]) -> None:
    run = read_run(marked[0] / "run")
    found = gallery(run)
    assert not found.problem
    dataset = open_data(run.study, place_noted(run.data))
    preprocessing = Preprocessing(resize=16, crop=(16, 16))
    index = {sample.name: position for position, sample in enumerate(dataset.samples)}
    rows = {(row["name"], row["method"]): row for row in run.rows.to_pylist()}
    targets = {rows[card.name, "grad_cam"]["target"] for card in found.cards}
    assert targets - {0}
    for card in found.cards:
        view = Views(dataset, preprocessing)[index[card.name]]
        assert isinstance(view, View)
        row = rows[card.name, "grad_cam"]
        maps = fastcam.grad_cam(tiny(), preprocessing.scaled(view.image[None]), row["target"], normalize=False)
        expected = data_uri(overlay(view.image.permute(1, 2, 0).numpy(), maps[0].numpy()))
        (strip,) = card.strips
        assert [picture.method for picture in strip] == ["grad_cam", "fake_cam"]
        # A JPEG's noise, and the rounding of another batch; other maps are further away.
        distances = [np.abs(pixels(expected) - pixels(picture.picture)).mean() for picture in strip]
        assert distances[0] < 2 < distances[1]
        assert [(value.title, value.text) for value in strip[0].values] == [
            ("Average drop (%)", f"{row['drop']:.2f}"),
            ("IoU", f"{row['iou']:.3f}"),
        ]


def test_pictures_of_random_methods_follow_the_studys_seed(reference: Run) -> None:
    def pictures(seed: int) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for card in gallery(replace(reference, study=replace(reference.study, seed=seed))).cards:
            for each in card.maps:
                found.setdefault(each.method, []).append(each.picture)
        return found

    first, again, other = pictures(0), pictures(0), pictures(1)
    assert first == again
    assert [method for method, several in first.items() if several != other[method]] == ["random_cam"]


def test_maps_of_other_weights_are_told(reference: Run) -> None:
    bias = tiny().fc.bias
    before = bias.detach().clone()
    assert not gallery(reference).problem
    with torch.no_grad():
        bias.add_(torch.tensor([3.0, 0, 0]))
    try:
        found = gallery(reference)
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert "may not be those of the run" in found.problem
    assert found.cards


def test_other_photos_are_refused(reference: Run, photos: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(photos, tmp_path / "photos"))
    (other / "0" / "00.png").unlink()
    found = gallery(reference, root=other)
    assert "in the run; name the run's photos with --data DIR" in found.problem
    assert not found.cards


@pytest.mark.parametrize("most", [300, 21], ids=["all", "drawn"])
def test_points_of_the_scatter_are_the_rows(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcam.evaluation.report.scatter._MOST_SAMPLES", most)
    study = make_study(metrics=["increase", "drop", "iou"])
    rows = make_rows(study, samples=40)
    found = scatter(rows, study, figures(rows, study, SYNTHETIC, resamples=1))
    assert found is not None
    assert [column["name"] for column in found["columns"]] == ["increase", "drop", "iou"]
    # Increase is yes or no.
    assert found["axes"] == [1, 2]
    assert (found["shown"], found["total"]) == (min(most, 40), 40)
    (place,) = found["places"]
    by_name = {(row["method"], row["name"]): row for row in rows.to_pylist()}
    for series in place["series"]:
        assert series["names"] == place["series"][0]["names"]
        assert len(set(series["names"])) == min(most, 40)
        for name, point in zip(series["names"], series["points"], strict=True):
            row = by_name[found["methods"][series["method"]], name]
            assert point == pytest.approx([row["increase"], row["drop"], row["iou"]], rel=1e-3)
    assert found == scatter(rows, study, figures(rows, study, SYNTHETIC, resamples=1))


def test_curves_run_from_left_to_right_and_up() -> None:
    column = Column(name="c", title="C", better=None, curve=True)
    group = Group("m", "")
    keys = [("m", "one", "a"), ("m", "two", "b")]
    drawn = {
        keys[0]: MeanCurve(np.array([0.0, 0.75, 1.0]), np.array([0.0, 0.35, 0.7])),
        keys[1]: MeanCurve(np.array([0.0, 1.0]), np.array([0.7, 0.0])),
    }
    (plot,) = plots({"c": drawn}, [column], ["b", "a"], dict.fromkeys(keys, group))
    assert plot.place == "m"
    assert {stroke.method: (stroke.series, stroke.points) for stroke in plot.strokes} == {
        # Up to 0.8, at a height of 12: y = 228 - 216 v / 0.8.
        "a": (1, "46.0,228.0 319.0,133.5 410.0,39.0"),
        "b": (0, "46.0,39.0 410.0,228.0"),
    }
    assert [(tick.at, tick.text) for tick in plot.up] == [
        (228, "0"),
        (174, "0.2"),
        (pytest.approx(120), "0.4"),
        (pytest.approx(66), "0.6"),
        (12, "0.8"),
    ]


@pytest.mark.parametrize(
    ("value", "top"),
    [(0.7, 0.8), (0.8, 0.8), (0.81, 1), (1, 1), (0.013, 0.02), (35, 40), (0, 1), (-1, 1), (float("nan"), 1)],
)
def test_axes_end_at_a_round_number(value: float, top: float) -> None:
    assert ceiling(value) == pytest.approx(top)


def test_costs_stand_in_seconds_and_in_forward_passes(written: tuple[Path, Any], reference: Run) -> None:
    html = written[0].read_text(encoding="utf-8")
    cost = reference.cost[MODEL]
    for label, seconds in cost["methods"].items():
        row = re.search(
            rf'<th scope="row"[^>]*>{label}</th><td data-value="([^"]+)">[^<]+</td><td data-value="([^"]+)"', html
        )
        assert row
        assert float(row[1]) == pytest.approx(seconds)
        assert float(row[2]) == pytest.approx(seconds / cost["forward"])


def test_data_in_the_page_end_no_element() -> None:
    data = {"name": "</script><!-- & \u2028\u2029 -->"}
    text = _embedded(data)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == data


def test_samples_are_the_best_and_the_worst(reference: Run) -> None:
    """By the mean over methods and layers without baselines: here of eigen_cam alone."""
    results = figures(reference.rows, reference.study, METRICS, resamples=1)
    chosen = choose_samples(reference.rows, reference.study, shown_columns(results))
    for name, lower, title in (("drop", True, "average drop"), ("insertion", False, "insertion")):
        means: dict[int, list[float]] = {}
        for row in reference.rows.to_pylist():
            if row["method"] == "eigen_cam":
                means.setdefault(row["index"], []).append(row[name])
        order = sorted(means, key=lambda index: sum(means[index]), reverse=not lower)
        for word, index in (("best", order[0]), ("worst", order[-1])):
            value = sum(means[index]) / len(means[index])
            unit = " %" if name == "drop" else ""
            assert f"{word} {title}, {value:.{2 if unit else 3}f}{unit}" in chosen[index]


def test_every_metric_has_its_worst_and_its_best() -> None:
    names = ["drop", "increase", "adcc", "insertion", "deletion", "iou", "coherency", "complexity"]
    study = make_study(metrics=names)
    rows = make_rows(study, samples=300)
    columns = shown_columns(figures(rows, study, SYNTHETIC, resamples=1))
    chosen = choose_samples(rows, study, columns)
    reasons = [reason.split(",")[0] for several in chosen.values() for reason in several]
    titles = ["average drop", "average increase", "ADCC", "insertion", "deletion", "IoU", "coherency", "complexity"]
    assert sorted(reasons) == sorted(f"{word} {title}" for title in titles for word in ("best", "worst"))


@pytest.mark.parametrize(("options", "most"), [([], None), (["--gallery", "3"], 3)], ids=["default", "3"])
def test_a_gallery_holds_all_of_them_unless_fewer_are_asked_for(
    options: list[str], most: int | None, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def spy(*_: object, most: int | None, **how: object) -> list[Gallery]:
        asked.append(most)
        return []

    monkeypatch.setattr("fastcam.evaluation.report.page.galleries", spy)
    report_of(reference.path, tmp_path / "report.html", *options)
    assert asked == [most]


def test_what_a_gallery_leaves_out_is_told(reference: Run, tmp_path: Path) -> None:
    whole = report_of(reference.path, tmp_path / "whole.html")
    assert whole.count('<details class="card">') == 2
    assert "fewer were asked for" not in whole
    few = report_of(reference.path, tmp_path / "few.html", "--gallery", "1")
    assert few.count('<details class="card">') == 1
    assert "1 of these images, by the last of the metrics, is left out: fewer were asked for" in few
    # That of the first metric.
    assert re.findall(r'class="reasons">(\w+ \w+ \w+)', few) == ["worst average drop"]


@pytest.mark.parametrize("place", ["folder", "file/report.html", "no/way.html"])
def test_what_cannot_be_written_is_named(place: str, reference: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    # A folder is in the way of a name that the report needs.
    (tmp_path / "no" / "way.csv").mkdir(parents=True)
    page = tmp_path / place
    with pytest.raises(ValueError, match="output: ") as error:
        write_report([reference.path], page, gallery=0)
    told = str(error.value)
    assert str(page.with_suffix(".csv" if page.suffix else "")) in told
    assert "-o" in told
    assert ".part" not in told
    assert not page.is_file()


def test_a_folder_without_a_run_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(page)])
    assert result.exit_code == 2
    assert "run.json" in result.output
    assert not page.exists()


def test_runs_of_one_name_are_told_apart_by_their_folders(reference: Run, tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(reference.path, tmp_path / name)) for name in ("first", "second")]
    write_report(copies, tmp_path / "report.html", gallery=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for copy in copies:
        assert re.search(rf'<a href="#run\d">[^<]+: {copy.name}</a>', html)
