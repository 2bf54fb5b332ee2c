"""Missing, half-extracted and inconsistent data sets: what was expected, what was found, what to do."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fastcam.datasets import open_dataset

from . import layouts
from .layouts import Drawn, save_jpeg, val_name, write

PHOTO = Drawn((40, 30), ((5, 5, 20, 20),))


@pytest.mark.parametrize("name", ["imagenet", "voc07", "coco14", "imagenet-segmentation", "folder"])
class TestAnyDataSet:
    def test_no_folder(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=rf"data set {name}: .*{tmp_path / 'nowhere'}"):
            open_dataset(name, tmp_path / "nowhere")

    def test_empty_folder(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=rf"data set {name}: .*found nothing"):
            open_dataset(name, tmp_path)


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data set: 'voc12' given, one of 'imagenet', 'voc07'"):
        open_dataset("voc12", tmp_path)


def test_annotations_for_a_data_set_without(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations: .* given; only imagenet and coco14"):
        open_dataset("voc07", tmp_path, annotations=tmp_path)


# -- ImageNet


def sorted_photos(root: Path, *, xml: bool = True) -> None:
    for number, wnid in enumerate(("n01440764", "n02123045"), start=1):
        save_jpeg(root / "val" / wnid / f"{val_name(number)}.JPEG", PHOTO)
        if xml:
            layouts.imagenet_xml(root / "bbox" / "val", val_name(number), wnid, PHOTO)


def flat_photos(root: Path, count: int = 2) -> None:
    for number in range(1, count + 1):
        save_jpeg(root / "val" / f"{val_name(number)}.JPEG", PHOTO)
    layouts.devkit(root, {1: "n02123045", 2: "n01440764"}, [1, 2])


def empty_class(root: Path) -> None:
    sorted_photos(root)
    (root / "val" / "n15075141").mkdir()


def unknown_synset(root: Path) -> None:
    sorted_photos(root, xml=False)
    save_jpeg(root / "val" / "n01440765" / "a.JPEG", PHOTO)


def missing_xml(root: Path) -> None:
    sorted_photos(root)
    (root / "bbox" / "val" / f"{val_name(2)}.xml").unlink()


def swapped_xml(root: Path) -> None:
    sorted_photos(root)
    layouts.imagenet_xml(root / "bbox" / "val", val_name(1), "n02123045", PHOTO)


def broken_xml(root: Path) -> None:
    sorted_photos(root)
    path = root / "bbox" / "val" / f"{val_name(1)}.xml"
    path.write_text(path.read_text()[:150])


def xml_without_size(root: Path) -> None:
    sorted_photos(root)
    path = root / "bbox" / "val" / f"{val_name(1)}.xml"
    path.write_text(path.read_text().replace("<width>40</width>", ""))


def backward_box(root: Path) -> None:
    sorted_photos(root)
    path = root / "bbox" / "val" / f"{val_name(1)}.xml"
    path.write_text(path.read_text().replace("<xmax>19</xmax>", "<xmax>2</xmax>"))


def flat_alone(root: Path) -> None:
    save_jpeg(root / f"{val_name(1)}.JPEG", PHOTO)


def flat_photo_missing(root: Path) -> None:
    flat_photos(root)
    (root / "val" / f"{val_name(1)}.JPEG").unlink()


def flat_photo_too_many(root: Path) -> None:
    flat_photos(root, 3)


def broken_meta(root: Path) -> None:
    flat_photos(root)
    meta = root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    meta.write_bytes(meta.read_bytes()[:200])


def broken_truth(root: Path) -> None:
    flat_photos(root)
    write(root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "1\nn01440764\n")


def truth_of_another_set(root: Path) -> None:
    flat_photos(root)
    write(root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "1\n7\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty_class, r"1 of 3 class folders in .*val are empty \(n15075141\); extract ILSVRC2012_img_val.tar"),
        (unknown_synset, r"class 'n01440765' is not in the class table.*close names: n01440764"),
        (missing_xml, r"1 of 2 photos have none \(ILSVRC2012_val_00000002.JPEG\); extract ILSVRC2012_bbox_val_v3.tgz"),
        (swapped_xml, r"ILSVRC2012_val_00000001.JPEG is of n01440764, its annotation of n02123045"),
        (broken_xml, r"annotation .*ILSVRC2012_val_00000001.xml is unreadable"),
        (xml_without_size, r"annotation .*ILSVRC2012_val_00000001.xml is unreadable or not in PASCAL VOC's format"),
        (backward_box, r"annotation .*00000001.xml .* a box from \(5, 5\) to \(2, 19\)"),
        (flat_alone, r"holds 1 photos and nothing tells their classes; extract ILSVRC2012_devkit_t12.tar.gz"),
        (flat_photo_missing, r"has 2 lines, .*val 1 photos \(photo 1 is missing\); extract ILSVRC2012_img_val.tar"),
        (flat_photo_too_many, r"has 2 lines, .*val 3 photos \(photo 3 is not in it\)"),
        (broken_meta, r"meta.mat cannot be read .*; extract ILSVRC2012_devkit_t12.tar.gz again"),
        (broken_truth, r"ground_truth.txt cannot be read .*n01440764.*; extract ILSVRC2012_devkit_t12.tar.gz again"),
        (truth_of_another_set, r"ground_truth.txt has the class 7, which is not in .*meta.mat"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_imagenet(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset("imagenet", tmp_path)


def test_imagenet_annotations_elsewhere(tmp_path: Path) -> None:
    sorted_photos(tmp_path, xml=False)
    assert not open_dataset("imagenet", tmp_path).has_regions
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"annotations .*empty: no XML file there; found nothing"):
        open_dataset("imagenet", tmp_path, annotations=tmp_path / "empty")
    for number, wnid in ((1, "n01440764"), (2, "n02123045")):
        layouts.imagenet_xml(tmp_path / "marks" / "val", val_name(number), wnid, PHOTO)
    dataset = open_dataset("imagenet", tmp_path, annotations=tmp_path / "marks")
    assert dataset.has_regions
    assert all(sample.boxes for sample in dataset.samples)


# -- VOC


def voc(root: Path) -> Path:
    return layouts.voc07(root, {"000001": (PHOTO, [("cat", 0, False)]), "000002": (PHOTO, [("dog", 0, False)])})


def voc_without(part: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        home = voc(root)
        (home / part).rename(root / "elsewhere")

    make.__name__ = f"voc without {part}"
    return make


def voc_of_another_photo(root: Path) -> None:
    home = voc(root)
    (home / "Annotations/000001.xml").write_bytes((home / "Annotations/000002.xml").read_bytes())


def voc_unknown_class(root: Path) -> None:
    layouts.voc07(root, {"000001": (PHOTO, [("motorbikes", 0, False)])})


def voc_empty(root: Path) -> None:
    layouts.voc07(root, {"000001": (PHOTO, [("cat", 0, True)])})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (voc_without("ImageSets/Main/test.txt"), r"VOC2007 lacks ImageSets/Main/test.txt; found .*Extract VOCtest_06"),
        (voc_without("Annotations"), r"VOC2007 lacks Annotations; found ImageSets/, JPEGImages/"),
        (
            voc_without("JPEGImages"),
            r"lacks JPEGImages, .*found VOCdevkit/, elsewhere/. Extract VOCtest_06-Nov-2007.tar",
        ),
        (voc_without("JPEGImages/000002.jpg"), r"1 of the 2 photos .* no file in .*JPEGImages \(000002.jpg\)"),
        (voc_without("Annotations/000001.xml"), r"1 of the 2 photos .* no file in .*Annotations \(000001.xml\)"),
        (voc_of_another_photo, r"000001.xml is of the photo '000002.jpg'; 000001.jpg was expected"),
        (voc_unknown_class, r"000001.xml: class 'motorbikes' is not in the class table.*close names: motorbike"),
        (voc_empty, r"no class of the table is in the 1 photos"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_voc07(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset("voc07", tmp_path)


def test_a_table_that_names_no_class_of_voc(tmp_path: Path) -> None:
    voc(tmp_path)
    with pytest.raises(ValueError, match="'kat' is no class of this data set; close names: cat"):
        open_dataset("voc07", tmp_path, classes={"kat": 1, "dog": 2})
    with pytest.raises(ValueError, match="class 'dog' is not in the class table of 1 names"):
        open_dataset("voc07", tmp_path, classes={"cat": 1})


# -- COCO


def coco(root: Path) -> Path:
    return layouts.coco14(
        root, {"a.jpg": (PHOTO, [(17, 0, False)]), "b.jpg": (PHOTO, [(18, 0, True)])}, {17: "cat", 18: "dog"}
    )


def changed_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        path = coco(root)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return make


def coco_without_json(root: Path) -> None:
    coco(root).unlink()


def coco_without_photos(root: Path) -> None:
    coco(root)
    (root / "val2014").rename(root / "train2014")


def coco_half_extracted(root: Path) -> None:
    coco(root)
    (root / "val2014" / "b.jpg").unlink()


def coco_cut_off(root: Path) -> None:
    path = coco(root)
    path.write_text(path.read_text()[:-40])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (coco_without_json, r"instances_val2014.json does not exist. Extract annotations_trainval2014.zip"),
        (coco_without_photos, r"lacks val2014; found annotations/, train2014/. Extract val2014.zip"),
        (coco_half_extracted, r"1 of the 2 photos in .* are not in .*val2014 \(b.jpg\); extract val2014.zip again"),
        (coco_cut_off, r"instances_val2014.json: cannot be read .*extract annotations_trainval2014.zip again"),
        (changed_json(lambda c: c.pop("categories")), r"lacks 'categories'; instances_val2014.json was expected"),
        (changed_json(lambda c: c["annotations"][0].pop("segmentation")), r"KeyError: 'segmentation'"),
        (
            changed_json(lambda c: c["annotations"][0].update(image_id=5)),
            r"object 1 is in photo 5, which is not listed",
        ),
        (changed_json(lambda c: c["categories"][0].update(name="catt")), r"class 'catt' .*close names: cat"),
        (changed_json(lambda c: c["annotations"].clear()), r"no class of the table is in the photos"),
    ],
)
def test_coco14(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset("coco14", tmp_path)


def test_coco_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = coco(tmp_path)
    dataset = open_dataset("coco14", tmp_path, annotations=path)
    assert all(dataset.mask(sample) is not None for sample in dataset.samples)
    assert capfd.readouterr() == ("", "")


# -- ImageNet-Segmentation


def segmentation_cut_off(path: Path) -> None:
    layouts.imagenet_segmentation(path, {"n01440764_1": PHOTO})
    path.write_bytes(path.read_bytes()[:700])


def segmentation_of_another_kind(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["value/img"] = np.zeros((1, 1))


def segmentation_without_references(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for key in ("img", "gt", "id"):
            file[f"value/{key}"] = np.zeros((1, 1))


def segmentation_with_fewer_masks(path: Path) -> None:
    layouts.imagenet_segmentation(path, {"n01440764_1": PHOTO, "n01440764_2": PHOTO})
    with h5py.File(path, "a") as file:
        kept = file["value/gt"][:1]
        del file["value/gt"]
        file.create_dataset("value/gt", data=kept, dtype=h5py.ref_dtype)


def segmentation_of_an_unknown_class(path: Path) -> None:
    layouts.imagenet_segmentation(path, {"n00000001_1": PHOTO})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (segmentation_cut_off, r"gtsegs_ijcv.mat cannot be read .*Download gtsegs_ijcv.mat again"),
        (segmentation_of_another_kind, r"cannot be read .*value/img and value/gt were expected"),
        (segmentation_without_references, r"cannot be read"),
        (segmentation_with_fewer_masks, r"has 2 photos and 1 masks"),
        (segmentation_of_an_unknown_class, r"photo n00000001_1: class 'n00000001' is not in the class table"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_imagenet_segmentation(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "gtsegs_ijcv.mat")
    with pytest.raises(ValueError, match=message):
        open_dataset("imagenet-segmentation", tmp_path)


@pytest.mark.parametrize("twice", [False, True], ids=["no names", "a name twice"])
def test_photos_without_names_of_their_own(tmp_path: Path, twice: bool) -> None:
    path = layouts.imagenet_segmentation(tmp_path / "a.mat", {"n01440764_1": PHOTO, "n01440764_2": PHOTO}, names=twice)
    if twice:
        with h5py.File(path, "a") as file:
            file["value/id"][1, 0] = file["value/id"][0, 0]
    samples = open_dataset("imagenet-segmentation", path).samples
    expected = [("n01440764_1#0", 0), ("n01440764_1#1", 0)] if twice else [("0000", None), ("0001", None)]
    assert [(sample.name, sample.label) for sample in samples] == expected


# -- packages that are not there


@pytest.mark.parametrize(
    ("name", "package"), [("imagenet", "scipy"), ("coco14", "pycocotools"), ("imagenet-segmentation", "h5py")]
)
def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    flat_photos(tmp_path)
    coco(tmp_path)
    layouts.imagenet_segmentation(tmp_path / "gtsegs_ijcv.mat", {"n01440764_1": PHOTO})
    real = builtins.__import__

    def without(module: str, *arguments: Any, **options: Any) -> Any:
        if module.split(".")[0] == package:
            raise ImportError(package)
        return real(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'fastcam\[eval\]'"):
        open_dataset(name, tmp_path)
