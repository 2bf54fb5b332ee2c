"""ImageNet-Segmentation: 4,276 photos with masks, in one HDF5 file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classes import LEFT_OUT, ClassTable, class_index, imagenet_table
from .folders import contents
from .sample import Sample

_FILE = "gtsegs_ijcv.mat"


@dataclass(frozen=True, kw_only=True)
class ImageNetSegmentation:
    """Photos and masks of one file, opened anew for each: a handle does not survive the way to a worker process.

    positions: each sample's place in the file, by its name.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    positions: dict[str, int]
    has_regions: bool = True
    classes: int | None = None

    def pixels(self, sample: Sample) -> Tensor | None:
        """MATLAB's (3, w, h) or, for grey photos, (w, h), the other way round."""
        with _h5py().File(sample.path, "r") as file:
            values = np.asarray(file[file["value/img"][self.positions[sample.name], 0]])
        if values.dtype != np.uint8 or not (values.ndim == 2 or (values.ndim == 3 and len(values) == 3)):
            raise ValueError(
                f"{sample.path}: photo {sample.name} is {values.dtype} {values.shape}, not uint8 (3, w, h)"
            )
        pixels = torch.from_numpy(values).transpose(-1, -2)
        return pixels.expand(3, -1, -1).contiguous()

    def mask(self, sample: Sample) -> Tensor | None:
        """The object; several masks of a photo count together."""
        with _h5py().File(sample.path, "r") as file:
            cell = file[file["value/gt"][self.positions[sample.name], 0]]
            masks = [np.asarray(file[reference]) != 0 for reference in np.asarray(cell).flat]
        return torch.from_numpy(np.logical_or.reduce(masks)).T.contiguous()


def open_imagenet_segmentation(root: Path, *, classes: ClassTable | None = None) -> ImageNetSegmentation:
    """ImageNet-Segmentation (Guillaumin, Kuettel, Ferrari 2014): `root`, or in it, gtsegs_ijcv.mat (MATLAB 7.3).

    value/img and value/gt hold references to the photos and to cells of masks, value/id the photos' names, such as
    n02105855_2933: the WordNet id before the underscore is the class.

    Raises:
        ValueError: the file is missing or cannot be read as this, or a class is not in the table.
        ModuleNotFoundError: h5py is not installed.
    """
    table = imagenet_table() if classes is None else classes
    path = root / _FILE if root.is_dir() else root
    if not path.is_file():
        found = f"; found {contents(root)}" if root.is_dir() else ""
        raise ValueError(f"data set imagenet-segmentation: {path} does not exist{found}. Download {_FILE} there")
    try:
        with _h5py().File(path, "r") as file:
            counts = {key: len(file[f"value/{key}"]) for key in ("img", "gt")}
            names = _names(file, counts["img"])
    # KeyError: no such entry; TypeError, ValueError: not references; OSError, RuntimeError: no HDF5, or cut off.
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be read as ImageNet-Segmentation ({error}): value/img and value/gt were expected. Download "
            f"{_FILE} again"
        ) from error
    if counts["img"] != counts["gt"] or not names:
        raise ValueError(f"{path} has {counts['img']} photos and {counts['gt']} masks; download {_FILE} again")
    labels = {name: _label(name, table, path) for name in names}
    samples = tuple(
        Sample(name=name, path=path, label=labels[name], upright=False) for name in names if labels[name] != LEFT_OUT
    )
    positions = {name: position for position, name in enumerate(names)}
    return ImageNetSegmentation(
        name="imagenet-segmentation",
        root=root,
        samples=samples,
        positions=positions,
        classes=len(table) if classes is None else None,
    )


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ModuleNotFoundError(
            "ImageNet-Segmentation is read by h5py, which is not installed: pip install 'fastcam[eval]'"
        ) from error
    return h5py


def _names(file: Any, count: int) -> list[str]:
    """The photos' names, each once; their numbers where the file has no names."""
    if "value/id" not in file:
        return [f"{position:04d}" for position in range(count)]
    found = ["".join(map(chr, np.asarray(file[file["value/id"][i, 0]]).flat)).strip() for i in range(count)]
    twice = len(set(found)) < count
    return [f"{name}#{position}" if twice else name for position, name in enumerate(found)]


def _label(name: str, table: ClassTable, path: Path) -> int | None:
    wnid = re.match(r"n\d{8}", name)
    return None if wnid is None else class_index(wnid[0], table, where=f"{path}, photo {name}")
