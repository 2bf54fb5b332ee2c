"""`fastcam report` on a finished run."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fastcam.cli import app
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.layout import shown_columns
from fastcam.evaluation.report.gallery import choose_samples
from fastcam.evaluation.store import Run, Store
from fastcam.evaluation.tables import results as figures
from fastcam.metrics.registry import METRICS
from tests.evaluation.conftest import MODEL


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
    asked = ["--dataset", "imagenet", "--model", MODEL, "--methods", "eigen_cam", "--metrics", "drop,iou"]
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
        ({"bad": True}, ["1 photo could not be read and is left out", "0/00.png", "no such thing"]),
        ({"halved": True}, ["for 4 images at a time", "of as few as 1", "4 images, then 1"]),
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


def test_samples_are_the_best_and_the_worst(reference: Run) -> None:
    """By the mean over methods and layers without baselines: here of eigen_cam alone."""
    results = figures(reference.rows, reference.study, METRICS, resamples=1)
    chosen = choose_samples(reference.rows, reference.study, shown_columns(results), 12)
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
    assert len(choose_samples(reference.rows, reference.study, shown_columns(results), 1)) == 1


def test_a_folder_without_a_run_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(page)])
    assert result.exit_code == 2
    assert "run.json" in result.output
    assert not page.exists()
