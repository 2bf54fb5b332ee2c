"""Folders of photos: which of them have labels, and which."""

from pathlib import Path

import pytest

from fastcam.datasets import open_dataset

from . import layouts
from .layouts import Drawn

NAMES = ("tench", "tiger cat", "crane", "Samoyed", "crane")


def fill(root: Path, *paths: str) -> None:
    for path in paths:
        layouts.save_jpeg(root / path, Drawn((20, 20), ()))


def labels(root: Path, **options: object) -> dict[str, int | None]:
    dataset = open_dataset("folder", root, **options)  # type: ignore[arg-type]
    assert not dataset.has_regions
    assert [sample.name for sample in dataset.samples] == sorted(sample.name for sample in dataset.samples)
    assert all(sample.path == root / sample.name for sample in dataset.samples)
    return {sample.name: sample.label for sample in dataset.samples}


def test_without_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "b.jpg", "a.JPEG", ".hidden.jpg", ".cache/c.jpg", "notes/d.png")
    (tmp_path / "README.txt").write_text("no photo")
    assert labels(tmp_path) == {"a.JPEG": None, "b.jpg": None, "notes/d.png": None}
    assert labels(tmp_path, class_names=NAMES) == {"a.JPEG": None, "b.jpg": None, "notes/d.png": None}


def test_by_the_models_class_names(tmp_path: Path) -> None:
    fill(tmp_path, "tench/a.jpg", "Tiger_Cat/deep/b.jpg", "samoyed/c.jpg", "d.jpg")
    expected = {"Tiger_Cat/deep/b.jpg": 1, "d.jpg": None, "samoyed/c.jpg": 3, "tench/a.jpg": 0}
    assert labels(tmp_path, class_names=NAMES) == expected


def test_by_index_and_wordnet_id(tmp_path: Path) -> None:
    fill(tmp_path, "7/a.jpg", "n02123045/b.jpg", "012/c.jpg")
    assert labels(tmp_path) == {"012/c.jpg": 12, "7/a.jpg": 7, "n02123045/b.jpg": 281}


@pytest.mark.parametrize("name", ["tiger cta", "crane"], ids=["misspelt", "two classes' name"])
def test_a_class_folder_that_is_no_class(tmp_path: Path, name: str) -> None:
    """Its neighbour is one, so it was meant to be one."""
    fill(tmp_path, "tench/a.jpg", f"{name}/b.jpg")
    with pytest.raises(ValueError, match=rf"class '{name}' is not in the class table.*--classes FILE"):
        labels(tmp_path, class_names=NAMES)


def test_close_names(tmp_path: Path) -> None:
    fill(tmp_path, "tench/a.jpg", "tiger cta/b.jpg")
    with pytest.raises(ValueError, match="close names: tiger cat"):
        labels(tmp_path, class_names=NAMES)


def test_by_a_table(tmp_path: Path) -> None:
    fill(tmp_path, "cats/a.jpg", "dogs/b.jpg", "rest/c.jpg")
    assert labels(tmp_path, classes={"cats": 3, "dogs": 5, "rest": -1}) == {"cats/a.jpg": 3, "dogs/b.jpg": 5}
    with pytest.raises(ValueError, match="class 'rest' is not in the class table"):
        labels(tmp_path, classes={"cats": 3, "dogs": 5})
    with pytest.raises(ValueError, match="leaves out every class"):
        labels(tmp_path, classes={"cats": -1, "dogs": -1, "rest": -1})


def test_no_photos(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"no photo in .* or below; found a.txt, b/"):
        labels(tmp_path)
