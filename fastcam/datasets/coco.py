"""COCO 2014 val, one sample for each category in a photo."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classes import COCO_CLASSES, LEFT_OUT, ClassTable, check_table, class_index, numbered
from .folders import check_folder, contents, first_folder, some
from .sample import Box, Sample

_PHOTOS = "val2014.zip"
_ANNOTATIONS = "annotations_trainval2014.zip"


@dataclass(frozen=True, kw_only=True)
class Coco:
    """COCO: masks are kept run-length encoded, some 200 bytes each.

    encoded: by the sample's name, the union of the category's masks: (height, width) and pycocotools' counts.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    has_regions: bool = True
    classes: int | None = None
    encoded: Mapping[str, tuple[tuple[int, int], bytes]] = field(repr=False)

    def pixels(self, sample: Sample) -> Tensor | None:
        """None: every photo is a file."""
        return None

    def mask(self, sample: Sample) -> Tensor | None:
        """The union of the category's masks."""
        size, counts = self.encoded[sample.name]
        with warnings.catch_warnings():
            # pycocotools' arrays do not know numpy 2's way of copying, and numpy says so each time.
            warnings.simplefilter("ignore", DeprecationWarning)
            mask: np.ndarray[Any, np.dtype[np.uint8]] = _pycocotools().decode({"size": list(size), "counts": counts})
        return torch.from_numpy(mask.astype(bool))


def open_coco14(root: Path, *, annotations: Path | None = None, classes: ClassTable | None = None) -> Coco:
    """COCO 2014 val: `root/val2014/*.jpg` and `root/annotations/instances_val2014.json` (or the file `annotations`).

    A category's region in a photo is the union of its masks, crowds included; its boxes are kept too. The pointing
    game's difficult subset: the masks' areas sum to less than a quarter of the photo, and there is another category in
    it (Zhang et al. 2018, https://arxiv.org/abs/1608.00507, section 4.1). Photos without objects give no sample.

    Raises:
        ValueError: files are missing, unreadable or do not match, or `classes` does not fit.
        ModuleNotFoundError: pycocotools is not installed.
    """
    _pycocotools()
    check_folder(root, name="coco14")
    table = numbered(COCO_CLASSES) if classes is None else check_table(classes, COCO_CLASSES, source="--classes")
    folder = first_folder((root / "val2014" / "val2014", root / "val2014", root / "images" / "val2014"))
    if folder is None:
        raise ValueError(
            f"data set coco14: {root} lacks val2014; found {contents(root)}. Extract {_PHOTOS} and {_ANNOTATIONS} there"
        )
    path = annotations or root / "annotations" / "instances_val2014.json"
    content = _read(path, root)
    try:
        samples, encoded = _samples(content, folder, table, where=str(path))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"annotations {path}: not in the format of COCO's instances ({type(error).__name__}: {error}); extract "
            f"{_ANNOTATIONS} again"
        ) from error
    if not samples:
        raise ValueError(f"data set coco14: no class of the table is in the photos of {path}")
    own = len(COCO_CLASSES) if classes is None else None
    return Coco(name="coco14", root=root, samples=tuple(samples), encoded=encoded, classes=own)


def _pycocotools() -> Any:
    # The module of masks alone: pycocotools.coco prints at every step and keeps the whole file as Python objects.
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ModuleNotFoundError(
            "COCO's masks are read by pycocotools, which is not installed: pip install 'fastcam[eval]'"
        ) from error
    return mask


def _read(path: Path, root: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as stream:
            content = json.load(stream)
    except FileNotFoundError:
        raise ValueError(f"data set coco14: {path} does not exist. Extract {_ANNOTATIONS} into {root}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"annotations {path}: cannot be read ({error}); extract {_ANNOTATIONS} again") from error
    lacking = [key for key in ("images", "annotations", "categories") if key not in content]
    if lacking:
        raise ValueError(
            f"annotations {path}: lacks {', '.join(map(repr, lacking))}; instances_val2014.json was expected"
        )
    found: Mapping[str, Any] = content
    return found


def _samples(
    content: Mapping[str, Any], folder: Path, table: ClassTable, *, where: str
) -> tuple[list[Sample], dict[str, tuple[tuple[int, int], bytes]]]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    labels = {key: class_index(name, table, where=f"annotations {where}") for key, name in names.items()}
    images = {image["id"]: image for image in content["images"]}
    there = {path.name for path in folder.iterdir()}
    missing = [image["file_name"] for image in images.values() if image["file_name"] not in there]
    if missing:
        raise ValueError(
            f"data set coco14: {len(missing)} of the {len(images)} photos in {where} are not in {folder} "
            f"({some(missing)}); extract {_PHOTOS} again"
        )
    objects: dict[int, dict[int, list[Mapping[str, Any]]]] = {}
    for mark in content["annotations"]:
        if mark["image_id"] not in images:
            raise ValueError(
                f"annotations {where}: object {mark['id']} is in photo {mark['image_id']}, which is not listed"
            )
        objects.setdefault(mark["image_id"], {}).setdefault(mark["category_id"], []).append(mark)
    samples: list[Sample] = []
    encoded: dict[str, tuple[tuple[int, int], bytes]] = {}
    for image_id in sorted(objects, key=lambda key: str(images[key]["file_name"])):
        image, present = images[image_id], objects[image_id]
        size = int(image["height"]), int(image["width"])
        for category in sorted(present):
            if labels[category] == LEFT_OUT:
                continue
            marks = present[category]
            sample = Sample(
                name=f"{image['file_name']}#{names[category]}",
                path=folder / image["file_name"],
                label=labels[category],
                boxes=tuple(_box(mark["bbox"]) for mark in marks),
                difficult=len(present) > 1 and sum(float(m["area"]) for m in marks) < size[0] * size[1] / 4,
                annotated=(size[1], size[0]),
                upright=False,
            )
            samples.append(sample)
            encoded[sample.name] = size, _union((mark["segmentation"] for mark in marks), size)
    return samples, encoded


def _box(numbers: Sequence[float]) -> Box:
    x, y, width, height = map(float, numbers)
    return Box(x, y, x + width, y + height)


def _union(segmentations: Iterable[Any], size: tuple[int, int]) -> bytes:
    """Run lengths of the union of polygons, plain and compressed run lengths."""
    coder = _pycocotools()
    coded: list[Any] = []
    for segmentation in segmentations:
        if isinstance(segmentation, list):
            coded += coder.frPyObjects(segmentation, *size) if segmentation else []
        elif isinstance(segmentation["counts"], list):
            coded.append(coder.frPyObjects(segmentation, *size))
        else:
            coded.append(segmentation)
    counts: bytes = coder.merge(coded)["counts"]
    return counts
