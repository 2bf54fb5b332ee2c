"""Views and their loader: order, workers, what is wrong with single files."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fastcam.datasets import BadView, Box, DataSet, PhotoFiles, Sample, View, ViewBatch, Views, loader, open_dataset
from fastcam.datasets.loader import _on_gpu
from fastcam.models.preprocessing import Preprocessing

from . import layouts
from .layouts import Drawn

SMALL = Preprocessing(resize=24, crop=(24, 24))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Views:
    """Twelve photos with boxes, of which four cannot be used."""
    root = tmp_path_factory.mktemp("voc")
    photos = {
        f"{number:06d}": (
            Drawn((40 + number, 50 - number), ((number, 3, 30 + number, 30),)),
            [("cat", 0, False)],
        )
        for number in range(1, 13)
    }
    home = layouts.voc07(root, photos)
    jpegs = home / "JPEGImages"
    (jpegs / "000003.jpg").write_bytes(b"")
    (jpegs / "000005.jpg").write_bytes((jpegs / "000005.jpg").read_bytes()[:-200])
    layouts.save_jpeg(jpegs / "000006.jpg", Drawn((50, 400), ()))
    dataset = open_dataset("voc07", root)
    (jpegs / "000008.jpg").unlink()
    return Views(dataset, SMALL, photo_regions=True)


BATCHES = [[0, 1, 2], [11, 3, 4], [7], [5, 6], [8, 9, 10]]
BAD = {
    2: "damaged|no image",
    4: "truncated",
    5: "annotation is of a photo of 46x44, the file has 50x400",
    7: "not exist",
}


def test_what_is_wrong_is_told(mixed: Views) -> None:
    for index in range(12):
        view = mixed[index]
        assert isinstance(view, BadView) == (index in BAD)
        assert view.index == index
    for index, reason in BAD.items():
        bad = mixed[index]
        assert isinstance(bad, BadView)
        assert bad.name == f"{index + 1:06d}.jpg#cat"
        assert f"{index + 1:06d}.jpg" in bad.reason
        assert re.search(reason, bad.reason)


def assert_same(found: list[ViewBatch], expected: list[ViewBatch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.indices, one.bad) == (other.indices, other.bad)
        assert torch.equal(one.images, other.images)
        assert (one.regions is None) == (other.regions is None)
        if one.regions is not None and other.regions is not None:
            assert torch.equal(one.regions, other.regions)
        assert (one.photo_regions is None) == (other.photo_regions is None)
        for a, b in zip(one.photo_regions or (), other.photo_regions or (), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(mixed: Views, workers: int) -> None:
    assert_same(list(loader(mixed, BATCHES, workers)), list(loader(mixed, BATCHES)))


def test_batches_come_in_order_and_whole(mixed: Views) -> None:
    batches = list(loader(mixed, BATCHES))
    for batch, indices in zip(batches, BATCHES, strict=True):
        good = [index for index in indices if index not in BAD]
        assert list(batch.indices) == good
        assert [bad.index for bad in batch.bad] == [index for index in indices if index in BAD]
        assert len(batch.images) == len(good)
        for row, index in enumerate(good):
            view = mixed[index]
            assert isinstance(view, View)
            assert torch.equal(batch.images[row], view.image)
            assert batch.regions is not None
            assert batch.photo_regions is not None
            assert view.region is not None
            assert view.photo_region is not None
            assert torch.equal(batch.regions[row], view.region)
            assert torch.equal(batch.photo_regions[row], view.photo_region)
    assert len(batches[2].images) == 0


def test_users_random_numbers_are_left_alone(mixed: Views) -> None:
    before = torch.get_rng_state()
    list(loader(mixed, BATCHES[:1]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batches", [[[0, 12]], [[-1]], [[0], []]], ids=str)
def test_wrong_indices(mixed: Views, batches: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"batches: .* from 0 to 11"):
        loader(mixed, batches)


def test_negative_number_of_workers(mixed: Views) -> None:
    with pytest.raises(ValueError, match="workers: -1 given"):
        loader(mixed, BATCHES, -1)


def test_no_regions_no_batch_of_them(tmp_path: Path) -> None:
    layouts.save_jpeg(tmp_path / "a.jpg", Drawn((30, 30), ()))
    (batch,) = loader(Views(open_dataset("folder", tmp_path), SMALL, photo_regions=True), [[0]])
    assert batch.regions is None
    assert batch.photo_regions is None
    assert batch.images.shape == (1, 3, 24, 24)


def test_views_of_differing_sizes_are_refused(tmp_path: Path) -> None:
    layouts.save_jpeg(tmp_path / "a.jpg", Drawn((30, 30), ()))
    with pytest.raises(ValueError, match=r"--crop 224.*--resize 224x224"):
        Views(open_dataset("folder", tmp_path), Preprocessing(crop=None))


def test_a_photo_smaller_than_the_crop(tmp_path: Path) -> None:
    layouts.save_jpeg(tmp_path / "a.jpg", Drawn((30, 30), ()))
    view = Views(open_dataset("folder", tmp_path), Preprocessing(resize=None, crop=(40, 40)))[0]
    assert isinstance(view, BadView)
    assert "a.jpg" in view.reason
    assert "crop of 40x40" in view.reason


def test_regions_refer_to_pixels_as_stored(tmp_path: Path) -> None:
    """A photo that its EXIF entry turns: the annotation was drawn on it lying, and so it is looked at."""
    drawn = Drawn((60, 40), ((5, 5, 30, 35),))
    exif = Image.Exif()
    exif[0x0112] = 6
    layouts.save_jpeg(tmp_path / "a.jpg", drawn, exif=exif)
    box = (Box(5, 5, 30, 35),)
    for upright, size in ((False, (40, 60)), (True, (60, 40))):
        sample = Sample(name="a", path=tmp_path / "a.jpg", boxes=box, upright=upright)
        dataset = PhotoFiles(name="test", root=tmp_path, samples=(sample,), has_regions=True)
        view = Views(dataset, Preprocessing(resize=size, crop=None))[0]
        assert isinstance(view, View)
        assert view.region is not None
        assert bool(((view.image[0] > 128) == view.region).all()) == (not upright)


def test_what_one_file_holds_is_not_read_whole_for_every_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ahead for a GPU: of each photo its own pixels, once."""
    names = [f"n01440764_{i}" for i in range(4)]
    drawn = {name: Drawn((40 + i, 30), ((5, 5, 20, 20),)) for i, name in enumerate(names)}
    dataset = open_dataset("imagenet-segmentation", layouts.imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", drawn))
    asked: list[str] = []
    pixels = type(dataset).pixels

    def noted(self: DataSet, sample: Sample) -> Tensor | None:
        asked.append(sample.name)
        return pixels(self, sample)

    monkeypatch.setattr(type(dataset), "pixels", noted)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read whole"))
    views = Views(dataset, SMALL)

    def as_on_gpu(indices: Sequence[int], contents: Sequence[bytes | Tensor | None]) -> list[View | BadView]:
        """On the device that is there."""
        return [views._view(i, photo) for i, photo in zip(indices, views._on_gpu(indices, contents), strict=True)]

    monkeypatch.setattr(views, "views", as_on_gpu)
    found = list(_on_gpu(views, [[0, 1], [2, 3]], workers=2))
    assert sorted(asked) == names
    assert [batch.indices for batch in found] == [(0, 1), (2, 3)]
    monkeypatch.undo()
    for batch, expected in zip(found, loader(Views(dataset, SMALL), [[0, 1], [2, 3]]), strict=True):
        assert torch.equal(batch.images, expected.images)


def test_a_damaged_mask_is_a_bad_view(tmp_path: Path) -> None:
    path = layouts.imagenet_segmentation(
        tmp_path / "gtsegs_ijcv.mat", {"n01440764_1": Drawn((40, 30), ((5, 5, 20, 20),))}
    )
    dataset = open_dataset("imagenet-segmentation", path)
    layouts.imagenet_segmentation(path, {})
    view = Views(dataset, SMALL)[0]
    assert isinstance(view, BadView)
    assert "gtsegs_ijcv.mat" in view.reason
