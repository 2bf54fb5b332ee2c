"""Each data set in its own form on disk: labels, names, and regions that lie where the rectangles are seen."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode

from fastcam.datasets import DataSet, View, Views, open_dataset
from fastcam.datasets.coco import Coco
from fastcam.models.loading import EMBEDDED_PREPROCESSING
from fastcam.models.preprocessing import Preprocessing

from . import layouts
from .layouts import Drawn

WIDE = Drawn((120, 80), ((30, 20, 75, 66),))
TALL = Drawn((80, 130), ((12, 30, 70, 71),))
TWO = Drawn((140, 90), ((20, 10, 60, 50), (84, 40, 121, 83)))

PREPROCESSINGS = {
    "crop": Preprocessing(resize=64, crop=(56, 56)),
    "no crop": Preprocessing(resize=(60, 50), crop=None),
    "enlarged": Preprocessing(resize=150, crop=(140, 130)),
    "embedded": EMBEDDED_PREPROCESSING,
    "bicubic": Preprocessing(resize=70, crop=(64, 48), interpolation=InterpolationMode.BICUBIC),
}


def imagenet_sorted(root: Path) -> DataSet:
    for number, (wnid, drawn) in enumerate([("n01440764", WIDE), ("n15075141", TALL), ("n02123045", TWO)], start=1):
        layouts.save_jpeg(root / "val" / wnid / f"{layouts.val_name(number)}.JPEG", drawn)
        layouts.imagenet_xml(root / "bbox" / "val", layouts.val_name(number), wnid, drawn)
    return open_dataset("imagenet", root)


def imagenet_flat(root: Path) -> DataSet:
    """With the devkit's ids, of which no order is that of the WordNet ids."""
    ids = {1: "n02123045", 2: "n15075141", 3: "n01440764", 1001: "n00001740"}
    for number, (wnid, drawn) in enumerate([(1, WIDE), (3, TALL), (2, TWO), (3, WIDE)], start=1):
        layouts.save_jpeg(root / f"{layouts.val_name(number)}.JPEG", drawn)
        layouts.imagenet_xml(root / "val", layouts.val_name(number), ids[wnid], drawn)
    layouts.devkit(root, ids, [1, 3, 2, 3])
    return open_dataset("imagenet", root)


def imagenet_kaggle(root: Path) -> DataSet:
    """No devkit: the annotations alone tell the classes."""
    for number, (wnid, drawn) in enumerate([("n02123045", TALL), ("n01440764", WIDE)], start=1):
        layouts.save_jpeg(root / "ILSVRC/Data/CLS-LOC/val" / f"{layouts.val_name(number)}.JPEG", drawn)
        layouts.imagenet_xml(root / "ILSVRC/Annotations/CLS-LOC/val", layouts.val_name(number), wnid, drawn)
    return open_dataset("imagenet", root)


def voc07(root: Path) -> DataSet:
    both = [("dog", 0, False), ("dog", 1, True)]
    layouts.voc07(root, {"000001": (WIDE, [("aeroplane", 0, False)]), "000002": (TWO, both), "000004": (TALL, [])})
    return open_dataset("voc07", root)


def coco14(root: Path) -> DataSet:
    names = {1: "person", 18: "dog", 90: "toothbrush"}
    photos = {
        "COCO_val2014_000000000042.jpg": (WIDE, [(90, 0, False)]),
        "COCO_val2014_000000000073.jpg": (TWO, [(18, 0, False), (18, 1, True)]),
        "COCO_val2014_000000000074.jpg": (TALL, []),
    }
    layouts.coco14(root, photos, names)
    return open_dataset("coco14", root)


def imagenet_segmentation(root: Path) -> DataSet:
    layouts.imagenet_segmentation(
        root / "gtsegs_ijcv.mat", {"n01440764_10": WIDE, "n15075141_2": TALL, "n02123045_7": TWO}
    )
    return open_dataset("imagenet-segmentation", root)


MAKERS: dict[str, tuple[Callable[[Path], DataSet], list[tuple[str, int]]]] = {
    "imagenet by synset": (
        imagenet_sorted,
        [
            ("n01440764/ILSVRC2012_val_00000001.JPEG", 0),
            ("n02123045/ILSVRC2012_val_00000003.JPEG", 281),
            ("n15075141/ILSVRC2012_val_00000002.JPEG", 999),
        ],
    ),
    "imagenet flat": (
        imagenet_flat,
        [(f"ILSVRC2012_val_0000000{number}.JPEG", label) for number, label in ((1, 281), (2, 0), (3, 999), (4, 0))],
    ),
    "imagenet from kaggle": (
        imagenet_kaggle,
        [("ILSVRC2012_val_00000001.JPEG", 281), ("ILSVRC2012_val_00000002.JPEG", 0)],
    ),
    "voc07": (voc07, [("000001.jpg#aeroplane", 0), ("000002.jpg#dog", 11)]),
    "coco14": (
        coco14,
        [("COCO_val2014_000000000042.jpg#toothbrush", 79), ("COCO_val2014_000000000073.jpg#dog", 16)],
    ),
    "imagenet-segmentation": (
        imagenet_segmentation,
        [("n01440764_10", 0), ("n15075141_2", 999), ("n02123045_7", 281)],
    ),
}


@pytest.fixture(scope="module", params=MAKERS, ids=str)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataSet, list[tuple[str, int]]]:
    make, expected = MAKERS[request.param]
    return make(tmp_path_factory.mktemp("data")), expected


def assert_agree(image: Tensor, region: Tensor) -> None:
    """Red where the region is, blue elsewhere, except within a pixel of the region's edge."""
    red = image[0].int() > image[2].int()
    grown = F.max_pool2d(region.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
    shrunk = F.max_pool2d((~region).float()[None, None], 3, stride=1, padding=1)[0, 0] == 0
    assert shrunk.sum() > 100
    assert (~grown).sum() > 100
    assert red[shrunk].all()
    assert not red[~grown].any()


def test_names_and_labels(made: tuple[DataSet, list[tuple[str, int]]]) -> None:
    dataset, expected = made
    assert [(sample.name, sample.label) for sample in dataset.samples] == expected
    assert dataset.has_regions


@pytest.mark.parametrize("geometry", PREPROCESSINGS, ids=str)
def test_region_and_photo_agree(made: tuple[DataSet, list[tuple[str, int]]], geometry: str) -> None:
    dataset, _ = made
    preprocessing = PREPROCESSINGS[geometry]
    views = Views(dataset, preprocessing, photo_regions=True)
    assert len(views) == len(dataset.samples)
    for index in range(len(views)):
        view = views[index]
        assert isinstance(view, View)
        assert view.index == index
        assert view.image.dtype == torch.uint8
        assert view.region is not None
        assert (3, *view.region.shape) == tuple(view.image.shape)
        assert view.region.shape == preprocessing.size
        assert_agree(view.image, view.region)


def test_region_at_the_photos_size(made: tuple[DataSet, list[tuple[str, int]]]) -> None:
    """Without a crop it is the rectangles themselves, pixel by pixel."""
    dataset, _ = made
    views = Views(dataset, PREPROCESSINGS["no crop"], photo_regions=True)
    for index in range(len(views)):
        view = views[index]
        assert isinstance(view, View)
        assert view.photo_region is not None
        drawn = next(d for d in (WIDE, TALL, TWO) if d.size == tuple(view.photo_region.shape)[::-1])
        expected = torch.from_numpy(layouts.pixels(drawn)[:, :, 0] == layouts.RED[0])
        assert torch.equal(view.photo_region, expected)


def test_region_at_the_photos_size_under_a_crop(tmp_path: Path) -> None:
    """What the view shows of it: the middle 80 x 80 of 120 x 80 pixels."""
    view = Views(voc07(tmp_path), Preprocessing(resize=40, crop=(40, 40)), photo_regions=True)[0]
    assert isinstance(view, View)
    expected = torch.from_numpy(layouts.pixels(WIDE)[:, 20:100, 0] == layouts.RED[0])
    assert view.photo_region is not None
    assert torch.equal(view.photo_region, expected)


def test_coco_masks_are_unions_of_shapes_not_boxes(tmp_path: Path) -> None:
    drawn = Drawn((60, 40), ((10, 5, 50, 35),))
    path = layouts.coco14(tmp_path, {"a.jpg": (drawn, [(1, 0, False)])}, {1: "person"})
    text = path.read_text()
    # A triangle instead of the rectangle: below the diagonal.
    path.write_text(text.replace("[10, 5, 50, 5, 50, 35, 10, 35]", "[10, 5, 50, 35, 10, 35]"))
    assert path.read_text() != text
    dataset = open_dataset("coco14", tmp_path)
    assert isinstance(dataset, Coco)
    mask = dataset.mask(dataset.samples[0])
    assert mask is not None
    assert mask.shape == (40, 60)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    below = (x > 10) & (y < 35) & (y - 5 > (x - 10) * 30 / 40)
    assert (mask != below).sum() < 60
    assert 500 < mask.sum() < 700


def test_a_cropped_away_box_leaves_an_empty_region(tmp_path: Path) -> None:
    drawn = Drawn((200, 50), ((0, 0, 40, 50),))
    layouts.voc07(tmp_path, {"000001": (drawn, [("cat", 0, False)])})
    view = Views(open_dataset("voc07", tmp_path), Preprocessing(resize=32, crop=(32, 32)))[0]
    assert isinstance(view, View)
    assert view.region is not None
    assert not view.region.any()


@pytest.mark.parametrize("scale", [0.5, 2], ids=["smaller", "larger"])
def test_a_photo_scaled_since_it_was_annotated(tmp_path: Path, scale: float) -> None:
    layouts.voc07(tmp_path, {"000001": (WIDE, [("cat", 0, False)])})
    numbers = tuple(round(n * scale) for n in WIDE.rectangles[0])
    scaled = Drawn((round(120 * scale), round(80 * scale)), (numbers,))  # type: ignore[arg-type]
    layouts.save_jpeg(tmp_path / "VOCdevkit/VOC2007/JPEGImages/000001.jpg", scaled)
    view = Views(open_dataset("voc07", tmp_path), PREPROCESSINGS["crop"], photo_regions=True)[0]
    assert isinstance(view, View)
    assert view.region is not None
    assert_agree(view.image, view.region)


def test_pointing_games_difficult_subset(tmp_path: Path) -> None:
    """Below a quarter of the photo, and not alone in it."""
    drawn = Drawn((100, 100), ((0, 0, 50, 49), (0, 0, 50, 50), (50, 50, 70, 70), (60, 0, 100, 40)))
    voc = {
        "000001": (drawn, [("cat", 0, False), ("dog", 1, False)]),  # 2450 and 2500 of 10000
        "000002": (drawn, [("cat", 2, False)]),  # small, alone
        "000003": (drawn, [("cat", 2, False), ("cat", 3, True), ("cow", 2, True)]),  # 2000 together; all cows flagged
        "000004": (drawn, [("cat", 0, False), ("cat", 2, False), ("cow", 2, False)]),  # 2850 together
    }
    layouts.voc07(tmp_path / "voc", voc)
    found = {sample.name: sample.difficult for sample in open_dataset("voc07", tmp_path / "voc").samples}
    assert found == {
        "000001.jpg#cat": True,
        "000001.jpg#dog": False,
        "000002.jpg#cat": False,
        "000003.jpg#cat": True,
        "000004.jpg#cat": False,
        "000004.jpg#cow": True,
    }
    ids = {"cat": 17, "dog": 18, "cow": 21}
    coco = {f"{key}.jpg": (drawn, [(ids[n], r, False) for n, r, _ in objects]) for key, (_, objects) in voc.items()}
    layouts.coco14(tmp_path / "coco", coco, {number: name for name, number in ids.items()})
    others = {sample.name: sample.difficult for sample in open_dataset("coco14", tmp_path / "coco").samples}
    assert others == {**found, "000003.jpg#cow": True}


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    """VOC photos for a model with other outputs; -1 leaves a class out."""
    objects = [("cat", 0, False), ("dog", 0, False)]
    layouts.voc07(tmp_path, {"000001": (WIDE, objects)})
    table = layouts.write(tmp_path / "classes.toml", "cat = 281\ndog = -1\n")
    samples = open_dataset("voc07", tmp_path, classes=table).samples
    assert [(sample.name, sample.label) for sample in samples] == [("000001.jpg#cat", 281)]


def test_sample_photos_of_imagenet() -> None:
    root = Path(__file__).resolve().parents[2].parent / "shared" / "imagenet-sample"
    if not root.is_dir():
        pytest.skip("the sample photos are not there")
    dataset = open_dataset("imagenet", root)
    assert [sample.label for sample in dataset.samples] == list(range(5, 1000, 10))
    for sample in dataset.samples:
        assert sample.label == int(sample.path.stem.split("_")[1])
    view = Views(dataset, Preprocessing())[3]
    assert isinstance(view, View)
    assert view.image.shape == (3, 224, 224)
