"""Class tables: the built-in ones, and every form that a user's may have."""

import json
from pathlib import Path

import pytest
import torchvision

from fastcam.datasets import COCO_CLASSES, VOC_CLASSES, read_classes
from fastcam.datasets.classes import check_table, class_index, imagenet_table

from .layouts import write


def test_orders_of_the_built_in_tables() -> None:
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert len(set(VOC_CLASSES)) == 20
    assert len(set(COCO_CLASSES)) == 80


def test_coco_names_are_torchvisions() -> None:
    """Its detection models list the categories by id, with "N/A" for the gaps."""
    named = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert list(COCO_CLASSES) == [name for name in named if name not in ("__background__", "N/A")]


def test_voc_names_are_torchvisions() -> None:
    named = torchvision.models.segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert list(VOC_CLASSES) == [name for name in named if name != "__background__"]


def test_wordnet_ids_of_imagenet() -> None:
    table = imagenet_table()
    assert list(table) == sorted(table)
    assert list(table.values()) == list(range(1000))
    # Facts known from elsewhere: tench, great white shark, tabby, Samoyed, crane (the machine), toilet tissue.
    for wnid, index in (
        ("n01440764", 0),
        ("n01484850", 2),
        ("n02123045", 281),
        ("n02111889", 258),
        ("n03126707", 517),
        ("n15075141", 999),
    ):
        assert table[wnid] == index


CLASS_INDEX = {"0": ["n01440764", "tench"], "134": ["n02012849", "crane"], "517": ["n03126707", "crane"]}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param(
            "a.toml", 'tench = 0\n"tiger cat" = 282\nother = -1', {"tench": 0, "tiger cat": 282, "other": -1}, id="toml"
        ),
        pytest.param("a.toml", "[classes]\ntench = 5\n", {"tench": 5}, id="toml table"),
        pytest.param("a.json", '{"tench": 0, "tiger cat": 282}', {"tench": 0, "tiger cat": 282}, id="json"),
        pytest.param("a.json", '["cat", "dog"]', {"cat": 0, "dog": 1}, id="json list"),
        pytest.param(
            "imagenet_class_index.json",
            json.dumps(CLASS_INDEX),
            {"n01440764": 0, "tench": 0, "n02012849": 134, "n03126707": 517},
            id="json by index",
        ),
        pytest.param("a.txt", "\ufeffcat\nbig dog\n\n", {"cat": 0, "big dog": 1}, id="text"),
        pytest.param("a.txt", "cat = 7\nbig dog\t3\nrest=-1\n", {"cat": 7, "big dog": 3, "rest": -1}, id="text pairs"),
    ],
)
def test_forms_of_a_table(tmp_path: Path, name: str, text: str, expected: dict[str, int]) -> None:
    assert read_classes(write(tmp_path / name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.toml", "tench = ", "a.toml: cannot be read", id="broken toml"),
        pytest.param("a.json", '{"tench": 0', "a.json: cannot be read", id="broken json"),
        pytest.param("a.txt", "", "holds no class", id="empty"),
        pytest.param("a.json", "7", "holds no class", id="number"),
        pytest.param("a.txt", "cat = 1\ndog\n", "line 'dog' has no index", id="half with indices"),
        pytest.param("a.txt", "cat\ndog\ncat\n", "'cat' stands in it twice", id="twice"),
        pytest.param("a.txt", "cat = 1\ncat = 2\n", "'cat' stands in it twice", id="twice with indices"),
        pytest.param("a.toml", "cat = -2\n", "'cat' has index -2", id="negative"),
        pytest.param("a.toml", "cat = true\n", "'cat' has index True", id="boolean"),
        pytest.param("a.json", '{"cat": 1.5}', "'cat' has index 1.5", id="fraction"),
        pytest.param("a.json", '{"first": ["n01440764", "tench"]}', "has index 'first'", id="no number"),
    ],
)
def test_unusable_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_classes(write(tmp_path / name, text))


def test_missing_and_binary_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.txt: cannot be read"):
        read_classes(tmp_path / "nowhere.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"a.txt: cannot be read"):
        read_classes(tmp_path / "a.txt")


def test_unknown_classes_are_named_with_close_ones() -> None:
    with pytest.raises(ValueError, match=r"somewhere: class 'aeroplan' .*close names: aeroplane.*--classes FILE"):
        class_index("aeroplan", {name: i for i, name in enumerate(VOC_CLASSES)}, where="somewhere")
    with pytest.raises(ValueError, match="mytable: 'airplane' is no class of this data set; close names: aeroplane"):
        check_table({"airplane": 404}, VOC_CLASSES, source="mytable")
