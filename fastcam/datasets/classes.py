"""Which output of a model stands for which class of a data set."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

# From a class's name in the data set to the index of the model's output; LEFT_OUT for classes not to be looked at.
ClassTable = Mapping[str, int]
LEFT_OUT = -1

# Models trained on VOC or COCO number their outputs in these orders: VOC's by alphabet, COCO's by category id (the ids
# themselves run to 90 with gaps).
# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

_FORMS = (
    "TOML or JSON with NAME = INDEX, JSON as imagenet_class_index.json, or text with one name a line, class 0 first, "
    "or NAME = INDEX a line"
)


def numbered(names: Sequence[str]) -> ClassTable:
    """Each name with its position."""
    return {name: index for index, name in enumerate(names)}


@cache
def imagenet_table() -> ClassTable:
    """The 1000 WordNet ids of ILSVRC 2012 with their indices: their sorted order, which all published models follow."""
    return numbered(files("fastcam.datasets").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split())


def class_index(name: str, table: ClassTable, *, where: str) -> int:
    """The index of a class, LEFT_OUT included. `where` begins the message of the ValueError for an unknown name."""
    if name not in table:
        close = get_close_matches(name, table, n=3, cutoff=0.5)
        hint = f"; close names: {', '.join(close)}" if close else f"; the table begins with {', '.join([*table][:3])}"
        raise ValueError(
            f"{where}: class {name!r} is not in the class table of {len(table)} names{hint}. Give --classes FILE with "
            f"{name!r} and its index ({LEFT_OUT} leaves the class out)"
        )
    return table[name]


def check_table(table: ClassTable, known: Sequence[str], *, source: str) -> ClassTable:
    """The table, if it names only classes that a data set has; else ValueError with close names."""
    for name in table:
        if name not in known:
            close = get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
            raise ValueError(f"{source}: {name!r} is no class of this data set; close names: {', '.join(close)}")
    return table


def read_classes(path: Path) -> ClassTable:
    """A user's class table, in one of these forms, told apart by the file's ending and content:

    TOML (.toml): `tench = 0`, at the top or in a table [classes].
    JSON (.json): {"tench": 0}; ["tench", ...], class 0 first; or {"0": ["n01440764", "tench"]}, where the id counts
        and so does the name unless several classes have it.
    Text: one name a line, class 0 first; or `tench = 0` (or a tab for the =) on every line.

    An index of -1 leaves the class out of the evaluation.

    Raises:
        ValueError: the file cannot be read or is in none of these forms, or a name or an index is not valid.
    """
    where = f"classes {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any
        if path.suffix.lower() == ".toml":
            content = tomllib.loads(text)
            content = content.get("classes", content)
        elif path.suffix.lower() == ".json":
            content = json.loads(text)
        else:
            content = _lines(text, where=where)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where}: cannot be read ({error}); valid is {_FORMS}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        if len(set(content)) < len(content):
            twice = next(name for name in content if content.count(name) > 1)
            raise ValueError(f"{where}: {twice!r} stands in it twice; each class needs a name of its own")
        content = numbered(content)
    if isinstance(content, dict) and content and all(isinstance(v, list) and len(v) == 2 for v in content.values()):
        content = _from_class_index(content)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{where}: holds no class; valid is {_FORMS}")
    for name, index in content.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < LEFT_OUT:
            raise ValueError(f"{where}: {name!r} has index {index!r}; whole numbers from 0 are valid, and {LEFT_OUT}")
    return content


def _lines(text: str, *, where: str) -> list[str] | dict[str, int]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [re.fullmatch(r"(.*\S)\s*[=\t]\s*(-?\d+)", line) for line in lines]
    if not any(pairs):
        return lines
    table: dict[str, int] = {}
    for line, pair in zip(lines, pairs, strict=True):
        if pair is None:
            raise ValueError(f"{where}: line {line!r} has no index, others have; valid is {_FORMS}")
        if pair[1] in table:
            raise ValueError(f"{where}: {pair[1]!r} stands in it twice; each class needs a name of its own")
        table[pair[1]] = int(pair[2])
    return table


def _from_class_index(content: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    names = [name for _, name in content.values()]
    indexed = [(int(key) if key.isdecimal() else key, *pair) for key, pair in content.items()]
    table = {name: index for index, _, name in indexed if names.count(name) == 1}
    return {**table, **{wnid: index for index, wnid, _ in indexed}}
