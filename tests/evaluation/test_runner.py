import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import fastcam
from fastcam.datasets.opening import open_dataset
from fastcam.datasets.sample import Box, DataSet, PhotoFiles, Sample
from fastcam.datasets.views import View, Views
from fastcam.evaluation import runner
from fastcam.evaluation.errors import RunError
from fastcam.evaluation.lock import locked
from fastcam.evaluation.parts import Part
from fastcam.evaluation.runner import evaluate
from fastcam.evaluation.store import Bad, Run, Store, read_run
from fastcam.evaluation.study import MethodSpec, Study
from fastcam.models import Preprocessing
from fastcam.photos import read_photo
from tests.datasets.test_end_to_end import MAKERS
from tests.evaluation.conftest import HOW, STUDY, exit_code, fork, parts, run
from tests.evaluation.nets import tiny

LABELS = [method.label for method in STUDY.methods]


def begin(study: Study, dataset: DataSet, output: Path) -> int:
    return fork(lambda: evaluate(study, dataset, output, HOW))


def launch(count: int, study: Study, dataset: DataSet, output: Path) -> list[int]:
    """As many processes as PyTorch's launcher would start, with what it would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def work(rank: int) -> Callable[[], object]:
        def of_rank() -> None:
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            evaluate(study, dataset, output, HOW)

        return of_rank

    return [fork(work(rank)) for rank in range(count)]


def until(done: Callable[[], bool]) -> None:
    stop = time.monotonic() + 60
    while not done():
        assert time.monotonic() < stop
        time.sleep(0.005)


# -- what the rows hold


def test_rows_stand_in_the_plans_order(reference: Run, dataset: DataSet) -> None:
    rows = reference.rows
    assert reference.complete
    places = [(label, layer) for label in LABELS for layer in (("relu1", "relu2") if label != "fake_cam" else (0,))]
    count = len(dataset.samples)
    assert rows.column("name").to_pylist() == [s.name for s in dataset.samples for _ in places]
    assert rows.column("index").to_pylist() == [i for i in range(count) for _ in places]
    assert rows.column("label").to_pylist() == [s.label for s in dataset.samples for _ in places]
    assert rows.column("method").to_pylist() == [label for label, _ in places] * count
    layers = rows.column("layer").to_pylist()[: len(places)]
    assert layers[:4] == ["relu1", "relu2", "relu1", "relu2"]
    assert rows.schema.field("drop").type == pa.float32()
    assert rows.schema.field("insertion_curve").type == pa.list_(pa.float32())
    assert reference.bad == ()
    assert len(reference.log) == 6


def test_rows_hold_what_the_functions_give(reference: Run, dataset: DataSet) -> None:
    batch = range(4, 8)
    preprocessing = Preprocessing(resize=16, crop=(16, 16))
    photos = [read_photo(dataset.samples[i].path) for i in batch]
    images = torch.cat([preprocessing.tensor(preprocessing.view(photo)) for photo in photos])
    model = tiny()
    info = fastcam.explain(model, images, method="eigen_cam", layer="relu1", normalize=False, return_info=True)
    drop = fastcam.metrics.average_drop(model, images, info.maps)
    mine = reference.rows.filter(
        pa.compute.and_(
            pa.compute.equal(reference.rows["method"], "eigen_cam"), pa.compute.equal(reference.rows["layer"], "relu1")
        )
    ).slice(4, 4)
    assert mine["index"].to_pylist() == list(batch)
    assert mine["target"].to_pylist() == info.targets.tolist() == mine["predicted"].to_pylist()
    # Photos are read and resized by another library here: to a grey level.
    np.testing.assert_allclose(mine["probability"], info.probabilities.amax(dim=1), atol=2e-3)
    np.testing.assert_allclose(mine["drop"], drop, atol=0.5)


def test_a_method_alone_has_the_rows_it_has_among_others(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    """Random numbers too do not depend on which methods a study has."""
    alone = run(replace(STUDY, methods=STUDY.methods[1:2]), dataset, tmp_path / "run")
    among = reference.rows.filter(pa.compute.equal(reference.rows["method"], "random_cam"))
    assert alone.rows.to_pylist() == among.to_pylist()


def test_labels_are_explained_where_the_study_says_so(dataset: DataSet, tmp_path: Path) -> None:
    rows = run(replace(STUDY, targets="label", methods=STUDY.methods[:1]), dataset, tmp_path / "run").rows
    assert rows["target"].to_pylist() == rows["label"].to_pylist()
    assert rows["predicted"].to_pylist() != rows["label"].to_pylist()


def test_methods_with_options_and_wrapped_ones(dataset: DataSet, tmp_path: Path) -> None:
    methods = (
        MethodSpec(name="ucag", label="unfolded", options={"method": "grad_cam", "patches": 2}),
        MethodSpec(name="grad_cam", label="small", options={"normalize_at": "layer", "normalize": True}),
        MethodSpec(name="grad_cam", label="plain"),
        MethodSpec(name="grad_cam", label="again"),
    )
    study = replace(STUDY, methods=methods, metrics=("coherency", "insertion"), subset=4)
    rows = run(study, dataset, tmp_path / "run").rows
    found = {label: rows.filter(pa.compute.equal(rows["method"], label)) for label in [m.label for m in methods]}
    assert [len(found[method.label]) for method in methods] == [8] * 4
    assert found["plain"]["insertion"].equals(found["again"]["insertion"])
    assert not found["plain"]["insertion"].equals(found["unfolded"]["insertion"])
    assert rows.column("method").to_pylist()[:8] == [method.label for method in methods for _ in range(2)]


# -- stopped and gone on with


def test_killed_at_any_moment_and_gone_on_with(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = tmp_path / "run"
    began = time.monotonic()
    run(STUDY, dataset, tmp_path / "whole")
    seconds = time.monotonic() - began
    ended = []
    for _ in range(5):
        child = begin(STUDY, dataset, output)
        time.sleep(random.uniform(0, 0.4 * seconds))
        os.kill(child, signal.SIGKILL)
        ended.append(exit_code(child))
    # What a process leaves that was killed while it wrote.
    (output / "parts").mkdir(exist_ok=True)
    (output / "parts" / ".0123456789abcdef.part").write_bytes(b"half")
    with (output / "log-0.jsonl").open("ab") as stream:
        stream.write(b'{"model": "tests')
    finished = run(STUDY, dataset, output)
    assert -signal.SIGKILL in ended
    assert parts(output) == parts(reference.path)
    assert finished.rows.to_pylist() == read_run(reference.path).rows.to_pylist()
    assert not list(output.rglob(".*.part"))
    assert {line["part"] for line in finished.log} <= set(range(6))


def test_only_what_is_missing_is_done(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    first, second, *_ = sorted((output / "parts").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    before = {path: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    with pytest.raises(RunError, match="is damaged: remove it"):
        read_run(output)
    assert run(STUDY, dataset, output).complete
    assert parts(output) == parts(reference.path)
    changed = {path for path in (output / "parts").iterdir() if path.stat().st_mtime_ns != before.get(path)}
    assert changed == {first, second}


def test_a_part_of_another_plan_is_made_anew(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    first = sorted((output / "parts").iterdir())[0]
    table = pa.parquet.read_table(first)
    note = {**json.loads(table.schema.metadata[b"fastcam"]), "total": 7}
    pa.parquet.write_table(table.slice(1).replace_schema_metadata({b"fastcam": json.dumps(note)}), first)
    run(STUDY, dataset, output)
    assert parts(output) == parts(reference.path)


def test_costs_are_measured_where_it_stopped_before_them(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    (output / "cost.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    assert set(run(STUDY, dataset, output).cost) == set(reference.cost)
    assert {path: path.stat().st_mtime_ns for path in (output / "parts").iterdir()} == before


def test_a_run_keeps_the_threads_it_began_with(
    reference: Run, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is told a number, which is refused if it is another."""
    output = copied(reference, tmp_path)
    (output / "cost.json").unlink()
    counted: list[int] = []
    monkeypatch.setattr(runner, "measure_cost", lambda *_: counted.append(torch.get_num_threads()) or {})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(STUDY, dataset, output, threads=None).complete
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert counted == [1]


@pytest.mark.parametrize(
    ("left", "lines"),
    [(b'{"model": "te', [{"part": 1}]), (b'{"part": 0}\n', [{"part": 0}, {"part": 1}])],
    ids=["cut off", "whole"],
)
def test_a_line_cut_off_takes_no_other_along(
    left: bytes, lines: list[dict[str, int]], reference: Run, tmp_path: Path
) -> None:
    output = copied(reference, tmp_path)
    (output / "log-0.jsonl").write_bytes(left)
    Store(output).log(0, {"part": 1})
    assert list(read_run(output).log) == lines


def test_no_two_models_share_a_file(tmp_path: Path) -> None:
    names = ["a/b", "a-b", "a%2Fb", "a:b", "a b", "../a"]
    files = [Store(tmp_path).file("parts", Part(name, 0, 1, ())) for name in names]
    assert len(set(files)) == len(names)
    assert all(file.resolve().parent == (tmp_path / "parts").resolve() for file in files)


@pytest.mark.parametrize("correct_only", [False, True], ids=["all", "correct only"])
def test_two_processes_give_the_rows_of_one(
    correct_only: bool, dataset: DataSet, reference: Run, tmp_path: Path
) -> None:
    study = replace(STUDY, part=2, subset=5, correct_only=True) if correct_only else STUDY
    expected = run(study, dataset, tmp_path / "one").path if correct_only else reference.path
    output = tmp_path / "two"
    assert [exit_code(child) for child in launch(2, study, dataset, output)] == [0, 0]
    assert parts(output) == parts(expected)
    found = read_run(output)
    assert found.complete
    assert {line["rank"] for line in found.log} == {0, 1}
    done = [(line["kind"], line["part"]) for line in found.log]
    assert len(done) == len(set(done))
    if correct_only:
        names = set(found.rows["name"].to_pylist())
        assert len(names) == 5
        assert found.rows["predicted"].to_pylist() == found.rows["label"].to_pylist()


def test_a_process_that_is_lost_is_made_up_for(dataset: DataSet, reference: Run, tmp_path: Path) -> None:
    output = tmp_path / "run"
    first, second = launch(2, STUDY, dataset, output)
    until(lambda: any((output / "parts").glob("*.parquet")))
    os.kill(second, signal.SIGKILL)
    exit_code(second)
    # The launcher ends the others.
    os.kill(first, signal.SIGKILL)
    exit_code(first)
    assert [exit_code(child) for child in launch(2, STUDY, dataset, output)] == [0, 0]
    assert parts(output) == parts(reference.path)


def test_correct_predictions_do_not_depend_on_how_they_are_found(dataset: DataSet, tmp_path: Path) -> None:
    study = replace(STUDY, subset=5, correct_only=True, part=2, methods=STUDY.methods[:1])
    whole = run(replace(study, subset=None), dataset, tmp_path / "all")
    right = set(whole.rows["name"].to_pylist())
    output = tmp_path / "run"
    found = run(study, dataset, output)
    assert set(found.rows["name"].to_pylist()) < right
    assert found.rows["index"].to_pylist() == sorted(found.rows["index"].to_pylist())
    # What was screened is not screened again.
    shutil.rmtree(output / "parts")
    kept = {path: path.stat().st_mtime_ns for path in (output / "screen").iterdir()}
    assert run(study, dataset, output).rows.to_pylist() == found.rows.to_pylist()
    assert {path: path.stat().st_mtime_ns for path in (output / "screen").iterdir()} == kept
    with pytest.raises(ValueError, match=f"predicts the label of {len(right)} of the 22 samples, and 20 are asked"):
        run(replace(study, subset=20), dataset, tmp_path / "few")


# -- refused


@pytest.mark.parametrize(
    ("study", "how", "told"),
    [
        (replace(STUDY, batch=2, seed=1), {}, ["seed (--seed): 0 and 1", "batch (--batch): 4 and 2"]),
        (
            replace(STUDY, metrics=("drop",), options={}),
            {},
            ['metrics (--metrics): ["drop", "insertion"] and ["drop"]'],
        ),
        (STUDY, {"threads": 2}, ["environment.threads (--threads): 1 and 2"]),
    ],
    ids=["study", "metrics", "threads"],
)
def test_a_changed_command_is_refused(
    study: Study, how: dict[str, Any], told: Sequence[str], reference: Run, dataset: DataSet
) -> None:
    before = parts(reference.path)
    with pytest.raises(RunError) as refused:
        run(study, dataset, reference.path, **how)
    assert all(line in str(refused.value) for line in told)
    assert parts(reference.path) == before


@pytest.mark.parametrize("package", ["fastcam", "torch", "torchvision", "pillow"])
def test_another_version_is_refused(package: str, reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    noted = json.loads((output / "run.json").read_text())
    now = noted["environment"][package]
    noted["environment"][package] = "0.1"
    (output / "run.json").write_text(json.dumps(noted))
    with pytest.raises(RunError, match=re.escape(f'environment.{package}: "0.1" and "{now}"')):
        run(STUDY, dataset, output)


def test_what_never_came_to_a_row_does_not_bind(dataset: DataSet, tmp_path: Path) -> None:
    """A slip that shows only when the model is there: the folder can be used again."""
    slip = replace(STUDY, models=(replace(STUDY.models[0], layers=("relu3",)),))
    with pytest.raises(ValueError, match="relu3"):
        run(slip, dataset, tmp_path / "run", threads=2)
    found = run(STUDY, dataset, tmp_path / "run", threads=None)
    assert found.complete
    assert found.study == STUDY
    assert found.environment["threads"] == torch.get_num_threads()


def test_another_data_set_is_refused(reference: Run, dataset: DataSet) -> None:
    other = PhotoFiles(name="folder", root=dataset.root, samples=tuple(dataset.samples[:-1]), has_regions=False)
    with pytest.raises(RunError, match=r"data\.samples \(--data\): 22 and 21; data\.fingerprint \(--data\)"):
        run(STUDY, other, reference.path)


@pytest.mark.parametrize("screened", [False, True], ids=["parts", "screened alone"])
def test_other_weights_are_refused(screened: bool, reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    study, output = STUDY, tmp_path / "run"
    if screened:
        # Stopped when its samples were chosen.
        study = replace(STUDY, correct_only=True)
        run(study, dataset, output)
        shutil.rmtree(output / "parts")
    else:
        copied(reference, tmp_path)
        next((output / "parts").iterdir()).unlink()
    bias = tiny().fc.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias.add_(1)
    try:
        with pytest.raises(RunError, match="other weights of tests"):
            run(study, dataset, output)
    finally:
        with torch.no_grad():
            bias.copy_(before)


def test_two_runs_on_one_folder(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)

    def hold() -> None:
        with locked(output):
            (tmp_path / "held").touch()
            time.sleep(60)

    child = fork(hold)
    until((tmp_path / "held").exists)
    try:
        with pytest.raises(RunError, match=f"process {child} on {socket.gethostname()} is at work on this run"):
            run(STUDY, dataset, output)
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    assert run(STUDY, dataset, output).complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": 23}, "subset: 23 given, but the data set folder has 22 samples"),
        ({"metrics": ("iou",), "options": {}}, "metrics: iou given, but nothing in the data set folder tells where"),
    ],
    ids=["subset", "regions"],
)
def test_what_the_data_set_lacks_is_named(
    change: dict[str, Any], message: str, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(replace(STUDY, **change), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"targets": "label"}, {"correct_only": True}], ids=["targets", "correct_only"])
def test_labels_that_are_not_known_are_missed(change: dict[str, Any], dataset: DataSet, tmp_path: Path) -> None:
    samples = tuple(replace(sample, label=None) for sample in dataset.samples)
    unlabelled = PhotoFiles(name="folder", root=dataset.root, samples=samples, has_regions=False)
    with pytest.raises(ValueError, match="22 of the 22 samples of the data set folder have no label"):
        run(replace(STUDY, **change), unlabelled, tmp_path / "run")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "labels are positions among the 20 classes of the data set voc07, and .*tiny has 3 outputs"),
        ({"aeroplane": 2, "dog": 3}, "labels run to 3, .* of the data set voc07, and .*tiny has 3 outputs"),
    ],
    ids=["the data set's own order", "a table"],
)
@pytest.mark.parametrize("change", [{"targets": "label"}, {"correct_only": True}], ids=["targets", "correct_only"])
def test_labels_that_are_no_outputs_are_refused(
    change: dict[str, Any], classes: dict[str, int] | None, message: str, tmp_path: Path
) -> None:
    made, _ = MAKERS["voc07"]
    voc = open_dataset("voc07", made(tmp_path / "data").root, classes=classes)
    study = replace(STUDY, dataset="voc07", methods=STUDY.methods[:1])
    with pytest.raises(ValueError, match=f"classes: {message}; give --classes FILE"):
        run(replace(study, **change), voc, tmp_path / "run")
    # Where no label is looked at, any model will do.
    assert run(study, voc, tmp_path / "run").complete


# -- data sets with regions

OUTPUTS = {
    "imagenet by synset": {"n01440764": 0, "n02123045": 2, "n15075141": 1},
    "voc07": {"aeroplane": 0, "dog": 2},
    "coco14": {"toothbrush": 0, "dog": 2, "person": 1},
    "imagenet-segmentation": {"n01440764": 0, "n02123045": 2, "n15075141": 1},
}


@pytest.mark.parametrize("name", OUTPUTS, ids=str)
def test_data_sets_that_tell_where_the_class_is(name: str, tmp_path: Path) -> None:
    make, _ = MAKERS[name]
    drawn = make(tmp_path / "data")
    marked = open_dataset(drawn.name, drawn.root, classes=OUTPUTS[name])
    study = replace(
        STUDY,
        dataset=drawn.name,
        models=(replace(STUDY.models[0], layers=("relu1",), resize="32x32", crop="none"),),
        methods=STUDY.methods[:1],
        metrics=("pointing", "energy_pointing", "iou", "segmentation_iou"),
        options={"tolerance": 15},
        targets="label",
    )
    rows = run(study, marked, tmp_path / "run").rows
    assert rows["name"].to_pylist() == [sample.name for sample in marked.samples]
    assert rows["target"].to_pylist() == [OUTPUTS[name][key] for key in classes_of(drawn)]
    preprocessing = Preprocessing(resize=(32, 32), crop=None)
    seen = Views(marked, preprocessing, photo_regions=True).views(range(len(marked.samples)))
    views = [view for view in seen if isinstance(view, View)]
    images = preprocessing.scaled(torch.stack([view.image for view in views]))
    maps = fastcam.eigen_cam(tiny(), images, rows["target"].to_pylist(), layer="relu1", normalize=False)
    regions = torch.stack([view.region for view in views if view.region is not None])
    photo_regions = [view.photo_region for view in views if view.photo_region is not None]
    expected = {
        "pointing": fastcam.metrics.pointing_game(maps, photo_regions, tolerance=15),
        "energy_pointing": fastcam.metrics.energy_pointing_game(maps, regions),
        "iou": fastcam.metrics.iou(maps, regions),
        "segmentation_iou": fastcam.metrics.segmentation_iou(maps, regions),
    }
    for column, values in expected.items():
        np.testing.assert_allclose(rows[column].to_numpy(), values.numpy(), rtol=1e-5, err_msg=column)


def classes_of(drawn: DataSet) -> list[str]:
    """Of each sample the class as its name has it."""
    return [sample.name.partition("#")[2] or re.split("[/_]", sample.name)[0] for sample in drawn.samples]


# -- photos, memory and disks that fail


def test_photos_that_cannot_be_read_are_left_out(reference: Run, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    cut, text, missing = copy / "0" / "03.png", copy / "1" / "13.png", copy / "2" / "14.png"
    broken = open_dataset("folder", copy)
    cut.write_bytes(cut.read_bytes()[:60])
    text.write_text("no image")
    missing.unlink()
    found = run(STUDY, broken, tmp_path / "run", max_bad=3)
    assert [bad.name for bad in found.bad] == ["0/03.png", "1/13.png", "2/14.png"]
    assert all(bad.reason and bad.model == STUDY.models[0].name for bad in found.bad)
    assert [bad["name"] for line in found.log for bad in line["bad"]] == [bad.name for bad in found.bad]
    # The others' rows are what they would be beside them.
    names = pa.array([bad.name for bad in found.bad])
    others = reference.rows.filter(pa.compute.invert(pa.compute.is_in(reference.rows["name"], names)))
    assert found.rows.to_pylist() == others.to_pylist()
    assert found.complete


def darkened(photos: Path, copy: Path, *names: str, unreadable: bool = False) -> DataSet:
    """Some of the photos black, which `InTheDark` answers with infinity, or gone."""
    shutil.copytree(photos, copy)
    for name in names:
        with Image.open(copy / name) as photo:
            black = Image.new("RGB", photo.size)
        black.save(copy / name)
    found = open_dataset("folder", copy)
    if unreadable:
        for name in names:
            (copy / name).unlink()
    return found


@pytest.mark.parametrize("correct_only", [False, True], ids=["all", "screened"])
@pytest.mark.parametrize(
    "names",
    [("0/00.png",), ("0/03.png", "1/13.png"), ("1/10.png", "1/13.png", "1/16.png", "1/19.png")],
    ids=["the first", "two", "a whole batch"],
)
def test_photos_whose_logits_are_not_finite_are_left_out(
    names: tuple[str, ...], correct_only: bool, photos: Path, tmp_path: Path
) -> None:
    model = replace(STUDY.models[0], name="tests.evaluation.nets:in_the_dark")
    study = replace(STUDY, models=(model,), metrics=("drop",), options={}, correct_only=correct_only)
    found = run(study, darkened(photos, tmp_path / "dark", *names), tmp_path / "run", max_bad=len(names))
    assert found.complete
    assert {bad.name for bad in found.bad} == set(names)
    assert all("are NaN or infinite" in bad.reason and bad.model == model.name for bad in found.bad)
    # The others' rows are what they would be beside photos that cannot be read.
    missing = darkened(photos, tmp_path / "missing", *names, unreadable=True)
    expected = run(study, missing, tmp_path / "expected", max_bad=len(names))
    assert found.rows.to_pylist() == expected.rows.to_pylist()
    assert found.cost[model.name]["images"] > 0


def test_photos_whose_logits_are_not_finite_are_counted(photos: Path, tmp_path: Path) -> None:
    model = replace(STUDY.models[0], name="tests.evaluation.nets:in_the_dark")
    study = replace(STUDY, models=(model,), metrics=("drop",), options={})
    dark = darkened(photos, tmp_path / "dark", "0/00.png", "1/01.png")
    with pytest.raises(RunError, match=r"max-bad: 2 photos .*\(0/00.png: model: its logits .* NaN or infinite"):
        run(study, dark, tmp_path / "run", max_bad=1)


def test_photos_left_out_earlier_count(photos: Path, tmp_path: Path) -> None:
    """Of a run that goes on, and of photos that were only screened."""
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = open_dataset("folder", copy)
    (copy / "0" / "00.png").write_text("no image")
    study = replace(STUDY, methods=STUDY.methods[2:], metrics=("drop",), options={}, correct_only=True)
    found = run(study, broken, tmp_path / "run", max_bad=1)
    assert [bad.name for bad in found.bad] == ["0/00.png"]
    with pytest.raises(RunError, match="max-bad: 1 photos could not be read or explained, 0 may be left out"):
        run(study, broken, tmp_path / "run", max_bad=0)


def test_a_tolerance_is_in_pixels_of_the_photo(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    samples = []
    for i in range(8):
        pixels = random.integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        left, top = random.integers(10, 60, 2).tolist()
        box = Box(left, top, left + 5, top + 5)
        samples.append(Sample(name=f"{i}", path=tmp_path / f"{i}.png", label=0, boxes=(box,)))
    boxed = PhotoFiles(name="folder", root=tmp_path, samples=tuple(samples), has_regions=True)
    study = replace(STUDY, methods=STUDY.methods[:1], metrics=("pointing",), options={"tolerance": 15})
    rows = run(study, boxed, tmp_path / "run").rows
    hits = rows.filter(pa.compute.equal(rows["layer"], "relu1"))["pointing"].to_numpy()
    preprocessing = Preprocessing(resize=16, crop=(16, 16))
    seen = Views(boxed, preprocessing, photo_regions=True).views(range(8))
    views = [view for view in seen if isinstance(view, View)]
    images = preprocessing.scaled(torch.stack([view.image for view in views]))
    maps = fastcam.eigen_cam(tiny(), images, layer="relu1", normalize=False)
    regions = [view.photo_region for view in views if view.photo_region is not None]
    expected = fastcam.metrics.pointing_game(maps, regions, tolerance=15)
    assert hits.tolist() == expected.tolist()
    # On the network's 16 x 16 pixels they would all be hits.
    assert 0 < expected.sum() < 8


def test_a_batch_without_any_photo_has_no_rows(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = open_dataset("folder", copy)
    for sample in broken.samples[4:8]:
        sample.path.unlink()
    found = run(STUDY, broken, tmp_path / "run", max_bad=4)
    assert found.complete
    assert len(found.bad) == 4
    assert set(range(22)) - set(found.rows["index"].to_pylist()) == {4, 5, 6, 7}


def test_too_many_of_them_end_the_run(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    broken = open_dataset("folder", copy)
    for name in ("0/00.png", "2/14.png"):
        (copy / name).write_text("no image")
    output = tmp_path / "run"
    told = r"max-bad: 2 photos could not be read or explained, 1 may be left out \(0/00.png: "
    with pytest.raises(RunError, match=told) as error:
        run(STUDY, broken, output)
    assert "--max-bad" in str(error.value)
    kept = parts(output)
    assert kept
    found = run(STUDY, broken, output, max_bad=2)
    assert len(found.bad) == 2
    assert kept.items() <= parts(output).items()


def images_seen(func: object, args: Any) -> int:
    """How many images the network's first convolution is given; the packing of its weights sees none."""
    return len(args[0]) if "convolution" in str(func) and args[0].shape[1:] == (3, 16, 16) else 0


class SmallMemory(TorchDispatchMode):
    """The network's first convolution fails for more images than fit, as on a full device."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if images_seen(func, args) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return func(*args, **(kwargs or {}))


def test_batches_shrink_to_what_memory_holds(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    said: list[str] = []
    with SmallMemory(2):
        found = run(STUDY, dataset, tmp_path / "run", say=said.append)
    assert "those of random_cam rest on other random numbers" in said[0]
    assert "memory does not suffice for 4 images of tests.evaluation.nets:tiny at a time: going on with 2" in said[0]
    (halving,) = [line for line in found.log if line["kind"] == "out of memory"]
    assert (halving["batch_before"], halving["batch"]) == (4, 2)
    assert [line["batch"] for line in found.log if line["kind"] == "parts"] == [2] * 6
    assert found.complete
    same = reference.rows["method"].to_numpy() != "random_cam"
    for column in ("probability", "drop", "insertion"):
        np.testing.assert_allclose(
            found.rows[column].to_numpy()[same], reference.rows[column].to_numpy()[same], rtol=1e-4, atol=1e-4
        )
    assert found.rows["index"].equals(reference.rows["index"])
    # As was said.
    assert not np.allclose(found.rows["drop"].to_numpy()[~same], reference.rows["drop"].to_numpy()[~same], atol=1)


def test_shrinking_is_told_once(dataset: DataSet, tmp_path: Path) -> None:
    said: list[str] = []
    with SmallMemory(1):
        found = run(replace(STUDY, methods=STUDY.methods[:1]), dataset, tmp_path / "run", say=said.append)
    assert [line["batch"] for line in found.log if line["kind"] == "out of memory"] == [2, 1]
    assert len(said) == 1
    assert "random" not in said[0]


MASKING = (
    MethodSpec(name="rise", label="rise", options={"masks": 16}),
    MethodSpec(name="ss_cam", label="ss_cam", options={"samples": 1}),
    MethodSpec(name="score_cam", label="score_cam"),
)


def test_forward_passes_of_masked_images_shrink_too(dataset: DataSet, tmp_path: Path) -> None:
    """Eight to a forward pass on a CPU, however few images they are made of."""
    study = replace(STUDY, methods=MASKING, subset=4)
    whole = run(study, dataset, tmp_path / "whole")
    with SmallMemory(3):
        found = run(study, dataset, tmp_path / "run", say=lambda _: None)
    assert found.complete
    assert [line["batch"] for line in found.log if line["kind"] == "out of memory"] == [2, 1]
    same = whole.rows["method"].to_numpy() == "score_cam"
    for column in ("probability", "drop", "insertion"):
        np.testing.assert_allclose(
            found.rows[column].to_numpy()[same], whole.rows[column].to_numpy()[same], rtol=1e-4, atol=1e-4
        )


def test_a_batch_size_of_ones_own_stays(dataset: DataSet, tmp_path: Path) -> None:
    given = MethodSpec(name="rise", label="RISE", options={"masks": 16, "batch_size": 4})
    with (
        SmallMemory(3),
        pytest.raises(RunError, match=r"one image at a time .*a smaller batch_size of RISE takes less"),
    ):
        run(replace(STUDY, methods=(given,)), dataset, tmp_path / "run", say=lambda _: None)


def test_costs_are_measured_on_what_memory_holds(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    (output / "cost.json").unlink()
    with SmallMemory(2):
        found = run(STUDY, dataset, output, say=lambda _: None)
    assert found.cost[STUDY.models[0].name]["images"] == 2
    (output / "cost.json").unlink()
    with SmallMemory(0), pytest.raises(RunError, match="memory: not enough on cpu"):
        run(STUDY, dataset, output, say=lambda _: None)


class Counted(TorchDispatchMode):
    """How many images the network's first convolution sees."""

    images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.images += images_seen(func, args)
        return func(*args, **(kwargs or {}))


def test_an_unmasked_score_is_computed_once(dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the maps: metrics are told of it."""
    monkeypatch.setattr(runner, "measure_cost", lambda *_: {})
    study = replace(STUDY, methods=STUDY.methods[:1], metrics=("drop", "increase"), options={})
    # So that what is counted is not the model's capture.
    run(replace(study, subset=4), dataset, tmp_path / "before")
    with Counted() as seen:
        run(study, dataset, tmp_path / "run")
    # Each image once as it is, and once behind the mask of each layer's map.
    assert seen.images == 22 * 3


def test_one_image_too_much_is_an_error(dataset: DataSet, tmp_path: Path) -> None:
    with SmallMemory(0), pytest.raises(RunError, match=r"memory: not enough on cpu for .* with one image at a time"):
        run(STUDY, dataset, tmp_path / "run", say=lambda _: None)


def test_a_full_disk_loses_nothing(reference: Run, dataset: DataSet, tmp_path: Path) -> None:
    output = copied(reference, tmp_path)
    _, second, _, _, _, last = sorted((output / "parts").iterdir())
    second.unlink()
    last.unlink()
    before = parts(output)

    def work() -> None:
        # Too little for a part, enough for a line of the log.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            evaluate(STUDY, dataset, output, HOW)
        except RunError as error:
            (tmp_path / "said").write_text(str(error))

    assert exit_code(fork(work)) == 0
    said = (tmp_path / "said").read_text()
    assert f"output: {second} cannot be written (File too large). Nothing that was finished is lost" in said
    assert parts(output) == before
    assert not list(output.rglob(".*.part"))
    run(STUDY, dataset, output)
    assert parts(output) == parts(reference.path)


def test_an_output_that_is_no_folder_is_named(dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/run cannot be written \(Not a directory\)"):
        run(STUDY, dataset, tmp_path / "file" / "run")


def test_memory_stays_flat(photos: Path, tmp_path: Path) -> None:
    """Over parts and parts, in the process that does them all."""
    paths = sorted(photos.rglob("*.png"))
    samples = tuple(Sample(name=f"{i}", path=paths[i % len(paths)], label=i % 3) for i in range(640))
    many = PhotoFiles(name="folder", root=photos, samples=samples, has_regions=False)
    study = replace(STUDY, methods=STUDY.methods[:1], metrics=("drop",), options={}, batch=16, part=16)
    size, pages = [], resource.getpagesize()
    output = tmp_path / "run"

    class Watch:
        """At every part's end."""

        def __call__(self, *_: object) -> None:
            size.append(int(Path("/proc/self/statm").read_text().split()[1]) * pages)

    log, watch = Store.log, Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "log", lambda self, rank, line: (log(self, rank, line), watch())[0])
        run(study, many, output)
    assert len(size) == 40
    assert max(size[20:]) - max(size[:20]) < 4 * 2**20


def copied(reference: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference.path, tmp_path / "run"))


def test_costs_are_told_of_each_method_and_metric(reference: Run) -> None:
    cost = reference.cost[STUDY.models[0].name]
    assert set(cost["methods"]) == set(LABELS)
    assert set(cost["metrics"]) == {"drop", "insertion"}
    assert all(seconds > 0 for of in ("methods", "metrics") for seconds in cost[of].values())
    assert cost["forward"] > 0
    assert cost["load"] > 0
    assert cost["images"] == 4


def test_bad_photos_compare_as_values() -> None:
    assert Bad("m", "n", "r") == Bad(**json.loads('{"model": "m", "name": "n", "reason": "r"}'))


def test_a_log_line_stands_behind_one_that_was_cut_off(tmp_path: Path) -> None:
    store, log = Store(tmp_path), tmp_path / "log-0.jsonl"
    store.log(0, {"part": 0})
    log.write_bytes(log.read_bytes() + b'{"part": 1, "ima')
    store.log(0, {"part": 2})
    store.log(0, {"part": 3})
    assert log.read_text(encoding="utf-8").splitlines() == [
        '{"part": 0}', '{"part": 1, "ima', '{"part": 2}', '{"part": 3}',
    ]  # fmt: skip
