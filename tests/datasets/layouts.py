"""Small data sets in the forms that the real archives have on disk: photos of red rectangles on blue."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

RED, BLUE = (230, 20, 20), (20, 20, 200)


@dataclass(frozen=True)
class Drawn:
    """A photo's (width, height) and its rectangles (left, top, right, bottom); right and bottom are outside."""

    size: tuple[int, int]
    rectangles: tuple[tuple[int, int, int, int], ...]


def pixels(drawn: Drawn) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(h, w, 3)."""
    width, height = drawn.size
    picture = np.full((height, width, 3), BLUE, dtype=np.uint8)
    for left, top, right, bottom in drawn.rectangles:
        picture[top:bottom, left:right] = RED
    return picture


def save_jpeg(path: Path, drawn: Drawn, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(drawn)).save(path, "JPEG", quality=95, subsampling=0, **options)


def voc_xml(
    filename: str,
    size: tuple[int, int],
    objects: Sequence[tuple[str, tuple[int, int, int, int], bool]],
) -> str:
    """An annotation; corners as the file is to have them."""
    marks = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{int(difficult)}</difficult>"
        f"<bndbox><xmin>{c[0]}</xmin><ymin>{c[1]}</ymin><xmax>{c[2]}</xmax><ymax>{c[3]}</ymax></bndbox></object>"
        for name, c, difficult in objects
    )
    return (
        f"<annotation><folder>f</folder><filename>{filename}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size><segmented>0</segmented>{marks}</annotation>"
    )


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def imagenet_xml(folder: Path, stem: str, wnid: str, drawn: Drawn) -> None:
    """As ILSVRC2012_bbox_val_v3.tgz has them: pixel indices from 0, both corners inside, no ending in the name."""
    corners = [(wnid, (left, top, right - 1, bottom - 1), False) for left, top, right, bottom in drawn.rectangles]
    write(folder / f"{stem}.xml", voc_xml(stem, drawn.size, corners))


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def devkit(root: Path, ids: Mapping[int, str], truth: Sequence[int]) -> None:
    """ILSVRC2012_devkit_t12: the ids of meta.mat and the ground truth's lines."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    write(data / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{i}\n" for i in truth))
    synsets = np.empty((len(ids), 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (number, wnid) in enumerate(ids.items()):
        synsets[row, 0] = (number, wnid, f"class {number}")
    savemat(data / "meta.mat", {"synsets": synsets})


def voc07(root: Path, photos: Mapping[str, tuple[Drawn, Sequence[tuple[str, int, bool]]]]) -> Path:
    """VOCdevkit/VOC2007: objects are (class, number of the rectangle, difficult); XML corners count from 1."""
    home = root / "VOCdevkit" / "VOC2007"
    for number, (drawn, objects) in photos.items():
        save_jpeg(home / "JPEGImages" / f"{number}.jpg", drawn)
        marks = [
            (name, (left + 1, top + 1, right, bottom), difficult)
            for name, rectangle, difficult in objects
            for left, top, right, bottom in [drawn.rectangles[rectangle]]
        ]
        write(home / "Annotations" / f"{number}.xml", voc_xml(f"{number}.jpg", drawn.size, marks))
    write(home / "ImageSets" / "Main" / "test.txt", "".join(f"{number}\n" for number in photos))
    return home


def coco14(
    root: Path,
    photos: Mapping[str, tuple[Drawn, Sequence[tuple[int, int, bool]]]],
    categories: Mapping[int, str],
) -> Path:
    """val2014 and its JSON: objects are (category, rectangle, crowd); crowds are run lengths, others polygons."""
    images, marks = [], []
    for image_id, (name, (drawn, objects)) in enumerate(photos.items(), start=7):
        save_jpeg(root / "val2014" / name, drawn)
        width, height = drawn.size
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for category, rectangle, crowd in objects:
            left, top, right, bottom = drawn.rectangles[rectangle]
            mask = np.zeros((height, width), dtype=bool)
            mask[top:bottom, left:right] = True
            polygon = [left, top, right, top, right, bottom, left, bottom]
            marks.append(
                {
                    "id": len(marks) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": int(crowd),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)} if crowd else [polygon],
                }
            )
    content = {
        "info": {},
        "images": images,
        "annotations": marks,
        "categories": [{"id": key, "name": name, "supercategory": "s"} for key, name in categories.items()],
    }
    return write(root / "annotations" / "instances_val2014.json", json.dumps(content))


def run_lengths(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    """COCO's uncompressed code: lengths of runs down the columns, the first of zeros."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes])).tolist()


def imagenet_segmentation(path: Path, photos: Mapping[str, Drawn], *, names: bool = True) -> Path:
    """gtsegs_ijcv.mat as MATLAB 7.3 writes it: axes reversed, references to photos, to cells of masks and to names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = h5py.ref_dtype
    with h5py.File(path, "w", userblock_size=512) as file:
        store = file.create_group("#refs#")
        columns = {
            key: file.create_dataset(f"value/{key}", (len(photos), 1), dtype=kind)
            for key in ("img", "gt", *(["id"] if names else []))
        }
        for row, (name, drawn) in enumerate(photos.items()):
            width, height = drawn.size
            image = store.create_dataset(f"img{row}", data=pixels(drawn).transpose(2, 1, 0))
            cell = store.create_dataset(f"cell{row}", (1, len(drawn.rectangles)), dtype=kind)
            for column, (left, top, right, bottom) in enumerate(drawn.rectangles):
                mask = np.zeros((width, height), dtype=np.uint8)
                mask[left:right, top:bottom] = 1
                cell[0, column] = store.create_dataset(f"gt{row}_{column}", data=mask).ref
            columns["img"][row, 0], columns["gt"][row, 0] = image.ref, cell.ref
            if names:
                codes = np.array([[ord(letter)] for letter in name], dtype=np.uint16)
                columns["id"][row, 0] = store.create_dataset(f"id{row}", data=codes).ref
    return path
