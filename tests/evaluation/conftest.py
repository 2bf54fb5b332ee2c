import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam.datasets.opening import open_dataset
from fastcam.datasets.sample import DataSet
from fastcam.evaluation.runner import How, evaluate
from fastcam.evaluation.store import Run
from fastcam.evaluation.study import MethodSpec, ModelSpec, Study

MODEL = "tests.evaluation.nets:tiny"
# Of methods without autograd, which does not work in a process that forked from one that has used it.
STUDY = Study(
    dataset="folder",
    models=(ModelSpec(name=MODEL, layers=("relu1", "relu2"), resize="16", crop="16"),),
    methods=tuple(MethodSpec(name=name, label=name) for name in ("eigen_cam", "random_cam", "fake_cam")),
    metrics=("drop", "insertion"),
    options={"step": 64},
    batch=4,
    part=4,
)
HOW = How(device=torch.device("cpu"), threads=1, quiet=True)


def write_photos(root: Path, count: int) -> Path:
    """Colourful noise in three class folders."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = root / str(i % 3) / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (18, 21, 3)) * random.random(3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 22)


@pytest.fixture(scope="session")
def dataset(photos: Path) -> DataSet:
    return open_dataset("folder", photos)


@pytest.fixture(scope="session")
def reference(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The study, carried out by one process without a stop."""
    return run(STUDY, dataset, tmp_path_factory.mktemp("reference") / "run")


def run(study: Study, dataset: DataSet, output: Path, **how: Any) -> Run:
    found = evaluate(study, dataset, output, replace(HOW, **how))
    assert found is not None
    return found


def parts(path: Path) -> dict[str, bytes]:
    """The run's table, as its files hold it."""
    return {file.name: file.read_bytes() for file in sorted((path / "parts").glob("*.parquet"))}


def fork(work: Callable[[], object]) -> int:
    """A process that does this and ends; its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Wait for a process's end; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
