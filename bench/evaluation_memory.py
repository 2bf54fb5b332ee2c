"""Resident memory of a run, image by image."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastcam.datasets.opening import open_dataset
from fastcam.evaluation.runner import How, evaluate
from fastcam.evaluation.store import Store
from fastcam.evaluation.study import MethodSpec, ModelSpec, Study

FILES, PART = 8, 50
# Until then caches fill up.
WARM_UP = 1000
STUDY = Study(
    dataset="folder",
    models=(ModelSpec(name="bench.evaluation_memory:network", resize="32", crop="32"),),
    methods=tuple(MethodSpec(name=name, label=name) for name in ("relevance_cam", "grad_cam", "fake_cam")),
    metrics=("drop", "increase", "adcc", "insertion", "deletion"),
    options={"step": 128},
    part=PART,
)


@cache
def network() -> nn.Module:
    """A small classifier of images of 32 px."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def memory(images: int, *, workers: int, threads: int) -> dict[str, Any]:
    """A study of so many images: resident memory of this process and of its workers after each part, in bytes."""
    seen: dict[str, list[int]] = {"images": [], "process": [], "workers": []}
    write_line = Store.log

    def log(store: Store, rank: int, line: dict[str, Any]) -> None:
        write_line(store, rank, line)
        seen["images"].append(PART * len(seen["images"]) + line["images"])
        own, children = resident()
        seen["process"].append(own)
        seen["workers"].append(children)

    with tempfile.TemporaryDirectory() as folder, patch.object(Store, "log", log):
        photos = Path(folder) / "photos"
        write_photos(photos, images)
        dataset = open_dataset("folder", photos)
        how = How(device=torch.device("cpu"), workers=workers, threads=threads, quiet=True)
        evaluate(STUDY, dataset, Path(folder) / "run", how)
    both = [own + children for own, children in zip(seen["process"], seen["workers"], strict=True)]
    return {
        "images": images,
        "images_a_part": PART,
        "workers": workers,
        "threads": threads,
        "warm_up_images": WARM_UP,
        "slope_kib_per_1000": {
            name: slope(seen["images"], values, WARM_UP) / 1024 * 1000
            for name, values in (("process", seen["process"]), ("workers", seen["workers"]), ("both", both))
        },
        "peak_mib": max(both) / 2**20,
        "resident_mib": [round(value / 2**20, 1) for value in both],
    }


def write_photos(folder: Path, count: int) -> None:
    """Links to a few JPEGs."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        if number < FILES:
            small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((64, 64), Image.Resampling.BICUBIC).save(path)
        else:
            path.symlink_to(folder / f"{number % FILES:05d}.jpg")


def resident() -> tuple[int, int]:
    """Resident bytes of this process, and of its children together (Linux)."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()
    return _resident_of(own), sum(_resident_of(int(child)) for child in children)


def _resident_of(process: int) -> int:
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError):  # a worker that has just ended
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def slope(images: Sequence[int], values: Sequence[float], warm_up: int) -> float:
    """The slope of the line of least squares through the values, per image, from image `warm_up` on."""
    points = [(x, y) for x, y in zip(images, values, strict=True) if x >= warm_up]
    if len(points) < 2:
        return float("nan")
    x, y = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
