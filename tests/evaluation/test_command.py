"""`fastcam evaluate`, as people type it."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fastcam
from fastcam.cli import app
from fastcam.commands.evaluate import evaluate as evaluate_command
from fastcam.datasets.opening import open_dataset
from fastcam.datasets.views import View, Views
from fastcam.evaluation.presets import preset_names
from fastcam.evaluation.store import Run, read_run
from fastcam.evaluation.study import OPTIONS
from fastcam.models import Preprocessing
from tests.evaluation.conftest import MODEL, parts
from tests.evaluation.nets import tiny

SMALL = [
    "--model",
    MODEL,
    "--resize",
    "16",
    "--crop",
    "16",
    "--batch",
    "4",
    "--part",
    "4",
    "--threads",
    "1",
    "--device",
    "cpu",
]
ASKED = ["--methods", "grad_cam,relevance_cam", "--layers", "relu1,relu2", "--metrics", "drop,deletion", "--step", "64"]


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("command") / "run"
    result = evaluate("--data", photos, *SMALL, *ASKED, "--workers", 0, "-o", output)
    assert result.exit_code == 0, result.output
    return output, result.stdout


def test_a_table_ends_it(finished: tuple[Path, str]) -> None:
    output, said = finished
    lines = [line.split() for line in said.splitlines()]
    assert lines[0][:4] == ["model", "layer", "method", "images"]
    assert [line[:4] for line in lines[1:5]] == [
        [MODEL, layer, method, "22"] for layer in ("relu1", "relu2") for method in ("grad_cam", "relevance_cam")
    ]
    drop = read_run(output).rows["drop"].to_numpy()
    assert float(lines[1][4]) == pytest.approx(drop[0::4].astype(float).mean(), rel=1e-3)
    assert str(output) in said


def test_torchrun_goes_on_with_it_and_ends_with_the_same_table(
    finished: tuple[Path, str], photos: Path, tmp_path: Path
) -> None:
    whole, _ = finished
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in sorted((output / "parts").iterdir())[1:]:
        file.unlink()
    (output / "log-0.jsonl").unlink()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "fastcam", "evaluate", "--data", photos, *SMALL, *ASKED, "--workers", "0", "-o", output,
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        list(map(str, command)), cwd=root, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert parts(output) == parts(whole)
    # Said once, not by every process.
    assert done.stdout.count("Rows are in") == 1
    log = read_run(output).log
    assert {(line["part"], line["rank"]) for line in log} == {(1, 1), (2, 0), (3, 1), (4, 0), (5, 1)}


def test_who_stops_it_is_told_how_it_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastcam.commands.evaluate.run_study", stopped)
    result = evaluate("--data", photos, *SMALL, *ASKED, "-o", tmp_path / "run")
    assert result.exit_code == 130
    assert result.stderr.startswith(f"fastcam: stopped; {tmp_path / 'run'} keeps the parts that are done")


def test_the_same_command_again_does_nothing_new(finished: tuple[Path, str], photos: Path) -> None:
    output, said = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "lock"}
    result = evaluate("--data", photos, *SMALL, *ASKED, "--workers", 0, "-o", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == said
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "lock"} == before


def test_a_changed_command_is_refused_in_one_line(finished: tuple[Path, str], photos: Path) -> None:
    output, _ = finished
    result = evaluate("--data", photos, *SMALL, *ASKED, "--subset", 3, "--correct-only", "-o", output)
    assert result.exit_code == 2
    assert result.stderr.startswith("fastcam: output ")
    assert result.stderr.count("\n") == 1
    told = "subset (--subset): not given and 3; correct_only (--correct-only): false and true"
    assert told in result.stderr.replace("seed: 0 and 0; ", "")


def test_differences_name_options_that_there_are() -> None:
    taken = {"--" + name.replace("_", "-") for name in inspect.signature(evaluate_command).parameters}
    assert set(OPTIONS.values()) <= taken


def test_options_take_the_place_of_the_files(photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        f"""
        dataset = "folder"
        metrics = ["drop"]
        models = [{{ name = "{MODEL}", resize = "16", crop = "16", layers = ["relu2"] }}]
        methods = ["fake_cam", {{ name = "eigen_cam", label = "Eigen" }}]
        subset = 3
        batch = 2
        """
    )
    output = tmp_path / "run"
    result = evaluate(
        "--config", config, "--data", photos, "--subset", 2, "--mask", "top50", "--workers", 0, "--quiet", "-o", output
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    study = read_run(output).study
    assert (study.subset, study.batch, dict(study.options)) == (2, 2, {"mask": "top50"})
    assert [method.label for method in study.methods] == ["fake_cam", "Eigen"]
    assert study.models[0].layers == ("relu2",)


def test_photos_left_out_are_told_of(photos: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(photos, tmp_path / "photos"))
    (copy / "0" / "03.png").write_bytes(b"")
    output = tmp_path / "run"
    result = evaluate(
        "--data", copy, *SMALL, "--methods", "fake_cam", "--metrics", "drop", "--workers", 0, "-o", output
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == "fastcam: 1 photos could not be read or explained and are left out: 0/03.png\n"
    run: Run = read_run(output)
    assert [bad.name for bad in run.bad] == ["0/03.png"]


def test_space_pixel_masks_with_black(photos: Path, tmp_path: Path) -> None:
    found = {}
    for space in ("normalized", "pixel"):
        result = evaluate(
            "--data", photos, *SMALL, "--methods", "eigen_cam", "--metrics", "positive_density", "--space", space,
            "--batch", 22, "--workers", 0, "-o", tmp_path / space,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        found[space] = read_run(tmp_path / space).rows["positive_density"].to_numpy()
    dataset = open_dataset("folder", photos)
    preprocessing = Preprocessing(resize=16, crop=(16, 16))
    views = [Views(dataset, preprocessing)[index] for index in range(22)]
    images = preprocessing.scaled(torch.stack([view.image for view in views if isinstance(view, View)]))
    maps = fastcam.eigen_cam(tiny(), images, normalize=False)
    black = preprocessing.scaled(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    expected = fastcam.metrics.positive_density(tiny(), images, maps, baseline=black.tolist())
    np.testing.assert_allclose(found["pixel"], expected, rtol=1e-5)
    assert not np.allclose(found["pixel"], found["normalized"])


def test_presets_are_listed() -> None:
    result = evaluate("--list-presets")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(preset_names())
    needing = {line.split()[0]: line for line in result.stdout.splitlines() if "; needs " in line}
    assert set(needing) == {f"ucag/table{table}" for table in ("2", "2-coco14", "3", "3-coco14")}
    assert needing["ucag/table2"].endswith("; needs vgg16-voc07.pth, resnet50-voc07.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "gradcam"], "methods: 'gradcam' is unknown; close names: grad_cam"),
        (["--methods", "cam,"], "--methods 'cam,' has an empty entry"),
        (["--metrics", "deletio"], "metrics: 'deletio' is unknown; close names: deletion"),
        (["--dataset", "imagenett"], "imagenett"),
        (["--targets", "all"], "targets: 'all' given"),
        (["--mask", "hard"], "mask: 'hard' given"),
        (["--metrics", "coherency", "--mask", "soft"], "options: 'mask' is no option of these metrics"),
        (["--subset", "0"], "subset: 0 given"),
        (["--subset", "99"], "subset: 99 given, but the data set folder has 22 samples"),
        (["--batch", "0"], "batch: 0 given"),
        (["--threads", "0"], "threads: 0 given"),
        (["--precision", "float8"], "precision: 'float8' given"),
        (["--resize", "16", "--crop", "none"], "--resize 224x224"),
        (["--layers", "rellu2"], "relu2"),
        (["--model", "tests.evaluation.nets:tini"], "close names: tiny"),
        (["--preset", "relevance/table1"], "relevance-cam/table1"),
        (["--preset", "adcc/table1", "--config", "study.toml"], "--preset and --config are both given"),
        (["--config", "none.toml"], "none.toml"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--data", "nowhere"], "nowhere"),
        (["--metrics", "pointing"], "tells where the classes are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(options: list[str], message: str, photos: Path, tmp_path: Path) -> None:
    result = evaluate("--data", photos, *SMALL, "--workers", 0, "-o", tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_run_json_is_for_people_too(finished: tuple[Path, str], photos: Path) -> None:
    table = json.loads((finished[0] / "run.json").read_text())
    assert set(table) == {"study", "data", "environment"}
    assert table["data"]["root"] == str(photos)
    assert table["environment"]["threads"] == 1
